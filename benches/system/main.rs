//! The whole system measured from outside: a real Kafka, a real Postgres with fsync on, the release
//! binary. Run by `make bench`; every scenario says in its file what it is.
#![allow(missing_docs)]

mod drain;
mod limit;
mod report;
mod schema;
mod services;
mod steady;
mod usage;
mod worker;
mod workload;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use report::Table;
use services::Services;

/// Measures the worker. Figures depend on the machine: compare only within one run.
#[derive(Parser)]
struct Args {
    /// Scenarios to run, comma-separated [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Events of a drain.
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 12)]
    partitions: i32,
    /// Runs of each case; the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Records per second of the steady load.
    #[arg(long, default_value_t = 2_000)]
    rate: u64,
    /// Seconds of the steady load.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// `cargo bench` passes this on; it means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// The same events from memory, without Kafka: what Postgres takes at best
    Limit,
    /// How fast a preloaded backlog is applied
    Drain,
    /// From produced to visible, at given rates
    Steady,
}

impl Args {
    fn wants(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.contains(&scenario)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let services = Services::start()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(&args, &services))
}

async fn run(args: &Args, services: &Services) -> Result<()> {
    if args.wants(Scenario::Limit) {
        let limit = limit::measure(services, args.count, args.runs).await?;
        report::save("limit", &limit)?;
        println!("{}", limit.table());
    }
    if args.wants(Scenario::Drain) {
        let mut table = Table::new("drain", &["events/s", "worker CPU us/event", "peak RSS MiB"]);
        for _ in 0..args.runs {
            let drain = drain::measure(services, args.count, args.partitions).await?;
            table.row([
                format!("{:.0}", drain.events_per_second),
                format!("{:.2}", drain.cpu_micros_per_event),
                format!("{:.1}", drain.peak_rss_mib),
            ]);
        }
        println!("{table}");
    }
    if args.wants(Scenario::Steady) {
        let steady = steady::measure(services, args.rate, args.seconds, args.partitions).await?;
        println!("{}", serde_json::to_string_pretty(&steady)?);
    }
    Ok(())
}
