//! The whole system measured from outside: a real Kafka, a real Postgres with fsync on, the release
//! binary. Run by `make bench`; every scenario says in its file what it is.
#![allow(missing_docs)]

mod backlog;
mod distance;
mod drain;
mod draining;
mod duplicates;
mod growth;
mod limit;
mod machine;
mod plan;
mod proxy;
mod report;
mod scale_out;
mod schema;
mod services;
mod steady;
mod targets;
mod usage;
mod worker;
mod workload;

use anyhow::Result;
use clap::Parser;
use serde::Serialize;

use draining::Drained;
use limit::Limit;
use machine::Machine;
use plan::{Args, Plan, Scenario};
use report::plot::{self, Line};
use report::{Case, Report, Spread};
use services::Services;
use steady::Steady;
use targets::Measured;

fn main() -> Result<()> {
    let args = Args::parse();
    let services = Services::start()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(&args, &services))
}

async fn run(args: &Args, services: &Services) -> Result<()> {
    let plan = Plan::from(args);
    let mut report = Report::new(&args.out, &Machine::look(services).await?)?;
    let mut measured = Measured::default();
    if plan.wants(Scenario::Limit) {
        let limit = limit::measure(services, &plan).await?;
        plot_limit(&report, &limit)?;
        report.scenario("limit", &limit, &limit.table())?;
        measured.limit = Some(limit);
    }
    if plan.wants(Scenario::Drain) {
        let drain = drain::measure(services, &plan).await?;
        let name = |setting: &drain::Setting| match setting.lanes {
            Some(lanes) => format!("{}, {lanes} connection", setting.mix.label()),
            None => setting.mix.label().to_owned(),
        };
        plot_drains(&report, "drain", &drain.0, name)?;
        report.scenario("drain", &drain, &drain.table())?;
        measured.drain = Some(drain);
    }
    if plan.wants(Scenario::Steady) {
        let steady = steady::measure(services, &plan, measured.drain_rate()).await?;
        plot_steady(&report, &steady)?;
        report.scenario("steady", &steady, &steady.table())?;
        measured.steady = Some(steady);
    }
    if plan.wants(Scenario::Growth) {
        let growth = growth::measure(services, &plan).await?;
        let name = |s: &growth::Setting| format!("{} rows, {} partitions", s.rows, s.partitions);
        plot_drains(&report, "growth", &growth.0, name)?;
        report.scenario("growth", &growth, &growth.table())?;
        measured.growth = Some(growth);
    }
    if plan.wants(Scenario::Distance) {
        let distance = distance::measure(services, &plan).await?;
        plot_drains(&report, "distance", &distance.0, |s| format!("{} ms", s.milliseconds))?;
        report.scenario("distance", &distance, &distance.table())?;
        measured.distance = Some(distance);
    }
    if plan.wants(Scenario::Duplicates) {
        let duplicates = duplicates::measure(services, &plan).await?;
        let name = |setting: &duplicates::Setting| format!("{} % redelivered", setting.percent);
        plot_drains(&report, "duplicates", &duplicates.0, name)?;
        report.scenario("duplicates", &duplicates, &duplicates.table())?;
        measured.duplicates = Some(duplicates);
    }
    if plan.wants(Scenario::ScaleOut) {
        let scale_out = scale_out::measure(services, &plan).await?;
        plot_drains(&report, "scale-out", &scale_out.0, |s| format!("{} workers", s.workers))?;
        report.scenario("scale-out", &scale_out, &scale_out.table())?;
    }
    let targets = measured.table();
    if targets.is_empty() { Ok(()) } else { report.table(targets.to_string()) }
}

fn plot_limit(report: &Report, limit: &Limit) -> Result<()> {
    let bar = |case: &Case<limit::Setting, limit::Run>| {
        let limit::Setting { mix, way, connections, .. } = case.setting;
        let name = format!("{}: {}, {connections}", mix.short(), way.label());
        (name, case.spread(|run| run.events_per_second))
    };
    let bars: Vec<(String, Spread)> = limit.0.iter().map(bar).collect();
    plot::bars(&report.plot("limit"), "limit: events/s by statements and connections", &bars)
}

fn plot_drains<S: Serialize>(
    report: &Report,
    scenario: &str,
    cases: &[Case<S, Drained>],
    name: impl Fn(&S) -> String,
) -> Result<()> {
    let bar =
        |case: &Case<S, Drained>| (name(&case.setting), case.spread(|run| run.events_per_second));
    let bars: Vec<(String, Spread)> = cases.iter().map(bar).collect();
    plot::bars(&report.plot(scenario), &format!("{scenario}: events/s"), &bars)
}

fn plot_steady(report: &Report, steady: &Steady) -> Result<()> {
    let line = |case: &Case<steady::Setting, steady::Run>| Line {
        name: format!("{} events/s", case.setting.rate),
        points: case.runs.last().map_or(Vec::new(), |run| run.curve.clone()),
    };
    let lines: Vec<Line> = steady.0.iter().map(line).collect();
    plot::latencies(&report.plot("steady"), "steady: from produced to visible, last run", &lines)
}
