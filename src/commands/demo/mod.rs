//! `demo`: the whole worker with nothing to install or start first.
//!
//! An embedded broker, a throwaway Postgres, a producer and the real worker; at the end an account
//! of every record, counted in Kafka and in Postgres.

pub mod args;
pub mod backlog;
pub mod broker;
pub mod feed;
pub mod progress;
pub mod reconcile;
pub mod stored;
pub mod watch;
pub mod worker;

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::spawn_blocking;

use crate::app;
use crate::commands::run::Signals;
use crate::commands::scratch::{self, ScratchDatabase};
use crate::config::{Config, PostgresUrl};

pub use args::DemoArgs;
pub use backlog::Backlog;
pub use broker::EmbeddedBroker;
pub use feed::Feed;
pub use reconcile::Reconciliation;
pub use stored::Stored;

use progress::Display;
use watch::{Watcher, latencies, percentile};
use worker::{GROUP, MAX_RECORD_BYTES, TOPIC};

/// Records per second of the second phase, in which the latency is measured.
const CALM_RATE: u64 = 500;
/// Records of the second phase.
const CALM_COUNT: u64 = 2_500;
/// Of so many events of the second phase one is timed.
const SAMPLED: u64 = 5;

/// Runs the demo from start to end, or until interrupted. With a `database` it uses a scratch
/// schema there; without, a Postgres of its own. Whatever it starts it also stops.
///
/// # Errors
/// Something could not be started, the worker did not get on, or the account does not hold.
pub async fn run(
    args: DemoArgs,
    config: &Config,
    database: Option<PostgresUrl>,
) -> anyhow::Result<()> {
    // Listens before anything starts, so that nothing is left behind.
    let signals = Signals::new()?;
    let database = match database {
        Some(url) => ScratchDatabase::scratch(url, scratch::name("user_events_demo")).await?,
        None => ScratchDatabase::throwaway().await?,
    };
    let result = with_database(&args, config, &database, signals).await;
    let stopped = database.stop().await;
    result.and(stopped)
}

async fn with_database(
    args: &DemoArgs,
    config: &Config,
    database: &ScratchDatabase,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let broker = EmbeddedBroker::start(TOPIC, args.partitions)?;
    let servers = broker.bootstrap_servers();
    let mut worker = app::start(worker::config(config, servers, database)?).await?;
    let http = worker.http_addr;
    let stop = StopOnDrop::default();
    let shown = async {
        say(format_args!("broker    {servers} (embedded; topic {TOPIC})"))?;
        say(format_args!("postgres  {} (schema {})", database.url(), database.schema()))?;
        say(format_args!("status    http://{http}/status\nmetrics   http://{http}/metrics"))?;
        show(args, servers, database, stop.0.clone()).await
    };
    let mut keep = args.keep;
    let result = tokio::select! {
        ended = worker.ended() => return by_itself(ended),
        result = shown => result,
        signal = signals.next() => {
            keep = false;
            Err(anyhow!("ended by {signal}"))
        }
    };
    drop(stop);
    if keep {
        if let Err(error) = &result {
            say(format_args!("\nFailed: {error:#}")).ok();
        }
        say("Everything keeps running. Interrupt (Ctrl-C) to end it.").ok();
        tokio::select! {
            ended = worker.ended() => return by_itself(ended),
            _ = signals.next() => {}
        }
    }
    let stopped = worker.stop().await;
    result.and(stopped)
}

fn by_itself(ended: anyhow::Result<()>) -> anyhow::Result<()> {
    ended.and_then(|()| bail!("the worker ended by itself"))
}

/// Prints for whoever watches. An error when nobody does any more, so that all is ended in order.
fn say(text: impl fmt::Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("writing to standard output")
}

/// Ends the feed when the demo ends early.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What there is to see while everything runs.
async fn show(
    args: &DemoArgs,
    servers: &str,
    database: &ScratchDatabase,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let backlog = Arc::new(Backlog::new(args.partitions));
    let mut watcher = Watcher {
        connection: database.connect().await?,
        backlog: backlog.clone(),
        group: GROUP.to_owned(),
        topic: TOPIC.to_owned(),
    };
    watcher.claimed(args.partitions).await?;

    let (connect_to, recipe) = (servers.to_owned(), args.recipe(MAX_RECORD_BYTES));
    let feed = spawn_blocking(move || Feed::connect(&connect_to, TOPIC, recipe, backlog, stop));
    let feed = feed.await??;
    let feed = at_full_speed(args, feed, &mut watcher).await?;
    let feed = at_ease(feed, &mut watcher, database).await?;
    let account = account(args, servers, &feed, &mut watcher).await?;
    say(format_args!("\n{:<16} {:>12} {:>12}\n{account}", "", "sent", "found"))?;
    if let Err(wrong) = account.holds() {
        bail!("the account does not hold:\n  {}", wrong.join("\n  "));
    }
    say("The account holds: every record has exactly one outcome, and the right one.")
}

/// First phase: as fast as the worker can take it, or as asked.
async fn at_full_speed(
    args: &DemoArgs,
    mut feed: Feed,
    watcher: &mut Watcher,
) -> anyhow::Result<Feed> {
    let (count, rate) = (args.count, args.rate);
    let started = Instant::now();
    let feeding = spawn_blocking(move || feed.send(count, rate, |_| {}).map(|()| feed));
    let feed = watcher.until_applied(feeding, &mut Display::new(count)).await?;
    let seconds = started.elapsed().as_secs_f64();
    say(format_args!(
        "\n{count} records in {seconds:.1} s: {:.0} per second, from the producer into Postgres",
        count as f64 / seconds
    ))?;
    Ok(feed)
}

/// Second phase: light load, to see how long one event takes.
async fn at_ease(
    mut feed: Feed,
    watcher: &mut Watcher,
    database: &ScratchDatabase,
) -> anyhow::Result<Feed> {
    let (sample, samples) = unbounded_channel();
    let feeding = spawn_blocking(move || {
        let mut events = 0;
        feed.send(CALM_COUNT, CALM_RATE, |record| {
            use crate::commands::produce::Expectation::{Fresh, OutOfOrder};
            let (Fresh | OutOfOrder, Some(id)) = (record.expected, record.event_id) else { return };
            events += 1;
            if events % SAMPLED == 0 {
                // Nobody listens any more when the measurement has failed, which says so itself.
                sample.send((id, Instant::now())).ok();
            }
        })?;
        drop(sample);
        Ok(feed)
    });
    let mut display = Display::new(watcher.backlog.totals().produced + CALM_COUNT);
    let (feed, latencies) = tokio::try_join!(
        watcher.until_applied(feeding, &mut display),
        latencies(database.connect().await?, samples)
    )?;
    drop(display);
    let millis = |share| percentile(&latencies, share).as_secs_f64() * 1e3;
    say(format_args!(
        "at {CALM_RATE} per second, from the producer until visible in Postgres: \
         p50 {:.1} ms, p99 {:.1} ms ({} events timed)",
        millis(0.5),
        millis(0.99),
        latencies.len()
    ))?;
    Ok(feed)
}

async fn account(
    args: &DemoArgs,
    servers: &str,
    feed: &Feed,
    watcher: &mut Watcher,
) -> anyhow::Result<Reconciliation> {
    let (servers, partitions) = (servers.to_owned(), args.partitions);
    let kafka = spawn_blocking(move || stored::ends(&servers, TOPIC, partitions)).await??;
    let sent = feed.sent();
    let stored = Stored::read(&mut watcher.connection, GROUP, TOPIC, &sent.ids).await?;
    Ok(Reconciliation { sent: sent.tally.clone(), kafka, stored })
}
