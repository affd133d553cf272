//! Kafka and Postgres for a benchmark: durable, and started by the project's own script.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sqlx::{Connection, PgConnection};

use crate::usage;

pub(crate) struct Services {
    dir: PathBuf,
    pub(crate) brokers: String,
    pub(crate) database_url: String,
}

impl Services {
    pub(crate) fn start() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("user-events-bench-{}", std::process::id()));
        let run = |args: &[&str]| {
            Command::new("scripts/services").args(args).arg("--dir").arg(&dir).output()
        };
        let up =
            run(&["up", "--fsync", "on", "--jit", "full"]).context("running scripts/services")?;
        ensure!(
            up.status.success(),
            "services did not start: {}",
            String::from_utf8_lossy(&up.stderr)
        );
        let env = String::from_utf8(run(&["env"])?.stdout)?;
        let value = |name: &str| {
            env.lines()
                .find_map(|line| {
                    line.strip_prefix("export ")?.strip_prefix(name)?.strip_prefix('=')
                })
                .map(|value| value.trim_matches(['\'', '"']).to_owned())
                .with_context(|| format!("{name} is not in the environment of the services"))
        };
        Ok(Self {
            brokers: value("KAFKA_BOOTSTRAP_SERVERS")?,
            database_url: value("DATABASE_URL")?,
            dir,
        })
    }

    /// A name that nothing has yet: for a topic, a group or a schema.
    pub(crate) fn fresh_name(&self) -> String {
        format!("bench_{:016x}", rand::random::<u64>())
    }

    /// CPU seconds of all of Postgres so far; unknown where it was not started here.
    pub(crate) fn postgres_cpu(&self) -> Result<Option<f64>> {
        self.pid("postgres").map(usage::cpu_seconds_of_family).transpose()
    }

    /// CPU seconds of the broker so far; unknown where it was not started here.
    pub(crate) fn broker_cpu(&self) -> Result<Option<f64>> {
        self.pid("kafka").map(usage::cpu_seconds).transpose()
    }

    fn pid(&self, service: &str) -> Option<u32> {
        usage::recorded_pid(&self.dir.join(format!("{service}.pid")))
    }

    /// Writes out what earlier runs left to write, so that they do not weigh on the next.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let mut conn = PgConnection::connect(&self.database_url).await?;
        sqlx::raw_sql("CHECKPOINT").execute(&mut conn).await?;
        Ok(conn.close().await?)
    }

    /// A new topic; answers its name, which is also used for group and schema.
    pub(crate) async fn topic(&self, partitions: i32) -> Result<String> {
        let name = self.fresh_name();
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for result in self.admin()?.create_topics([&topic], &options).await? {
            result.map_err(|(topic, error)| anyhow::anyhow!("creating {topic}: {error}"))?;
        }
        self.settled(&name, partitions).await?;
        Ok(name)
    }

    /// Waits until the broker knows of a topic that its controller has made.
    async fn settled(&self, topic: &str, partitions: i32) -> Result<()> {
        let admin = self.admin()?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let metadata = admin.inner().fetch_metadata(Some(topic), Duration::from_secs(10))?;
            let led = metadata.topics().iter().flat_map(|topic| topic.partitions());
            if led.filter(|partition| partition.leader() >= 0).count()
                == usize::try_from(partitions)?
            {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "topic {topic} has no leaders");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Gives a topic's disk space back.
    pub(crate) async fn drop_topic(&self, name: &str) -> Result<()> {
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for result in self.admin()?.delete_topics(&[name], &options).await? {
            result.map_err(|(topic, error)| anyhow::anyhow!("deleting {topic}: {error}"))?;
        }
        Ok(())
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(ClientConfig::new().set("bootstrap.servers", &self.brokers).create()?)
    }

    /// The sum of the ends of all partitions.
    pub(crate) fn end(&self, topic: &str, partitions: i32) -> Result<i64> {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create()?;
        (0..partitions)
            .map(|p| Ok(consumer.fetch_watermarks(topic, p, Duration::from_secs(10))?.1))
            .sum()
    }

    pub(crate) fn producer_properties(&self) -> std::collections::BTreeMap<String, String> {
        [
            ("bootstrap.servers", self.brokers.as_str()),
            ("enable.idempotence", "true"),
            ("compression.type", "lz4"),
            ("linger.ms", "2"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        let down =
            Command::new("scripts/services").arg("down").arg("--dir").arg(&self.dir).output();
        if let Err(error) = down {
            eprintln!("services in {} were not stopped: {error}", self.dir.display());
        }
    }
}
