//! What a fault cost: how long until all was applied again, and what the workers took meanwhile.
//!
//! Every row of `docs/reliability.md` is measured here and nowhere else. When
//! `USER_EVENTS_MEASURED` names a file, each fault adds a line of JSON to it, of which
//! `scripts/reliability-table` makes the table.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use super::watched::Since;
use super::{Scene, Worker, WorkerBuilder};

/// How long after a fault has ended everything must be applied again.
const RECOVERY: Duration = Duration::from_secs(30);

/// A fault that has begun.
#[must_use = "a fault is measured when it ends"]
pub struct Fault {
    row: u8,
    name: String,
    since: Since,
    recovery: (Duration, &'static str),
}

impl Scene {
    /// A fault begins: the row of the matrix, and what happens.
    pub fn fault(&self, row: u8, name: impl Into<String>) -> Fault {
        let (name, since) = (name.into(), self.crew.meets_a_fault());
        Fault { row, name, since, recovery: (RECOVERY, "as every fault") }
    }
}

impl Fault {
    /// It takes longer than others to recover from, for a reason.
    pub fn within(self, recovery: Duration, why: &'static str) -> Self {
        Self { recovery: (recovery, why), ..self }
    }

    /// It ends at this moment: waits until all that was produced before is applied.
    pub async fn ends(self, scene: &Scene) -> Duration {
        self.ended(Instant::now(), scene).await
    }

    /// The same, of a fault that ended by itself, or bit by bit.
    pub async fn ended(self, at: Instant, scene: &Scene) -> Duration {
        let ends = scene.ends().await;
        scene.passes(&ends).await;
        let back = at.elapsed();
        let (most, why) = self.recovery;
        assert!(
            back < most,
            "{}: back after {back:?}; below {most:?} are allowed: {why}",
            self.name
        );
        self.measured(Some(back));
        back
    }

    /// It ends as this worker is started, which has all of it to catch up with.
    pub async fn ends_with(self, worker: &WorkerBuilder, scene: &Scene) -> Worker {
        let (worker, _) = tokio::join!(worker.start(), self.ends(scene));
        worker
    }

    /// Nothing is to be caught up with afterwards: only what the workers took is of interest.
    pub fn over(self) {
        self.measured(None);
    }

    fn measured(self, back: Option<Duration>) {
        let (peak, lines) = (self.since.peak_mib(), self.since.lines());
        write_down(self.row, &self.name, back, peak, lines);
    }
}

/// Prints a measurement, and adds it to the file that `USER_EVENTS_MEASURED` names.
pub fn write_down(
    row: u8,
    fault: &str,
    back: Option<Duration>,
    peak_mib: Option<u64>,
    log_lines: Option<usize>,
) {
    let line = json!({
        "row": row,
        "fault": fault,
        "test": std::thread::current().name(),
        "back_seconds": back.map(|back| (back.as_secs_f64() * 100.0).round() / 100.0),
        "peak_mib": peak_mib,
        "log_lines": log_lines,
    });
    eprintln!("measured: {line}");
    if let Some(path) = std::env::var_os("USER_EVENTS_MEASURED") {
        // One write of one line: tests of other processes append to it, too.
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}
