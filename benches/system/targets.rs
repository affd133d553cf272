//! What the worker is meant to reach, held against what was measured.

use crate::distance::Distance;
use crate::drain::Drain;
use crate::duplicates::Duplicates;
use crate::growth::Growth;
use crate::limit::{Limit, Way};
use crate::report::Table;
use crate::steady::Steady;
use crate::workload::Mix;

/// Whatever was measured in this run.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) limit: Option<Limit>,
    pub(crate) drain: Option<Drain>,
    pub(crate) steady: Option<Steady>,
    pub(crate) growth: Option<Growth>,
    pub(crate) distance: Option<Distance>,
    pub(crate) duplicates: Option<Duplicates>,
}

impl Measured {
    /// Events per second of a drain as the worker is by default.
    pub(crate) fn drain_rate(&self) -> Option<f64> {
        self.drained(Mix::Even, None)
    }

    /// Medians against targets; what was not measured is left out.
    pub(crate) fn table(&self) -> Table {
        let mut targets = Targets(Table::new("targets", &["target", "measured", "met"]));
        self.speed(&mut targets);
        self.costs(&mut targets);
        self.steadiness(&mut targets);
        targets.0
    }

    fn speed(&self, targets: &mut Targets) {
        for mix in [Mix::Even, Mix::Profile] {
            let label = mix.label();
            let share = self.drained(mix, Some(1)).zip(self.limit_of(mix, Way::Worker, 1));
            targets.at_least(&format!("drain / limit, one connection, {label}"), share, 0.85);
            let share = self.drained(mix, None).zip(self.limit_of(mix, Way::Worker, 2));
            targets.at_least(
                &format!("drain by default / limit, two connections, {label}"),
                share,
                0.7,
            );
        }
        let limit = self.limit_of(Mix::Even, Way::Worker, 1);
        let plain = self.limit_of(Mix::Even, Way::Plain, 1);
        targets.at_least("limit / plain pair, one connection", limit.zip(plain), 1.25);
    }

    fn costs(&self, targets: &mut Targets) {
        let default = self.drain.iter().flat_map(|drain| &drain.0);
        let default =
            default.into_iter().find(|c| c.setting.mix == Mix::Even && c.setting.lanes.is_none());
        let cpu = default.map(|case| case.median(|run| run.worker_cpu_micros));
        targets.at_most("worker CPU us/event, drain", cpu, 4.0);
        let rss = default.map(|case| case.median(|run| run.peak_rss_mib));
        targets.at_most("peak RSS MiB, drain, 12 partitions", rss, 64.0);
        let wide = self.growth.iter().flat_map(|growth| &growth.0);
        let wide = wide.into_iter().find(|case| case.setting.partitions == 96);
        let rss = wide.map(|case| case.median(|run| run.peak_rss_mib));
        targets.at_most("peak RSS MiB, drain, 96 partitions", rss, 96.0);
    }

    fn steadiness(&self, targets: &mut Targets) {
        let steady = self.steady.iter().flat_map(|steady| &steady.0);
        let steady = steady.into_iter().find(|case| case.setting.rate == 5_000);
        let p99 = steady.map(|case| case.median(|run| run.p99_ms));
        targets.at_most("p99 ms from produced to visible at 5,000 events/s", p99, 50.0);
        for rows in [10_000_000, 50_000_000] {
            let share = self.with_ledger(rows).zip(self.with_ledger(0));
            targets.at_least(&format!("drain with {rows} rows / with none"), share, 0.85);
        }
        let share = self.at_distance(5).zip(self.at_distance(0));
        targets.at_least("drain at 5 ms of distance / at none", share, 0.7);
        let share = self.redelivered(100).zip(self.redelivered(0));
        targets.at_least("drain of 100 % redelivered / of fresh", share, 2.0);
    }

    fn limit_of(&self, mix: Mix, way: Way, connections: usize) -> Option<f64> {
        let case = self.limit.as_ref()?.0.iter().find(|case| {
            let setting = case.setting;
            (setting.mix, setting.way, setting.connections) == (mix, way, connections)
        })?;
        Some(case.median(|run| run.events_per_second))
    }

    fn drained(&self, mix: Mix, lanes: Option<usize>) -> Option<f64> {
        let drain = self.drain.as_ref()?;
        let case =
            drain.0.iter().find(|case| (case.setting.mix, case.setting.lanes) == (mix, lanes));
        Some(case?.median(|run| run.events_per_second))
    }

    fn with_ledger(&self, rows: u64) -> Option<f64> {
        let case = self.growth.as_ref()?.0.iter().find(|case| case.setting.rows == rows);
        Some(case?.median(|run| run.events_per_second))
    }

    fn at_distance(&self, milliseconds: u64) -> Option<f64> {
        let distance = self.distance.as_ref()?;
        let case = distance.0.iter().find(|case| case.setting.milliseconds == milliseconds);
        Some(case?.median(|run| run.events_per_second))
    }

    fn redelivered(&self, percent: u8) -> Option<f64> {
        let case = self.duplicates.as_ref()?.0.iter().find(|case| case.setting.percent == percent);
        Some(case?.median(|run| run.events_per_second))
    }
}

struct Targets(Table);

impl Targets {
    fn at_least(&mut self, what: &str, share: Option<(f64, f64)>, least: f64) {
        let Some(share) = share.map(|(ours, theirs)| ours / theirs) else { return };
        self.row(format!("{what}: at least {least}"), format!("{share:.2}"), share >= least);
    }

    fn at_most(&mut self, what: &str, value: Option<f64>, most: f64) {
        let Some(value) = value else { return };
        self.row(format!("{what}: at most {most}"), format!("{value:.1}"), value <= most);
    }

    fn row(&mut self, target: String, measured: String, met: bool) {
        self.0.row([target, measured, if met { "yes" } else { "no" }.to_owned()]);
    }
}
