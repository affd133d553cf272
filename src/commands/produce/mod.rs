//! `produce`: realistic user events for trying out, measuring and testing.
//!
//! [`Generator`] makes the records and says of each what must become of it; [`Sender`] brings them
//! to Kafka. Both are of use without the command: to tests, benchmarks and the demo.

pub mod args;
mod data;
mod draft;
mod flaw;
pub mod generator;
pub mod progress;
pub mod record;
pub mod send;
#[cfg(test)]
mod tests;
mod topic;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::oneshot;

use crate::commands::run::Signals;

pub use args::{ProduceArgs, Recipe, UuidVersion};
pub use generator::{Clock, Generator};
pub use record::{Expectation, Generated, Tally};
pub use send::{Delivered, Pace, Rate, Sender};

/// How long Kafka may take to acknowledge the last records.
const SETTLE: Duration = Duration::from_secs(60);

/// What a run of `produce` did.
#[derive(Clone, Debug)]
pub struct Produced {
    /// Records by what must become of them. Kafka has acknowledged every one.
    pub tally: Tally,
    /// Payload bytes of all records.
    pub bytes: u64,
    /// From the first record to the last acknowledgement.
    pub elapsed: Duration,
}

impl fmt::Display for Produced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        let records = self.tally.total();
        writeln!(
            f,
            "produced {records} records, all acknowledged, in {seconds:.1} s: {:.0}/s, {}/s",
            records as f64 / seconds,
            bytesize::ByteSize((self.bytes as f64 / seconds) as u64),
        )?;
        self.tally.fmt(f)
    }
}

/// Produces until all is sent or somebody interrupts, waits for every acknowledgement, and prints
/// a summary. `properties` are librdkafka's; `topic` is where to write unless the arguments say.
///
/// # Errors
/// Kafka out of reach, no such topic, a record that could not be delivered.
pub async fn run(
    args: ProduceArgs,
    properties: &BTreeMap<String, String>,
    topic: &str,
) -> anyhow::Result<Produced> {
    let mut signals = Signals::new()?;
    let properties = properties.clone();
    let topic = args.topic.clone().unwrap_or_else(|| topic.to_owned());
    if let Some(partitions) = args.create_topic {
        topic::create(&properties, &topic, partitions).await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let interrupted = stop.clone();
    let (done, mut work) = oneshot::channel();
    // Not a task of the runtime, whose end would wait for it whatever happens.
    thread::spawn(move || done.send(produce(&args, &properties, &topic, &interrupted)));
    let produced = tokio::select! {
        produced = &mut work => produced,
        _ = signals.next() => {
            stop.store(true, Ordering::Relaxed);
            tokio::select! {
                produced = &mut work => produced,
                _ = signals.next() => bail!("ended before Kafka had acknowledged every record"),
            }
        }
    };
    let produced = produced.context("the producing thread ended early")??;
    writeln!(std::io::stdout(), "{produced}").context("writing to standard output")?;
    Ok(produced)
}

fn produce(
    args: &ProduceArgs,
    properties: &BTreeMap<String, String>,
    topic: &str,
    stop: &AtomicBool,
) -> anyhow::Result<Produced> {
    let generator = Generator::new(args.recipe.clone(), Clock::System)?;
    let count = if args.count == 0 { usize::MAX } else { usize::try_from(args.count)? };
    let mut sender = Sender::new(properties, topic)?;
    let bar = progress::bar(args.count, "produced");
    let mut lines = progress::Lines::new();
    let mut rate = Rate::per_second(args.rate);
    let mut tally = Tally::default();
    let mut bytes = 0;
    let started = Instant::now();
    sender.pump(
        generator.take(count),
        |sender| {
            if sender.sent().is_multiple_of(256) {
                bar.set_position(sender.acknowledged());
                lines.maybe(|| format!("produced {} records", sender.acknowledged()));
            }
            if stop.load(Ordering::Relaxed) { Pace::Stop } else { rate.pass() }
        },
        |record| {
            tally.add(record.expected);
            bytes += record.size() as u64;
        },
    )?;
    sender.settle(SETTLE)?;
    bar.finish_and_clear();
    Ok(Produced { tally, bytes, elapsed: started.elapsed() })
}
