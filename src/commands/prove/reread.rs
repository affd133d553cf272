//! Reads the whole topic once more, by a consumer of its own, and compares it with the account.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::events::Record;
use super::ledger::{Ledger, Position};
use crate::consume::ClientError;

/// How long the broker may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Logs nothing: errors come by `poll`, too, and the end of a partition is none.
struct Silent;

impl ClientContext for Silent {
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Silent {}

/// The topic as a read-committed reader sees it. It blocks: use it on a thread of its own.
pub struct Log {
    consumer: BaseConsumer<Silent>,
    topic: String,
    partitions: i32,
}

impl Log {
    /// A reader; `properties` are librdkafka's for a consumer.
    ///
    /// # Errors
    /// Properties librdkafka refuses.
    pub fn new(
        properties: &BTreeMap<String, String>,
        topic: &str,
        partitions: i32,
    ) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        config.extend(properties.iter().map(|(name, value)| (name.clone(), value.clone())));
        let consumer = config
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create_with_context(Silent)
            .map_err(|error| ClientError::refused(&error))?;
        Ok(Self { consumer, topic: topic.to_owned(), partitions })
    }

    /// Where each partition ends.
    ///
    /// # Errors
    /// The broker does not answer.
    pub fn ends(&self) -> anyhow::Result<BTreeMap<i32, i64>> {
        (0..self.partitions)
            .map(|partition| {
                let (_, end) =
                    self.consumer.fetch_watermarks(&self.topic, partition, SILENCE).with_context(
                        || format!("asking for the end of {}[{partition}]", self.topic),
                    )?;
                Ok((partition, end))
            })
            .collect()
    }

    /// Reads everything and answers, in words, all that differs from the account.
    ///
    /// # Errors
    /// The broker does not answer, or falls silent.
    pub fn differences(&self, ledger: &Ledger) -> anyhow::Result<Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut unknown = Culprits::new("records in Kafka that nobody acknowledged");
        let mut changed = Culprits::new("records in Kafka that differ from what was acknowledged");
        self.read(|at, message| {
            match ledger.get(at) {
                None => unknown.add(at),
                Some(content) if !says(message, &content.record()) => changed.add(at),
                Some(_) => {}
            }
            seen.insert(at);
        })?;
        let mut missing = Culprits::new("acknowledged records missing from Kafka");
        ledger.iter().filter(|(at, _)| !seen.contains(at)).for_each(|(at, _)| missing.add(at));
        Ok([missing, unknown, changed].into_iter().filter_map(Culprits::told).collect())
    }

    fn read(&self, mut each: impl FnMut(Position, &BorrowedMessage<'_>)) -> anyhow::Result<()> {
        let mut all = TopicPartitionList::new();
        for partition in 0..self.partitions {
            all.add_partition_offset(&self.topic, partition, Offset::Beginning)?;
        }
        self.consumer.assign(&all)?;
        let mut unfinished: BTreeSet<i32> = (0..self.partitions).collect();
        let mut heard = Instant::now();
        while !unfinished.is_empty() {
            match self.consumer.poll(Duration::from_millis(100)) {
                None if heard.elapsed() > SILENCE => {
                    bail!("Kafka is silent before the ends of partitions {unfinished:?}")
                }
                None => continue,
                Some(Ok(message)) => each((message.partition(), message.offset()), &message),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    unfinished.remove(&partition);
                }
                // Brokers come and go; silence is what counts.
                Some(Err(KafkaError::MessageConsumption(error))) if is_passing(error) => continue,
                Some(Err(error)) => return Err(error).context("reading the topic again"),
            }
            heard = Instant::now();
        }
        self.consumer.unassign()?;
        Ok(())
    }
}

fn is_passing(error: rdkafka::types::RDKafkaErrorCode) -> bool {
    use rdkafka::types::RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure};
    matches!(error, AllBrokersDown | BrokerTransportFailure)
}

fn says(message: &BorrowedMessage<'_>, record: &Record) -> bool {
    let headers: Vec<_> = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| (header.key, header.value)).collect()
    });
    let meant = record.headers.iter().map(|(name, value)| (*name, Some(value.as_bytes())));
    message.key() == Some(record.key.as_bytes())
        && message.payload() == Some(record.value.as_bytes())
        && headers.into_iter().eq(meant)
}

/// How many records are wrong in some way, and where the first is.
struct Culprits {
    what: &'static str,
    count: u64,
    first: Option<Position>,
}

impl Culprits {
    fn new(what: &'static str) -> Self {
        Self { what, count: 0, first: None }
    }

    fn add(&mut self, at: Position) {
        self.count += 1;
        self.first.get_or_insert(at);
    }

    fn told(self) -> Option<String> {
        let (partition, offset) = self.first?;
        let (what, count) = (self.what, self.count);
        Some(format!("{what}: {count} (such as offset {offset} of [{partition}])"))
    }
}
