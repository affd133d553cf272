//! Where a partition begins that Postgres holds no position for.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::load::Ledger;
use super::{no_lag, row};
use crate::support::{Scene, Worker, eventually};

/// Waits until Postgres holds a position for every partition; answers them in order.
async fn begun(scene: &Scene) -> Vec<i64> {
    eventually("every partition has a position", async || {
        let positions = scene.positions().await?;
        let all = positions.len() == scene.partitions as usize;
        all.then(|| positions.values().copied().collect())
    })
    .await
}

async fn reading(worker: &Worker, scene: &Scene) {
    for partition in 0..scene.partitions {
        eventually("the partition is read", async || {
            (row(worker, &scene.topic, partition).await?["state"] == "reading").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn earliest_begins_where_the_log_begins_even_if_that_is_not_zero() {
    let scene = Scene::new(2).await;
    let (mut expired, mut kept) = (Ledger::default(), Ledger::from(100));
    expired.send_to(&scene, 0, 10).await;
    scene.delete_records_before(0, 10).await;
    kept.send_to(&scene, 0, 5).await;
    kept.send_to(&scene, 1, 5).await;
    let worker = scene.worker().set("KAFKA__START_FROM", "earliest").start().await;
    kept.is_applied(&scene).await;
    assert_eq!(begun(&scene).await, [15, 5]);
    no_lag(&worker, 2).await;
}

#[tokio::test]
async fn latest_passes_over_the_past_and_a_restart_loses_nothing_that_came_meanwhile() {
    let scene = Scene::new(2).await;
    let (mut past, mut news) = (Ledger::default(), Ledger::from(100));
    past.send_to(&scene, 0, 10).await;
    past.send_to(&scene, 1, 3).await;
    let worker = scene.worker().set("KAFKA__START_FROM", "latest").start().await;
    reading(&worker, &scene).await;
    assert_eq!(begun(&scene).await, [10, 3], "where it began is stored before any record comes");
    assert_eq!(worker.stop().await, Some(0));

    news.send(&scene, 40).await;
    let worker = scene.worker().set("KAFKA__START_FROM", "latest").start().await;
    news.is_applied(&scene).await;
    no_lag(&worker, 2).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn committed_goes_on_where_the_group_stood_in_kafka_and_only_the_first_time() {
    let scene = Scene::new(2).await;
    let (mut past, mut news) = (Ledger::default(), Ledger::from(100));
    past.send_to(&scene, 0, 10).await;
    commit(&scene, 0, 10).await;
    news.send_to(&scene, 0, 5).await;
    // The group never read this one: it begins at its beginning.
    news.send_to(&scene, 1, 7).await;
    let worker = scene.worker().set("KAFKA__START_FROM", "committed").start().await;
    news.is_applied(&scene).await;
    assert_eq!(worker.stop().await, Some(0));

    // From now on Postgres is the truth: an offset reset in Kafka moves nothing.
    commit(&scene, 0, 2).await;
    news.send_to(&scene, 0, 5).await;
    let worker = scene.worker().set("KAFKA__START_FROM", "committed").start().await;
    news.is_applied(&scene).await;
    no_lag(&worker, 2).await;
}

#[tokio::test]
async fn kafka_is_told_what_postgres_has_though_nothing_flows() {
    let scene = Scene::new(1).await;
    let mut sent = Ledger::default();
    sent.send(&scene, 10).await;
    let worker = scene.worker().start().await;
    sent.is_applied(&scene).await;
    assert_eq!(worker.stop().await, Some(0));

    commit(&scene, 0, 2).await;
    let _worker = scene.worker().start().await;
    eventually("the offset in kafka is that of postgres", async || {
        (scene.mirrored().await.get(&0) == Some(&10)).then_some(())
    })
    .await;
}

/// Commits an offset for the scene's group, as an earlier consumer of it would have.
async fn commit(scene: &Scene, partition: i32, offset: i64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &scene.brokers)
        .set("group.id", &scene.group)
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&scene.topic, partition, Offset::Offset(offset)).unwrap();
    tokio::task::spawn_blocking(move || {
        consumer.commit(&list, CommitMode::Sync).unwrap();
        let stored = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
        assert_eq!(stored.elements()[0].offset(), Offset::Offset(offset));
    })
    .await
    .unwrap();
}
