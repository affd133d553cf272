//! The machine, in a line: figures mean nothing without it.

use std::fs;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use crate::services::Services;

#[derive(Serialize)]
pub(crate) struct Machine {
    date: String,
    commit: String,
    processor: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    postgres: String,
}

impl Machine {
    pub(crate) async fn look(services: &Services) -> Result<Self> {
        let mut conn = PgConnection::connect(&services.database_url).await?;
        let postgres = sqlx::query_scalar("SHOW server_version").fetch_one(&mut conn).await?;
        let kib = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
        Ok(Self {
            date: OffsetDateTime::now_utc().date().to_string(),
            commit: commit(),
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: kib / 1024 / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            postgres,
        })
    }
}

/// The first value of that name; empty where the kernel does not say.
fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let values = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    values.into_iter().next().unwrap_or_default()
}

fn commit() -> String {
    let described = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    described.map_or(String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { date, commit, processor, cores, memory_gib, kernel, postgres } = self;
        write!(
            f,
            "{date}, commit {commit}. {cores} cores ({processor}), {memory_gib} GiB, Linux {kernel}, shared by broker, \
             PostgreSQL {postgres} (its default configuration, fsync on), producer and worker."
        )
    }
}
