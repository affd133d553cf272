//! Rows 20 and 21: transactional producers that abort, and one that hangs.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::recovery::no_lag;
use crate::support::{Scene, Worker, event, eventually, unique};

const RECORDS: &str = "user_events_withheld_records";
const SECONDS: &str = "user_events_withheld_seconds";
/// What the log says of it.
const HANGS: &str = "transaction stays open";
const WAIT: Duration = Duration::from_secs(30);

fn transactional(scene: &Scene, timeout: &str) -> FutureProducer {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &scene.brokers)
        .set("transactional.id", unique("tx"))
        .set("transaction.timeout.ms", timeout)
        .create()
        .unwrap();
    producer.init_transactions(WAIT).unwrap();
    producer
}

/// One event of `user` to the partition, acknowledged.
async fn write(scene: &Scene, producer: &FutureProducer, partition: i32, user: &str) {
    let event = event(user, &unique("e"), "page.viewed");
    let (key, value) = (event.key.clone().unwrap(), event.value().unwrap());
    let record = FutureRecord::to(&scene.topic).partition(partition).key(&key).payload(&value);
    producer.send(record, WAIT).await.unwrap();
}

/// Half of the records end up after the worker's restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_transactions_a_third_of_which_abort_only_the_others_take_effect() {
    let seed = rand::random();
    eprintln!("transactions: seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let scene = Scene::new(3).await;
    let producers = [transactional(&scene, "60000"), transactional(&scene, "60000")];
    let (mut committed, mut aborted) = (0, 0);
    let mut worker = scene.worker().set("BATCH__MAX_EVENTS", "20").start().await;
    let fault = scene.fault(20, "a third of the transactions abort");
    for round in 0..60 {
        // Both are open at once: their records stand between each other's.
        for producer in &producers {
            producer.begin_transaction().unwrap();
        }
        for producer in &producers {
            let commit = rng.random_bool(0.7);
            let records = rng.random_range(1..6);
            for _ in 0..records {
                let user = if commit { "good" } else { "bad" };
                write(&scene, producer, rng.random_range(0..3), user).await;
            }
            *(if commit { &mut committed } else { &mut aborted }) += records;
            match commit {
                true => producer.commit_transaction(WAIT).unwrap(),
                false => producer.abort_transaction(WAIT).unwrap(),
            }
        }
        if round == 30 {
            worker.kill().await;
            worker = scene.worker().set("BATCH__MAX_EVENTS", "20").start().await;
        }
    }
    fault.ends(&scene).await;
    assert!(aborted > 20, "the fault was there: {aborted} records aborted");
    scene.caught_up().await;
    no_lag(&worker, 3).await;
    eprintln!("{aborted} of {} records aborted", aborted + committed);
    let users: Vec<(String, i64)> = scene.fetch_all("SELECT user_id, event_count FROM users").await;
    assert_eq!(users, [("good".to_owned(), committed)]);
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, committed);
    assert_eq!(scene.count("SELECT count(*) FROM dead_letters").await, 0);
    let behind: i64 = scene.ends().await.values().sum();
    assert!(behind > committed + aborted, "markers are offsets, too");
    assert_eq!(worker.stop().await, Some(0));
}

/// What stands behind the open transaction waits for it: neither the broker's read-committed end
/// nor, so, the lag counts it. But it is told as withheld. The broker ends the transaction by its
/// timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_hangs_holds_up_what_follows_until_the_broker_ends_it() {
    let (scene, worker) = applied_one().await;
    withheld(&worker, 0.0, 0.0).await;
    let fault = scene.fault(21, "a transaction that hangs for 5 s, from its beginning");
    let hanging = transactional(&scene, "5000");
    hanging.begin_transaction().unwrap();
    write(&scene, &hanging, 0, "hanging").await;
    let begun = Instant::now();
    let sent = scene.send(&[event("after", "a", "page.viewed")]).await;
    assert_eq!(scene.ends().await[&0], 1, "the log ends, as readers see it, where it hangs");
    withheld(&worker, 2.0, 1.0).await;
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, 1);
    assert_eq!(worker.metric("user_events_lag_records", "").await, 0.0);
    assert_eq!(worker.get("/livez").await.0, 200);

    scene.passes(&[(0, sent[0].1 + 1)].into()).await;
    let took = fault.ended(begun, &scene).await;
    assert!(took >= Duration::from_secs(4), "it did hold up what followed: {took:?}");
    scene.caught_up().await;
    no_lag(&worker, 1).await;
    withheld(&worker, 0.0, 0.0).await;
    assert!(!worker.log().contains(HANGS), "a minute has not passed:\n{}", worker.log());
    let users: Vec<(String,)> = scene.fetch_all("SELECT user_id FROM users ORDER BY 1").await;
    assert_eq!(users, [("after".to_owned(),), ("before".to_owned(),)]);
    assert_eq!(worker.stop().await, Some(0));
    drop(hanging);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_transaction_that_hangs_for_more_than_a_minute_is_logged_without_a_flood() {
    let (scene, worker) = applied_one().await;
    let fault = scene.fault(21, "a transaction that hangs for more than a minute");
    let hanging = transactional(&scene, "85000");
    hanging.begin_transaction().unwrap();
    write(&scene, &hanging, 0, "hanging").await;
    withheld(&worker, 1.0, 30.0).await;
    withheld(&worker, 1.0, 55.0).await;
    assert!(!worker.log().contains(HANGS), "not yet:\n{}", worker.log());
    withheld(&worker, 1.0, 75.0).await;
    assert!((1..=3).contains(&worker.log().matches(HANGS).count()), "{}", worker.log());
    hanging.abort_transaction(WAIT).unwrap();
    fault.ends(&scene).await;
    withheld(&worker, 0.0, 0.0).await;
    assert_eq!(worker.stop().await, Some(0));
}

/// A partition with one record, applied.
async fn applied_one() -> (Scene, Worker) {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    scene.send(&[event("before", "b", "page.viewed")]).await;
    scene.caught_up().await;
    (scene, worker)
}

/// Waits until the metrics tell of so many records withheld, for so long or longer, and `/status`
/// does, too; without any, for no time at all.
async fn withheld(worker: &Worker, records: f64, seconds: f64) {
    let is = |told: (f64, f64)| match records {
        0.0 => told == (0.0, 0.0),
        _ => told.0 == records && told.1 >= seconds,
    };
    let what = format!("{records} records are told to be withheld for {seconds} s");
    eventually(&what, async || {
        let page = worker.page().await;
        let told = |name| page.series(name, &[]).first().map(|(_, value)| *value);
        let told = (told(RECORDS)?, told(SECONDS)?);
        let status = worker.status().await;
        let row = &status["partitions"][0];
        let shown = (row["withheld_records"].as_f64()?, row["withheld_seconds"].as_f64()?);
        (is(told) && is(shown)).then_some(())
    })
    .await;
}
