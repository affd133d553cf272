//! Shows how a proof gets on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::watch::Watch;
use crate::commands::produce::progress::{Lines, bar};

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A bar on a terminal, a line now and then elsewhere. Gone when dropped.
pub struct Progress {
    bar: ProgressBar,
    task: JoinHandle<()>,
}

impl Progress {
    /// Shows the numbers of acknowledged and applied records, of about `expected`.
    pub fn show(watch: Watch, acknowledged: Arc<AtomicU64>, expected: u64) -> Self {
        let bar = bar(expected, "produced");
        let shown = bar.clone();
        let task = tokio::spawn(async move {
            let mut lines = Lines::new();
            loop {
                // Postgres may be away just now.
                if let Ok(claims) = watch.claims().await {
                    let passed: i64 = claims.iter().filter_map(|claim| claim.next_offset).sum();
                    let produced = acknowledged.load(Ordering::Relaxed);
                    shown.set_position(produced);
                    shown.set_message(format!("workers at {passed}"));
                    lines.maybe(|| format!("produced {produced}, workers at {passed}"));
                }
                sleep(LOOK_EVERY).await;
            }
        });
        Self { bar, task }
    }

    /// Says something above the bar.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}
