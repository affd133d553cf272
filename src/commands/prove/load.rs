//! The load: an independent producer that keeps the account, and one whose transactions it aborts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep};

use super::args::MOST_RECORDS;
use super::events::{Content, Events};
use super::ledger::Ledger;
use super::setting::User;
use crate::consume::ClientError;

/// The rhythm of the load.
const TICK: Duration = Duration::from_millis(10);
/// So many records may be on their way before acknowledgements are waited for.
const UNDER_WAY: usize = 500;
/// From one aborted transaction to the next.
const ABORT_EVERY: Duration = Duration::from_millis(500);
/// Records in each of them.
const ABORTED_AT_ONCE: usize = 5;
/// How long the broker may take to begin or end a transaction.
const TRANSACTION: Duration = Duration::from_secs(30);

fn client(properties: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.extend(properties.iter().map(|(name, value)| (name.clone(), value.clone())));
    config
}

/// A producer at work. Dropping it ends it.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<anyhow::Result<Ledger>>,
}

impl Load {
    /// Begins to write `events` to `topic`, `rate` a second.
    ///
    /// # Errors
    /// Properties librdkafka refuses.
    pub fn start(
        properties: &BTreeMap<String, String>,
        topic: &str,
        events: Events,
        rate: u64,
        user: User,
    ) -> anyhow::Result<Self> {
        let producer: FutureProducer = client(properties)
            .set("enable.idempotence", "true")
            .create()
            .map_err(|error| ClientError::refused(&error))?;
        let (stop, acknowledged) = (Arc::default(), Arc::default());
        let run = Run {
            producer,
            topic: topic.to_owned(),
            ledger: Ledger::default(),
            under_way: Vec::with_capacity(UNDER_WAY),
            acknowledged: Arc::clone(&acknowledged),
            _user: user,
        };
        let task = tokio::spawn(run.run(events, rate, Arc::clone(&stop)));
        Ok(Self { stop, acknowledged, task })
    }

    /// Counts acknowledged records while it runs.
    pub fn acknowledged(&self) -> Arc<AtomicU64> {
        self.acknowledged.clone()
    }

    /// Ends the load, waits for every acknowledgement and hands over the account.
    ///
    /// # Errors
    /// A record could not be delivered.
    pub async fn stop(mut self) -> anyhow::Result<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.task).await.context("the load died")?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Run {
    producer: FutureProducer,
    topic: String,
    ledger: Ledger,
    under_way: Vec<(DeliveryFuture, Content)>,
    acknowledged: Arc<AtomicU64>,
    /// The last to be dropped.
    _user: User,
}

impl Run {
    async fn run(
        mut self,
        mut events: Events,
        rate: u64,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Ledger> {
        let mut ticks = interval(TICK);
        let mut due = 0.0;
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) && sent < MOST_RECORDS {
            ticks.tick().await;
            due += rate as f64 * TICK.as_secs_f64();
            while due >= 1.0
                && let Some((partition, content)) = events.next()
            {
                self.send(partition, content).await?;
                due -= 1.0;
                sent += 1;
            }
            if self.under_way.len() >= UNDER_WAY {
                self.settle().await?;
            }
        }
        self.settle().await?;
        Ok(self.ledger)
    }

    async fn send(&mut self, partition: i32, content: Content) -> anyhow::Result<()> {
        let record = content.record();
        let mut message = FutureRecord::to(&self.topic)
            .partition(partition)
            .key(&record.key)
            .payload(&record.value);
        if !record.headers.is_empty() {
            let headers =
                record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(value) })
                });
            message = message.headers(headers);
        }
        loop {
            match self.producer.send_result(message) {
                Ok(delivery) => {
                    self.under_way.push((delivery, content));
                    return Ok(());
                }
                Err((error, back)) if queue_is_full(&error) => {
                    message = back;
                    sleep(TICK).await;
                }
                Err((error, _)) => return Err(error).context("sending a record"),
            }
        }
    }

    async fn settle(&mut self) -> anyhow::Result<()> {
        for (delivery, content) in self.under_way.drain(..) {
            let delivered = delivery.await.context("the producer died")?;
            let delivered = delivered.map_err(|(error, _)| error);
            let delivered = delivered.context("Kafka did not acknowledge a record")?;
            self.ledger.note((delivered.partition, delivered.offset), content)?;
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn queue_is_full(error: &rdkafka::error::KafkaError) -> bool {
    error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull)
}

/// A producer whose every transaction is aborted: nothing of it may ever be seen. Dropping it ends
/// it.
pub struct Aborts {
    stop: Arc<AtomicBool>,
    done: oneshot::Receiver<anyhow::Result<u64>>,
}

impl Aborts {
    /// Begins, on a thread of its own, which the calls below block.
    ///
    /// # Errors
    /// Properties librdkafka refuses.
    pub fn start(
        properties: &BTreeMap<String, String>,
        topic: &str,
        events: Events,
        user: User,
    ) -> anyhow::Result<Self> {
        let producer: BaseProducer = client(properties)
            .set("transactional.id", topic)
            .set("transaction.timeout.ms", TRANSACTION.as_millis().to_string())
            .create()
            .map_err(|error| ClientError::refused(&error))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, done) = oneshot::channel();
        let (stopped, topic) = (stop.clone(), topic.to_owned());
        thread::Builder::new().name("aborts".to_owned()).spawn(move || {
            // Nobody listens any more when the proof has ended early.
            tell.send(abort_again_and_again(&producer, &topic, events, &stopped)).ok();
            drop(producer);
            drop(user);
        })?;
        Ok(Self { stop, done })
    }

    /// Ends it; answers how many records were aborted.
    ///
    /// # Errors
    /// Kafka's own, with what it needs.
    pub async fn stop(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.done).await.map_err(|_| anyhow!("the thread of aborted transactions died"))?
    }
}

impl Drop for Aborts {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn abort_again_and_again(
    producer: &BaseProducer,
    topic: &str,
    mut events: Events,
    stop: &AtomicBool,
) -> anyhow::Result<u64> {
    let mut aborted = 0;
    producer.init_transactions(TRANSACTION).context(
        "Kafka does not let us begin transactions: grant WRITE and DESCRIBE on the transactional id",
    )?;
    while !stop.load(Ordering::Relaxed) {
        producer.begin_transaction().context("beginning a transaction")?;
        for (partition, content) in events.by_ref().take(ABORTED_AT_ONCE) {
            let record = content.record();
            let message =
                BaseRecord::to(topic).partition(partition).key(&record.key).payload(&record.value);
            producer.send(message).map_err(|(error, _)| error).context("sending a record")?;
            aborted += 1;
        }
        // Written first, or there would be nothing to abort.
        producer.flush(TRANSACTION).context("writing a transaction")?;
        producer.abort_transaction(TRANSACTION).context("aborting a transaction")?;
        producer.poll(ABORT_EVERY);
    }
    Ok(aborted)
}
