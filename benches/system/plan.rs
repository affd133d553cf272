//! How much of everything: a quick selection, or the whole.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Of every topic, unless partitions are what is measured.
pub(crate) const PARTITIONS: i32 = 12;

/// Measures the worker against a Kafka and a Postgres of its own. Figures depend on the machine:
/// compare only within one run.
#[derive(Parser)]
pub(crate) struct Args {
    /// The whole, which takes hours: 2,000,000 events a drain, five runs of each case, a ledger of
    /// up to 50 million rows (30 GB of disk)
    #[arg(long)]
    full: bool,
    /// A selection that takes at most ten minutes once it is built: 400,000 events a drain, a
    /// ledger of up to 10 million rows (8 GB of disk). The default
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Scenarios to run, comma-separated [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Runs of each case, of which the median counts [default: 1 to 3 with --quick, 5 with --full]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    runs: Option<u16>,
    /// Events of a drain, and of `limit` [default: 400000 with --quick, 2000000 with --full]
    #[arg(long, value_parser = clap::value_parser!(u64).range(20_000..))]
    count: Option<u64>,
    /// Rows in the ledger before a drain, for `growth`, comma-separated
    /// [default: 0,10000000; with --full also 50000000]
    #[arg(long, value_delimiter = ',')]
    rows: Option<Vec<u64>>,
    /// Seconds of each steady load [default: 10 with --quick, 60 with --full]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Where tables (results.md), figures (NAME.json) and plots (NAME.svg) go
    #[arg(long, default_value = "target/bench")]
    pub(crate) out: PathBuf,
    /// `cargo bench` passes this on; it means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// The same events from memory, without Kafka: what Postgres takes at best
    Limit,
    /// How fast a preloaded backlog is applied
    Drain,
    /// From produced to visible, at given rates
    Steady,
    /// Drain into a ledger that is large already, and from few and many partitions
    Growth,
    /// Drain with every round trip to Postgres made longer
    Distance,
    /// Drain of records that came before
    Duplicates,
    /// Drain by several workers in one group
    ScaleOut,
}

/// What the arguments come to.
pub(crate) struct Plan {
    only: Vec<Scenario>,
    pub(crate) events: u64,
    /// Of `limit` and `drain`, which are compared.
    pub(crate) runs: usize,
    pub(crate) other_runs: usize,
    pub(crate) steady_runs: usize,
    pub(crate) steady_seconds: u64,
    pub(crate) ledger_rows: Vec<u64>,
    /// Besides [`PARTITIONS`].
    pub(crate) partitions: Vec<i32>,
    /// Milliseconds.
    pub(crate) distances: Vec<u64>,
}

impl Plan {
    pub(crate) fn wants(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.contains(&scenario)
    }
}

impl From<&Args> for Plan {
    fn from(args: &Args) -> Self {
        let mut plan = if args.full { full() } else { quick() };
        plan.only.clone_from(&args.only);
        if let Some(runs) = args.runs.map(usize::from) {
            (plan.runs, plan.other_runs, plan.steady_runs) = (runs, runs, runs);
        }
        plan.events = args.count.unwrap_or(plan.events);
        plan.steady_seconds = args.seconds.unwrap_or(plan.steady_seconds);
        plan.ledger_rows = args.rows.clone().unwrap_or(plan.ledger_rows);
        plan
    }
}

fn quick() -> Plan {
    Plan {
        only: Vec::new(),
        events: 400_000,
        runs: 3,
        other_runs: 1,
        steady_runs: 1,
        steady_seconds: 10,
        ledger_rows: vec![0, 10_000_000],
        partitions: vec![1, 96],
        distances: vec![0, 5],
    }
}

fn full() -> Plan {
    Plan {
        only: Vec::new(),
        events: 2_000_000,
        runs: 5,
        other_runs: 5,
        steady_runs: 5,
        steady_seconds: 60,
        ledger_rows: vec![0, 10_000_000, 50_000_000],
        partitions: vec![1, 96],
        distances: vec![0, 1, 5, 50],
    }
}
