//! The release binary as a child process, and what the kernel says it used.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::services::Services;

/// Clock ticks per second of `/proc/PID/stat` (Linux: always 100 for user space).
const TICKS: f64 = 100.0;

pub(crate) struct Worker {
    child: Child,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) peak_rss_kib: u64,
}

impl Worker {
    pub(crate) fn start(services: &Services, topic: &str) -> Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_user-events-worker"))
            .arg("run")
            .env("WORKER_KAFKA__BOOTSTRAP_SERVERS", &services.brokers)
            .env("WORKER_KAFKA__TOPICS", topic)
            .env("WORKER_KAFKA__GROUP_ID", topic)
            .env("WORKER_POSTGRES__URL", &services.database_url)
            .env("WORKER_POSTGRES__SCHEMA", topic)
            .env("WORKER_HTTP__LISTEN", "127.0.0.1:0")
            .env("WORKER_LOG__LEVEL", "warn")
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Self { child })
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        let pid = self.child.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
            .context("VmHWM")?;
        Ok(Usage {
            cpu: Duration::from_secs_f64(ticks / TICKS),
            peak_rss_kib: peak.trim().parse()?,
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
