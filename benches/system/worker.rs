//! The release binary as a child process.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use user_events_worker::observe::names;

use crate::schema::Schema;
use crate::services::Services;

pub(crate) struct Worker {
    child: Child,
    http: SocketAddr,
}

/// What a worker says of itself at `/metrics`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    pub(crate) batches: f64,
    pub(crate) records: f64,
    pub(crate) partitions: f64,
}

impl Account {
    pub(crate) fn add(&mut self, other: &Self) {
        self.batches += other.batches;
        self.records += other.records;
        self.partitions += other.partitions;
    }
}

impl Worker {
    /// In the group that has the schema's name, otherwise by default but for `lanes`.
    pub(crate) fn start(
        services: &Services,
        schema: &Schema,
        topic: &str,
        lanes: Option<usize>,
    ) -> Result<Self> {
        let http = free_address()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_user-events-worker"));
        if let Some(lanes) = lanes {
            command.env("WORKER_BATCH__LANES", lanes.to_string());
        }
        let child = command
            .arg("run")
            .env("WORKER_KAFKA__BOOTSTRAP_SERVERS", &services.brokers)
            .env("WORKER_KAFKA__TOPICS", topic)
            .env("WORKER_KAFKA__GROUP_ID", &schema.name)
            .env("WORKER_POSTGRES__URL", schema.config.postgres.url.expose())
            .env("WORKER_POSTGRES__SCHEMA", &schema.name)
            .env("WORKER_HTTP__LISTEN", http.to_string())
            .env("WORKER_LOG__LEVEL", "warn")
            .stdin(Stdio::null())
            .spawn()
            .context("starting the worker")?;
        Ok(Self { child, http })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it says that every partition stands, for whoever wants to know why it is stuck.
    pub(crate) async fn status(&self) -> String {
        let answer =
            async { reqwest::get(format!("http://{}/status", self.http)).await?.text().await };
        answer.await.unwrap_or_else(|error| format!("no status: {error}"))
    }

    pub(crate) async fn account(&self) -> Result<Account> {
        let url = format!("http://{}/metrics", self.http);
        let text = reqwest::get(url).await?.error_for_status()?.text().await?;
        let batch_events = names::BATCH_EVENTS;
        Ok(Account {
            batches: total(&text, &format!("{batch_events}_count")),
            records: total(&text, &format!("{batch_events}_sum")),
            partitions: total(&text, names::PARTITIONS_ASSIGNED),
        })
    }
}

/// The sum of a metric over its labels.
fn total(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.split_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    values.sum()
}

/// One that nobody listens on just now: the worker binds it in a moment.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself, and said why.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
