//! Row 22: a compacted topic, whose offsets have gaps and whose keys have tombstones.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::recovery::no_lag;
use crate::support::{EventBuilder, Scene, event, eventually};

const KEYS: usize = 20;

/// Segments that close at once, and a cleaner that finds every one of them worth its while.
const COMPACTED: [(&str, &str); 5] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "100"),
    ("min.cleanable.dirty.ratio", "0.001"),
    ("min.compaction.lag.ms", "0"),
    ("delete.retention.ms", "600000"),
];

/// The offsets that are left, and those of them without a value, as an independent reader sees it.
async fn left(scene: &Scene) -> (BTreeSet<i64>, BTreeSet<i64>) {
    let (brokers, topic, end) =
        (scene.brokers.clone(), scene.topic.clone(), scene.ends().await[&0]);
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let (mut all, mut tombstones) = (BTreeSet::new(), BTreeSet::new());
        // The last record is never compacted away.
        while !all.contains(&(end - 1)) {
            let Some(message) = consumer.poll(Duration::from_secs(10)) else { panic!("no record") };
            let message = message.unwrap();
            all.insert(message.offset());
            if message.payload().is_none() {
                tombstones.insert(message.offset());
            }
        }
        (all, tombstones)
    })
    .await
    .unwrap()
}

/// One event per key, a tombstone for every fifth; `round` sets the profile.
fn round(number: usize) -> Vec<EventBuilder> {
    let one = |key: usize| {
        let user = format!("u{key:02}");
        let event = event(&user, &format!("{key}-{number}"), "user.updated");
        if number > 0 && key.is_multiple_of(5) {
            return event.raw(None);
        }
        event.data(&format!(r#"{{"n":{number}}}"#))
    };
    (0..KEYS).map(one).collect()
}

/// Waits until only so many records are left of a log.
async fn compacted_to(scene: &Scene, at_most: usize) -> (BTreeSet<i64>, BTreeSet<i64>) {
    eventually("the log is compacted", async || {
        // The segment being written to is never cleaned: this closes it.
        scene.send(&[event("tick", &crate::support::unique("tick"), "page.viewed")]).await;
        let found = left(scene).await;
        (found.0.len() <= at_most).then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_topic_is_read_over_its_gaps_and_its_tombstones_are_kept_as_dead_letters() {
    let postgres = std::env::var("DATABASE_URL").expect("DATABASE_URL is set");
    let brokers = std::env::var("KAFKA_BOOTSTRAP_SERVERS").expect("it is set");
    let scene = Scene::without_topic(&brokers, &postgres, 1);
    scene.create_topic_with(1, &COMPACTED).await;
    scene.send(&round(0)).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
    let applied_before = scene.ends().await[&0];
    let fault = scene.fault(22, "all that was applied is compacted away");

    // While it is away, everything it has applied disappears, the last record among it.
    for number in 1..=10 {
        scene.send(&round(number)).await;
    }
    let (left, tombstones) = compacted_to(&scene, 4 * KEYS).await;
    assert!(!left.contains(&(applied_before - 1)), "the last record applied is gone: {left:?}");
    let gaps = scene.ends().await[&0] as usize - left.len();
    assert!(gaps > 50, "the fault was there: {gaps} offsets are gaps");
    assert!(!tombstones.is_empty());

    let worker = fault.ends_with(&scene.worker(), &scene).await;
    scene.caught_up().await;
    no_lag(&worker, 1).await;
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 0.0);
    let held: Vec<(i64, bool)> = scene
        .fetch_all(&format!(
            "SELECT kafka_offset, false FROM user_events WHERE kafka_offset >= {applied_before}
             UNION ALL SELECT kafka_offset, true FROM dead_letters WHERE reason = 'empty_value'"
        ))
        .await;
    let held_tombstones: BTreeSet<_> = held.iter().filter(|h| h.1).map(|h| h.0).collect();
    let held: BTreeSet<_> = held.iter().map(|h| h.0).collect();
    // The cleaner may have gone on since; what is left now was left when the worker read.
    let (still, still_tombstones) = self::left(&scene).await;
    assert!(still.iter().filter(|o| **o >= applied_before).all(|o| held.contains(o)), "none lost");
    assert!(still_tombstones.is_subset(&held_tombstones), "tombstones are dead letters");
    let last: (i64,) =
        scene.fetch_one("SELECT count(*) FROM users WHERE profile->>'n' = '10'").await;
    assert_eq!(last.0 as usize, KEYS - KEYS / 5, "each user stands at the last update");
    eprintln!("compaction: {gaps} gaps, {} tombstones", tombstones.len());
    assert_eq!(worker.stop().await, Some(0));
}
