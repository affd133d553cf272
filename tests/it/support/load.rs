//! A producer of the test's own, running in the background, that writes down what the broker
//! acknowledged. It shares no code with the worker: its ledger is what the checker believes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::Scene;

/// How a producer gives work its rhythm: so many records every [`TICK`].
const TICK: Duration = Duration::from_millis(10);

/// What is produced.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Records a second.
    pub rate: usize,
    /// Users, some hotter than others.
    pub users: usize,
    /// One user, one partition: then the whole projection is determined. Otherwise partitions are
    /// drawn at random and every event is an activity, whose order does not matter.
    pub keyed: bool,
    /// Bytes that `data` is padded with.
    pub padding: usize,
    /// Stops by itself after so many records.
    pub limit: usize,
    pub seed: u64,
}

impl Load {
    /// Everything that may happen: creations, updates, deletions, activities, versions in and out
    /// of order, retries and nonsense.
    pub fn mixed(rate: usize) -> Self {
        let seed = rand::random();
        eprintln!("load: seed {seed}");
        Self { rate, users: 150, keyed: true, padding: 0, limit: usize::MAX, seed }
    }

    /// Activities of users spread over all partitions, some with a version: writers lock the same
    /// users in different orders.
    pub fn crossed(rate: usize) -> Self {
        Self { keyed: false, ..Self::mixed(rate) }
    }

    /// Many events for few users.
    pub fn users(self, users: usize) -> Self {
        Self { users, ..self }
    }

    /// With that many bytes more in each event.
    pub fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// No more than this.
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }
}

/// An event as the producer meant it.
#[derive(Clone, Debug)]
pub struct Meant {
    pub id: Uuid,
    /// Whole microseconds.
    pub time: OffsetDateTime,
    pub user: String,
    pub kind: &'static str,
    pub sequence: Option<i64>,
    pub data: Value,
}

impl Meant {
    fn value(&self) -> Vec<u8> {
        let mut event = json!({
            "specversion": "1.0",
            "id": self.id.to_string(),
            "source": "/load",
            "type": self.kind,
            "subject": self.user,
            "time": self.time.format(&Rfc3339).unwrap(),
            "data": self.data,
        });
        if let Some(sequence) = self.sequence {
            event["sequence"] = sequence.to_string().into();
        }
        serde_json::to_vec(&event).unwrap()
    }
}

/// What a record holds.
#[derive(Clone, Debug)]
pub enum Content {
    Event(Arc<Meant>),
    /// Breaks the contract: not JSON.
    Nonsense(Vec<u8>),
}

/// All that the broker acknowledged, by partition and offset.
pub type Ledger = BTreeMap<(i32, i64), Content>;

/// A producer at work.
pub struct Producing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Ledger>,
}

impl Producing {
    /// Ends the load, waits for every acknowledgement and hands over the ledger.
    pub async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.finished().await
    }

    /// Waits until the limit is reached.
    pub async fn finished(self) -> Ledger {
        self.task.await.unwrap()
    }
}

impl Scene {
    /// Starts producing in the background.
    pub fn produce(&self, load: Load) -> Producing {
        let stop = Arc::new(AtomicBool::new(false));
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("enable.idempotence", "true")
            .set("linger.ms", "2")
            .create()
            .unwrap();
        let run = Run {
            load,
            topic: self.topic.clone(),
            partitions: self.partitions,
            producer,
            rng: StdRng::seed_from_u64(load.seed),
            versions: BTreeMap::new(),
            recent: Vec::new(),
        };
        let task = tokio::spawn(run.run(stop.clone()));
        Producing { stop, task }
    }
}

struct Run {
    load: Load,
    topic: String,
    partitions: i32,
    producer: FutureProducer,
    rng: StdRng,
    versions: BTreeMap<usize, i64>,
    recent: Vec<(i32, Arc<Meant>)>,
}

