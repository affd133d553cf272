//! Producers that write in transactions, some of which they abort.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use super::no_lag;
use crate::support::{Scene, event, unique};

const WAIT: Duration = Duration::from_secs(30);

/// A producer with transactions, on one thread that may block.
struct Transactions {
    scene: std::sync::Arc<Scene>,
    producer: FutureProducer,
}

impl Transactions {
    fn begin_on(scene: &std::sync::Arc<Scene>) -> Self {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &scene.brokers)
            .set("transactional.id", unique("tx"))
            .create()
            .unwrap();
        producer.init_transactions(WAIT).unwrap();
        Self { scene: scene.clone(), producer }
    }

    /// One transaction with an event per user in each partition.
    async fn write(&self, users: &[&str], commit: bool) {
        self.producer.begin_transaction().unwrap();
        for partition in 0..self.scene.partitions {
            for user in users {
                let event = event(user, &unique("e"), "user.updated");
                let (key, value) = (event.key.clone().unwrap(), event.value().unwrap());
                let record = FutureRecord::to(&self.scene.topic)
                    .partition(partition)
                    .key(&key)
                    .payload(&value);
                self.producer.send(record, WAIT).await.unwrap();
            }
        }
        match commit {
            true => self.producer.commit_transaction(WAIT).unwrap(),
            false => self.producer.abort_transaction(WAIT).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_transactions_leave_nothing_but_an_offset_that_passes_them() {
    let scene = std::sync::Arc::new(Scene::new(2).await);
    let producer = Transactions::begin_on(&scene);
    let worker = scene.worker().start().await;
    worker.holds(2).await;
    let fault = scene.fault(20, "half of the transactions abort");
    // One behind the other, so that markers stand before, between and after records.
    for round in 0..6 {
        producer.write(&["good", "fine"], true).await;
        producer.write(&["bad", "worse"], false).await;
        if round == 2 {
            scene.caught_up().await;
            no_lag(&worker, 2).await;
        }
    }
    fault.ends(&scene).await;
    no_lag(&worker, 2).await;
    assert_eq!(worker.metric("user_events_lag_records", &scene.topic).await, 0.0);
    let users: Vec<(String, i64)> =
        scene.fetch_all("SELECT user_id, event_count FROM users ORDER BY 1").await;
    assert_eq!(users, [("fine".to_owned(), 12), ("good".to_owned(), 12)]);
    // Each transaction ends with a marker, which is an offset but not a record.
    let ends = scene.ends().await;
    assert_eq!(ends.values().copied().collect::<Vec<_>>(), [36, 36]);
    assert_eq!(worker.stop().await, Some(0));

    let again = scene.worker().start().await;
    producer.write(&["good"], true).await;
    scene.caught_up().await;
    no_lag(&again, 2).await;
    let (events,): (i64,) = scene.fetch_one("SELECT count(*) FROM user_events").await;
    assert_eq!(events, 26);
    assert_eq!(again.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_nothing_but_aborted_records_has_no_lag() {
    let scene = std::sync::Arc::new(Scene::new(1).await);
    let producer = Transactions::begin_on(&scene);
    for _ in 0..3 {
        producer.write(&["bad"], false).await;
    }
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    no_lag(&worker, 1).await;
    let (events,): (i64,) = scene.fetch_one("SELECT count(*) FROM user_events").await;
    assert_eq!(events, 0);
    assert_eq!(worker.stop().await, Some(0));
}
