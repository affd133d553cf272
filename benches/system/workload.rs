//! The events: which, how many, and in what order they arrive.

use std::collections::VecDeque;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use time::OffsetDateTime;
use user_events_worker::apply::{Batch, Content, Fingerprint, Item, OffsetRange};
use user_events_worker::commands::produce::{Clock, Generator, Recipe, UuidVersion};
use user_events_worker::config::Config;
use user_events_worker::event::{Decoded, RawRecord, Rules, decode};
use user_events_worker::types::{Epoch, Offset, RecordOffset, TopicPartition};

/// What the events are like. All: about 250 bytes, structured, 100,000 users, no `sequence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mix {
    /// 10 % change the profile, 90 % are activity; users evenly, UUIDv7 ids
    Even,
    /// All change the profile
    Profile,
    /// Users by a Zipf distribution of exponent 1.1
    Zipf,
    /// UUIDv4 ids
    RandomIds,
}

impl Mix {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Even => "10 % profile, even users, UUIDv7",
            Self::Profile => "all profile",
            Self::Zipf => "Zipf 1.1 users",
            Self::RandomIds => "UUIDv4 ids",
        }
    }

    /// For plots.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Even => "10/90",
            other => other.label(),
        }
    }

    /// For the generator. Another seed each time: no two backlogs have an id in common.
    pub(crate) fn recipe(self) -> Recipe {
        let even = Recipe {
            users: 100_000,
            size: 250,
            sequence: 0.0,
            binary: 0.0,
            profile: 0.1,
            seed: rand::random(),
            ..Recipe::default()
        };
        match self {
            Self::Even => even,
            Self::Profile => Recipe { profile: 1.0, ..even },
            Self::Zipf => Recipe { zipf: 1.1, ..even },
            Self::RandomIds => Recipe { uuid: UuidVersion::V4, ..even },
        }
    }
}

/// An endless stream of events, of now.
pub(crate) fn generator(recipe: Recipe) -> Result<Generator> {
    Generator::new(recipe, Clock::System)
}

/// Records of one partition that follow each other when a backlog is read: a fetch brings up to 1 MiB
/// of each. The tables of `limit` and `drain` say how many partitions a batch came from.
const RUN: usize = 4_000;

/// The batches that lanes would make of so many events, decoded: one list per lane.
///
/// A user's events keep to one partition, and a partition to one lane, as in the worker.
pub(crate) fn batches(
    mix: Mix,
    count: u64,
    partitions: i32,
    lanes: usize,
    config: &Config,
) -> Result<Vec<Vec<Batch>>> {
    let mut logs = logs(mix, count, partitions)?;
    let decoder = Decoder::new(config)?;
    let mut gatherers: Vec<_> = (0..lanes).map(|_| Gatherer::new(config, partitions)).collect();
    while logs.iter().any(|log| !log.is_empty()) {
        for (partition, log) in logs.iter_mut().enumerate() {
            let lane = &mut gatherers[partition % lanes];
            for record in log.drain(..log.len().min(RUN)) {
                lane.push(&decoder, record)?;
            }
        }
    }
    Ok(gatherers.into_iter().map(Gatherer::finish).collect())
}

/// The partitions as Kafka would hold them.
fn logs(mix: Mix, count: u64, partitions: i32) -> Result<Vec<VecDeque<RawRecord>>> {
    let topic = TopicPartition::new("bench", 0).topic;
    let mut logs = vec![VecDeque::new(); usize::try_from(partitions)?];
    for generated in generator(mix.recipe())?.take(usize::try_from(count)?) {
        let partition = crc32fast::hash(&generated.key) % u32::try_from(partitions)?;
        let log = &mut logs[partition as usize];
        log.push_back(RawRecord {
            source: TopicPartition::new(topic.clone(), i32::try_from(partition)?),
            offset: RecordOffset(i64::try_from(log.len())?),
            timestamp_ms: Some(0),
            key: Some(generated.key.into()),
            value: generated.value.map(Into::into),
            headers: generated.headers,
        });
    }
    Ok(logs)
}

struct Decoder {
    rules: Rules,
    now: OffsetDateTime,
}

impl Decoder {
    fn new(config: &Config) -> Result<Self> {
        let rules = Rules {
            max_record_bytes: usize::try_from(config.events.max_record_bytes.as_u64())?,
            max_future: config.events.max_future,
            retention: config.ledger.retention,
            tombstones: config.events.tombstones,
        };
        Ok(Self { rules, now: OffsetDateTime::now_utc() })
    }

    fn content(&self, record: RawRecord) -> Result<Content> {
        match decode(&record, &self.rules, self.now) {
            Decoded::Event(event) => Ok(Content::Event(event, record)),
            other => bail!("the generator made something else than an event: {other:?}"),
        }
    }
}

/// Closes a batch where a lane with a backlog would: at `batch.max_events` or `batch.max_bytes`.
struct Gatherer {
    max_events: usize,
    max_bytes: u64,
    next: Vec<Option<Offset>>,
    done: Vec<Batch>,
    batch: Batch,
    bytes: u64,
}

impl Gatherer {
    fn new(config: &Config, partitions: i32) -> Self {
        Self {
            max_events: config.batch.max_events,
            max_bytes: config.batch.max_bytes.as_u64(),
            next: (0..partitions).map(|_| None).collect(),
            done: Vec::new(),
            batch: Batch::default(),
            bytes: 0,
        }
    }

    fn push(&mut self, decoder: &Decoder, record: RawRecord) -> Result<()> {
        let (source, fingerprint) = (record.source.clone(), Fingerprint::of(&record));
        let content = decoder.content(record)?;
        let next = &mut self.next[usize::try_from(source.partition)?];
        let to = fingerprint.offset.next();
        let ranges = &mut self.batch.ranges;
        let index = ranges.iter().position(|range| range.source == source).unwrap_or(ranges.len());
        if index == ranges.len() {
            // The first claim of a partition has the number 1.
            ranges.push(OffsetRange { source, epoch: Epoch(1), from: *next, to, last: None });
        }
        (ranges[index].to, ranges[index].last) = (to, Some(fingerprint));
        *next = Some(to);
        let item = Item { range: index, record: fingerprint, content };
        self.bytes += item.size() as u64;
        self.batch.items.push(item);
        if self.batch.items.len() >= self.max_events || self.bytes >= self.max_bytes {
            self.done.push(std::mem::take(&mut self.batch));
            self.bytes = 0;
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<Batch> {
        if !self.batch.is_empty() {
            self.done.push(self.batch);
        }
        self.done
    }
}