impl Run {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Ledger {
        let mut ticks = tokio::time::interval(TICK);
        let mut ledger = Ledger::new();
        let mut under_way: Vec<(DeliveryFuture, Content)> = Vec::new();
        let mut sent = 0;
        let mut debt = 0.0;
        while sent < self.load.limit && !stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            debt += self.load.rate as f64 * TICK.as_secs_f64();
            while debt >= 1.0 && sent < self.load.limit {
                let (partition, content) = self.next();
                under_way.push((self.send(partition, &content).await, content));
                debt -= 1.0;
                sent += 1;
            }
            if under_way.len() >= 200 {
                self.note(&mut ledger, &mut under_way).await;
            }
        }
        self.note(&mut ledger, &mut under_way).await;
        ledger
    }

    async fn note(&self, ledger: &mut Ledger, under_way: &mut Vec<(DeliveryFuture, Content)>) {
        for (delivery, content) in under_way.drain(..) {
            let delivered = delivery.await.expect("the producer lives").expect("acknowledged");
            let twice = ledger.insert((delivered.partition, delivered.offset), content);
            assert!(twice.is_none(), "a broker gives an offset once");
        }
    }

    async fn send(&self, partition: i32, content: &Content) -> DeliveryFuture {
        let (key, value) = match content {
            Content::Event(event) => (event.user.clone(), event.value()),
            Content::Nonsense(value) => ("nobody".to_owned(), value.clone()),
        };
        let mut record =
            FutureRecord::to(&self.topic).partition(partition).key(&key).payload(&value);
        loop {
            match self.producer.send_result(record) {
                Ok(delivery) => return delivery,
                Err((_, back)) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }

    /// What comes next: 2 in 100 records are nonsense, 6 repeat one of the last 2,000 events.
    fn next(&mut self) -> (i32, Content) {
        let random_partition = self.rng.random_range(0..self.partitions);
        let dice = self.rng.random_range(0..100);
        if dice < 2 {
            let text = format!("{{nonsense {}", self.rng.random::<u64>());
            return (random_partition, Content::Nonsense(text.into_bytes()));
        }
        if dice < 8 && !self.recent.is_empty() {
            let index = self.rng.random_range(0..self.recent.len());
            let (partition, event) = &self.recent[index];
            let partition = if self.load.keyed { *partition } else { random_partition };
            return (partition, Content::Event(event.clone()));
        }
        let user = self.user();
        let event = Arc::new(self.event(user));
        let partition = match self.load.keyed {
            true => i32::try_from(user).unwrap() % self.partitions,
            false => random_partition,
        };
        if self.recent.len() < 2000 {
            self.recent.push((partition, event.clone()));
        } else {
            let index = self.rng.random_range(0..2000);
            self.recent[index] = (partition, event.clone());
        }
        (partition, Content::Event(event))
    }

    /// Low numbers come up more often.
    fn user(&mut self) -> usize {
        let skewed = self.rng.random::<f64>().powi(2);
        ((skewed * self.load.users as f64) as usize).min(self.load.users - 1)
    }

    fn event(&mut self, user: usize) -> Meant {
        let kind = match self.rng.random_range(0..100) {
            _ if !self.load.keyed => "page.viewed",
            0..10 => "user.created",
            10..35 => "user.updated",
            35..40 => "user.deleted",
            _ => "page.viewed",
        };
        let number = self.rng.random_range(0..1000);
        let mut data = match kind {
            "user.created" => json!({"name": format!("n{number}"), "a": number, "void": null}),
            "user.updated" => match number % 4 {
                0 => json!({"a": null, "b": number}),
                1 => json!({"c": {"deep": [number, null]}}),
                _ => json!({"a": number}),
            },
            _ => json!({"n": number}),
        };
        if self.load.padding > 0 {
            data["padding"] = "x".repeat(self.load.padding).into();
        }
        let sequence = (self.rng.random_range(0..100) < 40).then(|| {
            let version = self.versions.entry(user).or_insert(0);
            *version += 1;
            // One in six comes late.
            if self.rng.random_range(0..6) == 0 { (*version - 3).max(0) } else { *version }
        });
        let now = OffsetDateTime::now_utc();
        let time = now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap();
        Meant { id: Uuid::now_v7(), time, user: format!("user-{user:04}"), kind, sequence, data }
    }
}
