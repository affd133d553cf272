//! `prove`: an operator's own proof, on their own Kafka and Postgres, that nothing is lost or
//! doubled whatever breaks.
//!
//! Real workers on a scratch topic and schema, a load that keeps an account, faults drawn from a
//! seed; at the end Kafka and Postgres are held against the account.

pub mod args;
pub mod check;
pub mod events;
pub mod expected;
pub mod faults;
pub mod ledger;
pub mod load;
pub mod progress;
pub mod report;
pub mod reread;
pub mod schedule;
pub mod setting;
pub mod watch;
pub mod workers;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;

use crate::commands::run::Signals;
use crate::config::Config;

pub use args::ProveArgs;
pub use report::{Report, Verdict};

use check::Outcomes;
use events::Events;
use faults::{Fired, Saboteur};
use ledger::Ledger;
use load::{Aborts, Load};
use progress::Progress;
use reread::Log;
use schedule::Planned;
use setting::Setting;
use watch::Watch;
use workers::Fleet;

/// How long the workers may take to claim all partitions at the start.
const CLAIMED_WITHIN: Duration = Duration::from_secs(60);

/// Runs a proof from start to end, or until interrupted, and reports. `file` is where `config`
/// came from, for the workers to read, too. Whatever was made is removed again, unless it is to be
/// kept. What keeps the proof from being carried out makes it inconclusive.
///
/// # Errors
/// The report could not be written.
pub async fn run(
    args: ProveArgs,
    config: &Config,
    file: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    // Listens before anything starts, so that nothing is left behind.
    let mut signals = Signals::new()?;
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    say(&format!("seed {seed}"))?;
    let report = match prove(&args, seed, config, file, &mut signals).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("inconclusive: {error:#}");
            return Ok(Verdict::Inconclusive.exit_code());
        }
    };
    say(&format!("\n{report}"))?;
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(report.verdict.exit_code())
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("writing to standard output")
}

async fn prove(
    args: &ProveArgs,
    seed: u64,
    config: &Config,
    file: Option<&Path>,
    signals: &mut Signals,
) -> anyhow::Result<Report> {
    args.validate()?;
    let mut setting = Setting::make(args, config, file).await?;
    let result = tokio::select! {
        result = Proof::carry_out(args, seed, &mut setting) => result,
        signal = signals.next() => Err(anyhow!("ended by {signal}")),
    };
    if args.keep {
        eprintln!("{}", setting.keep());
    } else if let Err(error) = setting.remove().await {
        // What was proven is worth more than what was left behind.
        eprintln!("warning: {error:#}");
    }
    result
}

/// A proof under way.
struct Proof<'a> {
    args: &'a ProveArgs,
    seed: u64,
    watch: Watch,
    log: Arc<Log>,
}

