//! The log is not what it was: recreated, expired, or given more partitions.

use super::load::{Ledger, Load, applied_at_least};
use super::{halted, no_lag, ready, row, shared_brokers};
use crate::support::{Scene, eventually};

use std::sync::Arc;

use nix::sys::signal::Signal;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;

/// Another topic for the same group and schema.
async fn beside(scene: &Scene, partitions: i32) -> Scene {
    let mut other = Scene::on(&scene.brokers, &scene.database_url, partitions).await;
    other.group.clone_from(&scene.group);
    other.schema.clone_from(&scene.schema);
    other
}

/// Events to one partition of `scene`, which the worker applied before it was stopped.
async fn applied_and_stopped(scene: &Scene, other: &Scene, events: usize) {
    let mut sent = Ledger::default();
    sent.send_to(scene, 0, events).await;
    let worker = both(scene, other).start().await;
    worker.holds(3).await;
    scene.caught_up().await;
    other.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
}

fn both(scene: &Scene, other: &Scene) -> crate::support::WorkerBuilder {
    scene.worker().set("KAFKA__TOPICS", &format!("{},{}", scene.topic, other.topic))
}

async fn recreate(scene: &Scene) {
    scene.delete_topic().await;
    scene.create_topic(scene.partitions).await;
}

/// An operator decides where a halted partition goes on.
async fn move_by_hand(scene: &Scene, partition: i32, set: &str) {
    scene
        .execute(&format!(
            "UPDATE source_offsets SET {set}, epoch = epoch + 1, claimed_by = 'operator: me'
             WHERE topic = '{}' AND partition = {partition}",
            scene.topic
        ))
        .await;
}

async fn count(scene: &Scene) -> i64 {
    let sql = format!("SELECT count(*) FROM user_events WHERE kafka_topic = '{}'", scene.topic);
    scene.fetch_one::<(i64,)>(&sql).await.0
}

#[tokio::test]
async fn a_topic_recreated_with_fewer_records_halts_its_partition_and_no_other() {
    let scene = Scene::new(2).await;
    let other = beside(&scene, 1).await;
    applied_and_stopped(&scene, &other, 10).await;
    recreate(&scene).await;
    let mut lost = Ledger::default();
    lost.send_to(&scene, 0, 3).await;

    let worker = both(&scene, &other).start().await;
    let fault = scene.fault(17, "topic recreated with fewer records, until an operator moves on");
    let reason = halted(&worker, &scene, 0).await;
    assert!(reason.contains("position 10 lies beyond the end of the log (3)"), "{reason}");
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 1.0);
    let (mut elsewhere, mut same) = (Ledger::default(), Ledger::default());
    elsewhere.send(&other, 20).await;
    elsewhere.holds(&other).await;
    same.send_to(&scene, 1, 20).await;
    eventually("the other partition of the topic goes on", async || {
        (*scene.positions().await?.get(&1)? == 20).then_some(())
    })
    .await;
    ready(&worker).await;
    assert_eq!(count(&scene).await, 30, "nothing of the new log's first partition was touched");
    assert_eq!(scene.positions().await.unwrap()[&0], 10);

    move_by_hand(&scene, 0, "next_offset = 0").await;
    fault.ends(&scene).await;
    no_lag(&worker, 3).await;
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 0.0);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_topic_recreated_with_more_records_is_told_by_the_last_record_applied() {
    let scene = Scene::new(2).await;
    let other = beside(&scene, 1).await;
    applied_and_stopped(&scene, &other, 10).await;
    recreate(&scene).await;
    let mut unread = Ledger::default();
    unread.send_to(&scene, 0, 25).await;

    let worker = both(&scene, &other).start().await;
    let fault = scene.fault(17, "topic recreated with more records, until an operator moves on");
    let reason = halted(&worker, &scene, 0).await;
    assert!(reason.contains("the record at offset 9 is not the one that was applied"), "{reason}");
    assert!(reason.contains("recreated"), "{reason}");
    let mut elsewhere = Ledger::default();
    elsewhere.send(&other, 20).await;
    elsewhere.holds(&other).await;
    ready(&worker).await;
    assert_eq!(count(&scene).await, 10, "nothing of the new log was applied");

    move_by_hand(&scene, 0, "next_offset = 0").await;
    fault.ends(&scene).await;
    no_lag(&worker, 3).await;
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 0.0);
}

