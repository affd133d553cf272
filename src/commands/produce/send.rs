//! Sends records to Kafka and makes sure that every one arrives.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::record::Generated;
use crate::consume::ClientError;

/// How long the brokers may take to answer at the start.
const FIRST_CONTACT: Duration = Duration::from_secs(10);
/// How often deliveries are looked for while waiting.
const SERVE: Duration = Duration::from_millis(1);
/// How long to serve the queue when it is full, before trying again.
const QUEUE_FULL: Duration = Duration::from_millis(10);

/// A record that Kafka has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Where it landed.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Bytes of key and value.
    pub bytes: usize,
    /// When it was handed over, by the producer's clock: milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
}

type Observer = Box<dyn Fn(Delivered) + Send + Sync>;

/// Counts what becomes of the records handed over.
struct Deliveries {
    acknowledged: AtomicU64,
    failure: OnceLock<KafkaError>,
    observer: Observer,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                (self.observer)(Delivered {
                    partition: message.partition(),
                    offset: message.offset(),
                    bytes: message.key_len() + message.payload_len(),
                    timestamp_ms: message.timestamp().to_millis(),
                });
            }
            Err((error, _)) => {
                // The first says most; later ones follow from it.
                self.failure.set(error.clone()).ok();
            }
        }
    }
}

/// What to do before the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Send it.
    Go,
    /// Wait this long, then ask again. Deliveries are served meanwhile.
    Wait(Duration),
    /// Send no more.
    Stop,
}

/// An idempotent producer for one topic. It blocks: use it on a thread of its own.
pub struct Sender {
    producer: BaseProducer<Deliveries>,
    topic: String,
    sent: u64,
}

impl Sender {
    /// Connects, and makes sure that the topic exists. `properties` are librdkafka's.
    ///
    /// # Errors
    /// Properties librdkafka refuses, brokers out of reach, no such topic.
    pub fn new(properties: &BTreeMap<String, String>, topic: &str) -> anyhow::Result<Self> {
        Self::observed(properties, topic, Box::new(|_| {}))
    }

    /// Like [`Sender::new`]; `observer` hears of every acknowledged record.
    ///
    /// # Errors
    /// As [`Sender::new`].
    pub fn observed(
        properties: &BTreeMap<String, String>,
        topic: &str,
        observer: Observer,
    ) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        // As Java's producers spread keys, so that a user's events meet in one partition.
        config.set("partitioner", "murmur2_random");
        config.extend(properties.iter().map(|(name, value)| (name.clone(), value.clone())));
        // Neither lost nor, by the producer's own retries, doubled or reordered.
        config.set("enable.idempotence", "true");
        let deliveries =
            Deliveries { acknowledged: AtomicU64::new(0), failure: OnceLock::new(), observer };
        let producer: BaseProducer<Deliveries> =
            config.create_with_context(deliveries).map_err(|error| ClientError::refused(&error))?;
        let metadata = producer
            .client()
            .fetch_metadata(Some(topic), FIRST_CONTACT)
            .context("reaching Kafka: check the bootstrap servers")?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let usable = found.is_some_and(|found| found.error().is_none());
        ensure!(usable, "topic {topic:?} does not exist or may not be described: create it first");
        Ok(Self { producer, topic: topic.to_owned(), sent: 0 })
    }

    /// Hands a record over, waiting while the queue is full.
    ///
    /// # Errors
    /// This record was refused, or an earlier one could not be delivered.
    pub fn send(&mut self, record: &Generated) -> anyhow::Result<()> {
        let mut base = BaseRecord {
            topic: &self.topic,
            partition: None,
            payload: record.value.as_deref(),
            key: Some(record.key.as_slice()),
            timestamp: None,
            headers: headers(record),
            delivery_opaque: (),
        };
        loop {
            match self.producer.send(base) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    base = back;
                    self.serve(QUEUE_FULL)?;
                }
                Err((error, _)) => return Err(error).context("sending a record"),
            }
        }
        self.sent += 1;
        // The callbacks run here; now and then is often enough.
        if self.sent.is_multiple_of(64) { self.serve(Duration::ZERO) } else { Ok(()) }
    }

    /// Sends records as `pace` says, which is asked before each.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn pump(
        &mut self,
        records: impl IntoIterator<Item = Generated>,
        mut pace: impl FnMut(&Self) -> Pace,
        mut sent: impl FnMut(&Generated),
    ) -> anyhow::Result<()> {
        let mut records = records.into_iter();
        loop {
            match pace(self) {
                Pace::Go => {}
                Pace::Wait(time) => {
                    self.serve(time)?;
                    continue;
                }
                Pace::Stop => return Ok(()),
            }
            let Some(record) = records.next() else { return Ok(()) };
            self.send(&record)?;
            sent(&record);
        }
    }

    /// Serves deliveries for this long.
    ///
    /// # Errors
    /// A record could not be delivered.
    pub fn serve(&self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            self.take_deliveries();
            if let Some(error) = self.producer.context().failure.get() {
                return Err(error.clone()).context("a record could not be delivered");
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // Asleep: rdkafka's own wait spins through its last millisecond, which is all of ours.
            thread::sleep(left.min(SERVE));
        }
    }

    /// Takes what has come: one poll without a wait brings the deliveries of one batch at most.
    fn take_deliveries(&self) {
        loop {
            let before = self.acknowledged();
            self.producer.poll(Duration::ZERO);
            if self.acknowledged() == before {
                return;
            }
        }
    }

    /// Records handed over.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Records acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.producer.context().acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until every record sent is acknowledged.
    ///
    /// # Errors
    /// One could not be delivered, or some are unacknowledged after this long.
    pub fn settle(&self, patience: Duration) -> anyhow::Result<()> {
        let give_up = Instant::now() + patience;
        while self.acknowledged() < self.sent {
            if Instant::now() >= give_up {
                let waiting = self.sent - self.acknowledged();
                bail!("Kafka has not acknowledged {waiting} records within {patience:?}");
            }
            // Sends what lingers.
            self.producer.flush(Duration::from_millis(100)).ok();
            self.serve(Duration::ZERO)?;
        }
        Ok(())
    }
}

fn headers(record: &Generated) -> Option<OwnedHeaders> {
    record.headers.iter().fold(None, |headers, header| {
        let (key, value) = (&*header.name, header.value.as_deref());
        Some(headers.unwrap_or_default().insert(Header { key, value }))
    })
}

/// Spreads records evenly over time.
#[derive(Clone, Debug)]
pub struct Rate {
    /// Zero: as fast as possible.
    per_second: u64,
    started: Instant,
    passed: u64,
}

impl Rate {
    /// This many a second; 0 is as fast as possible.
    pub fn per_second(per_second: u64) -> Self {
        Self { per_second, started: Instant::now(), passed: 0 }
    }

    /// Lets one record through, or says how long it must wait.
    pub fn pass(&mut self) -> Pace {
        if self.per_second == 0 {
            return Pace::Go;
        }
        let due = Duration::from_secs_f64(self.passed as f64 / self.per_second as f64);
        let now = self.started.elapsed();
        if due > now {
            return Pace::Wait((due - now).clamp(SERVE, Duration::from_millis(100)));
        }
        if now - due > Duration::from_secs(1) {
            // Held up: carry on at the rate instead of making up for it in a burst.
            *self = Self::per_second(self.per_second);
        }
        self.passed += 1;
        Pace::Go
    }
}