impl Proof<'_> {
    async fn carry_out(
        args: &ProveArgs,
        seed: u64,
        setting: &mut Setting,
    ) -> anyhow::Result<Report> {
        let topic = setting.topic().to_owned();
        say(&format!(
            "topic, group and schema: {topic}; workers' logs: {}",
            setting.logs().display()
        ))?;
        let consumer = setting.config.kafka.consumer_properties();
        let producer = setting.config.kafka.producer_properties();
        let log = Arc::new(Log::new(&consumer, &topic, args.partitions)?);
        let proof = Proof { args, seed, watch: setting.watch()?, log };
        let fleet = Fleet::start(setting.launcher()?, usize::from(args.workers))?;
        let partitions = usize::try_from(args.partitions)?;
        let claimed = "the workers claim every partition (their logs say why not)";
        proof.watch.until(claimed, CLAIMED_WITHIN, |claims| claims.len() == partitions).await?;
        let events = Events::new(seed, args.partitions);
        let load = Load::start(&producer, &topic, events, args.rate, setting.user())?;
        // Other events: an id of an aborted one must not be known from elsewhere.
        let events = Events::new(!seed, args.partitions);
        let aborts = Aborts::start(&producer, &topic, events, setting.user())?;
        proof.under_load(setting, fleet, load, aborts).await
    }

    async fn under_load(
        &self,
        setting: &mut Setting,
        mut fleet: Fleet,
        load: Load,
        aborts: Aborts,
    ) -> anyhow::Result<Report> {
        let began = Instant::now();
        let expected = self.args.seconds * self.args.rate;
        let progress = Progress::show(self.watch.clone(), load.acknowledged(), expected);
        let peak_kib = fleet.peak_kib();
        let mut wrong = Vec::new();

        let faults = self.faults(setting, &mut fleet, &progress, began).await?;
        let recovered = self.caught_up(&mut wrong).await?;
        sleep_until((began + self.args.length()).into()).await;
        let ledger = load.stop().await?;
        let seconds = began.elapsed().as_secs_f64();
        let aborted = aborts.stop().await;
        self.caught_up(&mut wrong).await?;
        wrong.extend(fleet.end().await?);
        drop(progress);

        let outcomes = self.check(&ledger, &mut wrong).await?;
        let mut untried = Vec::new();
        if let Err(error) = &aborted {
            untried.push(format!("aborted transactions: {error:#}"));
        }
        let report = Report {
            seed: self.seed,
            verdict: Verdict::Inconclusive,
            seconds,
            produced: ledger.len(),
            outcomes,
            aborted: aborted.unwrap_or_default(),
            faults,
            recovered_after: recovered.map(|after| after.as_secs_f64()),
            peak_memory_kib: peak_kib.load(Ordering::Relaxed),
            wrong,
            untried,
        };
        Ok(report.conclude())
    }

    /// Carries out the schedule.
    async fn faults(
        &self,
        setting: &mut Setting,
        fleet: &mut Fleet,
        progress: &Progress,
        began: Instant,
    ) -> anyhow::Result<Vec<Fired>> {
        let workers = usize::from(self.args.workers);
        let planned = schedule::plan(self.seed, &self.args.kinds(), workers, self.args.length());
        let mut faults = Vec::with_capacity(planned.len());
        for fault in planned {
            let Planned { at, kind, .. } = fault;
            sleep_until((began + at).into()).await;
            fleet.look()?;
            progress.say(&format!("{:6.1}s {kind}", began.elapsed().as_secs_f64()));
            let mut saboteur = Saboteur {
                fleet: &mut *fleet,
                database: &mut setting.database,
                watch: &self.watch,
            };
            faults.push(saboteur.carry_out(fault, began).await);
        }
        Ok(faults)
    }

    /// Waits until everything written so far is applied; answers how long it took. When it takes
    /// too long, that is wrong.
    async fn caught_up(&self, wrong: &mut Vec<String>) -> anyhow::Result<Option<Duration>> {
        let ends = self.ends().await?;
        let patience = Duration::from_secs(self.args.patience);
        match self.watch.caught_up(&ends, patience).await {
            Ok(after) => Ok(Some(after)),
            Err(error) => {
                wrong.push(format!("{error:#}"));
                Ok(None)
            }
        }
    }

    async fn ends(&self) -> anyhow::Result<BTreeMap<i32, i64>> {
        let log = self.log.clone();
        spawn_blocking(move || log.ends()).await?
    }

    /// Holds Kafka and Postgres against the account.
    async fn check(&self, ledger: &Ledger, wrong: &mut Vec<String>) -> anyhow::Result<Outcomes> {
        let (log, account) = (self.log.clone(), ledger.clone());
        wrong.extend(spawn_blocking(move || log.differences(&account)).await??);
        let mut conn = self.watch.connect().await?;
        let checked = check::check(&mut conn, ledger, &self.ends().await?).await;
        let checked = checked.context("asking Postgres what it holds")?;
        wrong.extend(checked.wrong);
        let (produced, total) = (ledger.len(), checked.outcomes.total());
        if i64::try_from(produced)? != total {
            wrong.push(format!("{produced} records were produced, {total} outcomes are known"));
        }
        Ok(checked.outcomes)
    }
}
