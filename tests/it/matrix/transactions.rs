//! Rows 20 and 21: transactional producers that abort, and one that hangs.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use super::{Since, no_lag};
use crate::support::{Scene, event, unique};

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
    let ended = Instant::now();
    assert!(aborted > 20, "the fault was there: {aborted} records aborted");
    scene.caught_up().await;
    no_lag(&worker, 3).await;
    eprintln!(
        "{aborted} of {} aborted: recovered within {:?}",
        aborted + committed,
        ended.elapsed()
    );
    let users: Vec<(String, i64)> = scene.fetch_all("SELECT user_id, event_count FROM users").await;
    assert_eq!(users, [("good".to_owned(), committed)]);
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, committed);
    assert_eq!(scene.count("SELECT count(*) FROM dead_letters").await, 0);
    let behind: i64 = scene.ends().await.values().sum();
    assert!(behind > committed + aborted, "markers are offsets, too");
    assert_eq!(worker.stop().await, Some(0));
}

/// What stands behind the open transaction waits for it, invisibly: neither the broker's
/// read-committed end nor, so, the lag counts it. The broker ends the transaction by its timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_hangs_holds_up_what_follows_until_the_broker_ends_it() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    scene.send(&[event("before", "b", "page.viewed")]).await;
    scene.caught_up().await;

    let hanging = transactional(&scene, "3000");
    hanging.begin_transaction().unwrap();
    write(&scene, &hanging, 0, "hanging").await;
    let begun = Instant::now();
    let log = Since::now(&worker);
    let sent = scene.send(&[event("after", "a", "page.viewed")]).await;
    assert_eq!(scene.ends().await[&0], 1, "the log ends, as readers see it, where it hangs");
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, 1);
    assert_eq!(worker.get("/livez").await.0, 200);

    scene.passes(&[(0, sent[0].1 + 1)].into()).await;
    let took = begun.elapsed();
    eprintln!("hanging transaction of 3 s: recovered within {took:?}");
    assert!(took >= Duration::from_secs(2), "it did hold up what followed: {took:?}");
    scene.caught_up().await;
    no_lag(&worker, 1).await;
    let users: Vec<(String,)> = scene.fetch_all("SELECT user_id FROM users ORDER BY 1").await;
    assert_eq!(users, [("after".to_owned(),), ("before".to_owned(),)]);
    log.is_quiet("hanging transaction", &worker);
    assert_eq!(worker.stop().await, Some(0));
    drop(hanging);
}
