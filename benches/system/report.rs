//! What was measured, for people and for programs.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::drain::Drain;
use super::steady::Steady;

#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) count: u64,
    pub(crate) partitions: i32,
    pub(crate) drains: Vec<Drain>,
    pub(crate) steady: Steady,
}

impl Report {
    pub(crate) fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(self)?)?;
        eprintln!("saved to {}", path.display());
        Ok(())
    }

    /// Median of the drains.
    fn median(&self, field: impl Fn(&Drain) -> f64) -> f64 {
        let mut values: Vec<f64> = self.drains.iter().map(field).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "drain of {} records on {} partitions", self.count, self.partitions)?;
        writeln!(f, "  run  events/s  cpu us/event  peak rss MiB")?;
        for (run, drain) in self.drains.iter().enumerate() {
            let Drain { events_per_second, cpu_micros_per_event, peak_rss_mib } = drain;
            writeln!(
                f,
                "  {:>3}  {events_per_second:>8.0}  {cpu_micros_per_event:>12.2}  {peak_rss_mib:>12.1}",
                run + 1
            )?;
        }
        writeln!(
            f,
            "  median {:.0} events/s, {:.2} us/event, {:.1} MiB",
            self.median(|d| d.events_per_second),
            self.median(|d| d.cpu_micros_per_event),
            self.median(|d| d.peak_rss_mib),
        )?;
        let Steady { rate, samples, p50_ms, p99_ms, p999_ms, max_ms, peak_rss_mib } = &self.steady;
        writeln!(f, "produced to visible at {rate} records/s ({samples} samples)")?;
        write!(
            f,
            "  p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, p99.9 {p999_ms:.1} ms, max {max_ms:.1} ms; peak rss {peak_rss_mib:.1} MiB"
        )
    }
}
