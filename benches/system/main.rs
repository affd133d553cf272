//! The whole system measured from outside: a real Kafka, a real Postgres with fsync on, the release
//! binary. Run by `make bench`.
//!
//! - drain: how fast a preloaded backlog is applied, what it costs in CPU and memory;
//! - steady: how long a record takes from being produced to being visible in Postgres.
#![allow(missing_docs)]

mod drain;
mod report;
mod services;
mod steady;
mod worker;

use anyhow::Result;
use clap::Parser;

use services::Services;

/// Measures the worker. Figures depend on the machine: compare only within one run.
#[derive(Parser)]
struct Args {
    /// Records of the backlog.
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 12)]
    partitions: i32,
    /// Runs of the drain; the median counts.
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

fn main() -> Result<()> {
    let args = Args::parse();
    let services = Services::start()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(async {
        let mut drains = Vec::new();
        for run in 0..args.runs {
            eprintln!("drain {} of {}: {} records", run + 1, args.runs, args.count);
            drains.push(drain::measure(&services, args.count, args.partitions).await?);
        }
        eprintln!("steady: {} records/s for {} s", args.rate, args.seconds);
        let steady = steady::measure(&services, args.rate, args.seconds, args.partitions).await?;
        anyhow::Ok(report::Report {
            count: args.count,
            partitions: args.partitions,
            drains,
            steady,
        })
    })?;
    println!("{report}");
    report.save("target/bench/system.json")
}
