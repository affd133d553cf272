//! The demo's live display.

use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar};

use super::backlog::Totals;
use crate::commands::produce::progress::{Lines, bar};

/// Two bars on a terminal, a line now and then elsewhere.
pub struct Display {
    bars: MultiProgress,
    produced: ProgressBar,
    applied: ProgressBar,
    lines: Lines,
    before: (Instant, u64),
}

impl Display {
    /// Expects this many records in all.
    pub fn new(records: u64) -> Self {
        let bars = MultiProgress::new();
        Self {
            produced: bars.add(bar(records, "produced")),
            applied: bars.add(bar(records, "applied")),
            bars,
            lines: Lines::new(),
            before: (Instant::now(), 0),
        }
    }

    /// Shows how far things are.
    pub fn show(&mut self, totals: Totals) {
        self.produced.set_position(totals.produced);
        self.applied.set_position(totals.applied);
        self.applied.set_message(format!("lag {}", totals.lag()));
        let before = &mut self.before;
        self.lines.maybe(|| {
            let (since, applied) = std::mem::replace(before, (Instant::now(), totals.applied));
            let rate =
                totals.applied.saturating_sub(applied) as f64 / since.elapsed().as_secs_f64();
            let Totals { produced, applied } = totals;
            format!("produced {produced}, applied {applied}, lag {}, {rate:.0}/s", totals.lag())
        });
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        // A display that cannot be cleared is no reason to fail.
        self.bars.clear().ok();
    }
}