#[tokio::test]
async fn a_topic_recreated_under_a_running_worker_halts() {
    let scene = Scene::new(2).await;
    let other = beside(&scene, 1).await;
    let worker = both(&scene, &other).set("KAFKA__TOPIC_REFRESH_INTERVAL", "1s").start().await;
    worker.holds(3).await;
    let mut before = Ledger::default();
    before.send_to(&scene, 0, 10).await;
    scene.caught_up().await;

    recreate(&scene).await;
    let mut after = Ledger::default();
    after.send_to(&scene, 0, 3).await;
    let reason = halted(&worker, &scene, 0).await;
    assert!(reason.contains("recreated"), "{reason}");
    let mut elsewhere = Ledger::default();
    elsewhere.send(&other, 20).await;
    elsewhere.holds(&other).await;
    assert_eq!(count(&scene).await, 10, "nothing of the new log was applied");
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_topic_recreated_under_a_running_worker_and_already_longer_halts() {
    let scene = Scene::new(1).await;
    // Nothing is fetched between the old log and the new one: the topic is never seen missing.
    let worker = scene.worker().set("KAFKA__TOPIC_REFRESH_INTERVAL", "10s").start().await;
    worker.holds(1).await;
    let mut before = Ledger::default();
    before.send_to(&scene, 0, 10).await;
    scene.caught_up().await;

    let fault = scene.fault(17, "topic recreated under a worker, until an operator moves on");
    recreate(&scene).await;
    let mut after = Ledger::default();
    after.send_to(&scene, 0, 25).await;
    let reason = halted(&worker, &scene, 0).await;
    assert!(reason.contains("recreated"), "{reason}");
    assert_eq!(count(&scene).await, 10, "nothing of the new log was applied");

    move_by_hand(&scene, 0, "next_offset = 0").await;
    fault.ends(&scene).await;
    assert_eq!(count(&scene).await, 10 + 25, "the new log was applied whole");
    no_lag(&worker, 1).await;
}

#[tokio::test]
async fn records_expired_unread_halt_with_the_exact_gap_until_an_operator_moves_on() {
    let scene = Scene::new(1).await;
    let mut sent = Ledger::default();
    sent.send(&scene, 10).await;
    let worker = scene.worker().start().await;
    sent.is_applied(&scene).await;
    assert_eq!(worker.stop().await, Some(0));
    sent.send(&scene, 10).await;
    scene.delete_records_before(0, 15).await;

    let worker = scene.worker().start().await;
    let fault = scene.fault(16, "records expired unread, until an operator moves on");
    let reason = halted(&worker, &scene, 0).await;
    assert!(reason.contains("records 10..15 were deleted"), "{reason}");
    assert!(reason.contains("(5 offsets)"), "{reason}");
    ready(&worker).await;
    assert_eq!(count(&scene).await, 10, "nothing was skipped in silence");

    move_by_hand(&scene, 0, "next_offset = 15").await;
    fault.ends(&scene).await;
    assert_eq!(count(&scene).await, 15);
    no_lag(&worker, 1).await;
    eventually("the partition reads again", async || {
        (row(&worker, &scene.topic, 0).await?["state"] == "reading").then_some(())
    })
    .await;
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 0.0);
    assert_eq!(worker.stop().await, Some(0));
}

/// Records expire under a worker that reads, which therefore halts; then an operator moves it on.
async fn expire_under_a_running_worker(assignment_strategy: &str) {
    let scene = Scene::new(2).await;
    let worker = scene
        .worker()
        .set("KAFKA__ASSIGNMENT_STRATEGY", assignment_strategy)
        // One batch of a producer to a fetch: a broker always gives the first one whole.
        .set("KAFKA__LIBRDKAFKA__FETCH_MESSAGE_MAX_BYTES", "1");
    let worker = worker.start().await;
    worker.holds(2).await;
    let mut sent = Ledger::default();
    sent.send_to(&scene, 0, 10).await;
    scene.caught_up().await;

    let fault = scene.fault(16, format!("records expired under a worker ({assignment_strategy})"));
    worker.signal(Signal::SIGSTOP);
    // The fetch that waits at the broker brings one batch of these: ten events at most.
    sent.send_to(&scene, 0, 10).await;
    sent.send_to(&scene, 0, 10).await;
    scene.delete_records_before(0, 25).await;
    worker.signal(Signal::SIGCONT);
    let reason = halted(&worker, &scene, 0).await;
    assert!(reason.contains("..25 were deleted"), "{reason}");
    let applied = scene.positions().await.unwrap()[&0];
    assert!(applied < 25, "nothing was skipped in silence");

    move_by_hand(&scene, 0, "next_offset = 25").await;
    let mut elsewhere = Ledger::from(1_000);
    elsewhere.send_to(&scene, 1, 20).await;
    fault.ends(&scene).await;
    sent.send_to(&scene, 0, 10).await;
    scene.caught_up().await;
    assert_eq!(count(&scene).await, applied + 15 + 20, "without the gap, and nothing twice");
    no_lag(&worker, 2).await;
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 0.0);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn records_expired_under_a_running_worker_halt_it_until_an_operator_moves_on() {
    expire_under_a_running_worker("cooperative-sticky").await;
}

#[tokio::test]
async fn records_expired_under_a_running_worker_in_an_eager_group_do_the_same() {
    expire_under_a_running_worker("range").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_partitions_added_under_load_are_read_from_their_beginning() {
    let scene = Arc::new(Scene::new(2).await);
    let worker = scene.worker().set("KAFKA__TOPIC_REFRESH_INTERVAL", "1s").start().await;
    worker.holds(2).await;
    let load = Load::start(&scene);
    applied_at_least(&scene, 100).await;

    let fault = scene.fault(18, "two partitions more, under load");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &scene.brokers).create().unwrap();
    let more = NewPartitions::new(&scene.topic, 4);
    admin.create_partitions([&more], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    // A producer that knows them from its first record on.
    let mut wide = Scene::on(&shared_brokers(), &scene.database_url, 4).await;
    wide.topic.clone_from(&scene.topic);
    wide.schema.clone_from(&scene.schema);
    wide.create_topic(4).await;
    let mut added = Ledger::from(1_000_000);
    added.send_to(&wide, 2, 50).await;
    added.send_to(&wide, 3, 50).await;
    fault.ends(&wide).await;
    worker.holds(4).await;
    added.send_to(&wide, 2, 50).await;
    let mut sent = load.stop().await;
    sent.absorb(added);
    sent.is_applied(&wide).await;
    no_lag(&worker, 4).await;
    assert_eq!(worker.stop().await, Some(0));
}
