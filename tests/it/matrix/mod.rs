//! The fault matrix: rows that no other test covers, each on a real Kafka and a real Postgres.
//! `docs/reliability.md` lists them all. Every test proves that its fault was there, holds what an
//! independent producer wrote against Postgres, bounds the log, and prints how long recovery took.
//!
//! What takes longer than about 20 s is named `long_..`.

mod clocks;
mod cluster;
mod compaction;
mod disk_full;
mod lost_commits;
mod mock;
mod network;
mod payloads;
mod pgbouncer;
mod slow_database;
mod storm;
mod transactions;
mod twins;

use std::time::{Duration, Instant};

use crate::support::{Scene, Worker, eventually};

/// How long after a fault has ended everything must be applied again.
const RECOVERY: Duration = Duration::from_secs(30);

impl Scene {
    /// Waits until all that was produced before `healed` is applied; prints and answers how long
    /// after it that was.
    async fn recovers(&self, what: &str, healed: Instant) -> Duration {
        let ends = self.ends().await;
        self.passes(&ends).await;
        let took = healed.elapsed();
        eprintln!("{what}: recovered within {took:?}");
        assert!(took < RECOVERY, "{what}: {took:?} to recover");
        took
    }
}

/// A worker's log from here on.
struct Since {
    lines: usize,
    from: Instant,
}

impl Since {
    fn now(worker: &Worker) -> Self {
        Self { lines: worker.log().lines().count(), from: Instant::now() }
    }

    /// A fault may say a few things at once, and each of them again every 10 s.
    fn is_quiet(&self, what: &str, worker: &Worker) {
        let lines = worker.log().lines().count() - self.lines;
        let allowed = 20 + 4 * (self.from.elapsed().as_secs() as usize / 10);
        eprintln!("{what}: {lines} log lines, {} MiB resident", worker.resident_mib());
        assert!(lines <= allowed, "{what}: {lines} log lines\n{}", worker.log());
    }
}

/// Waits until the worker itself reports a lag of zero for so many partitions.
async fn no_lag(worker: &Worker, partitions: usize) {
    eventually("the worker reports no lag", async || {
        let status = worker.status().await;
        let rows = status["partitions"].as_array()?;
        let none = rows.len() == partitions && rows.iter().all(|row| row["lag_records"] == 0);
        none.then_some(())
    })
    .await;
}
