//! Workers that join and leave, and two that claim to be the same.

use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::{Scene, WorkerBuilder, eventually};

/// 1 -> 3 -> 1, `rounds` times, each member graceful.
async fn join_and_leave(
    rounds: usize,
    group: &str,
    configured: fn(WorkerBuilder) -> WorkerBuilder,
) {
    let scene = Scene::new(6).await;
    let load = scene.produce(Load::mixed(500));
    let worker = configured(scene.worker());
    let first = worker.start().await;
    first.holds(6).await;
    for _ in 0..rounds {
        scene.progresses(200).await;
        let fault = scene.fault(9, format!("two workers join and leave, {group}"));
        let second = worker.start().await;
        scene.progresses(200).await;
        let third = worker.start().await;
        for member in [&first, &second, &third] {
            member.holds(2).await;
        }
        scene.progresses(200).await;
        assert_eq!(second.stop().await, Some(0));
        scene.progresses(200).await;
        assert_eq!(third.stop().await, Some(0));
        fault.ends(&scene).await;
        first.holds(6).await;
    }
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    assert!(first.metric("user_events_rebalances_total", "assigned").await >= 2.0);
    assert_eq!(first.metric("user_events_rebalances_total", "lost").await, 0.0);
    assert_eq!(first.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_workers_join_and_leave_under_load_and_nothing_is_lost_or_doubled() {
    join_and_leave(2, "cooperative", |worker| worker).await;
}

#[tokio::test]
async fn chaos_workers_join_and_leave_an_eager_group() {
    join_and_leave(1, "eager", |worker| worker.set("KAFKA__ASSIGNMENT_STRATEGY", "range")).await;
}

#[tokio::test]
async fn chaos_workers_join_and_leave_a_group_that_the_broker_assigns() {
    let consumer = |worker: WorkerBuilder| worker.set("KAFKA__GROUP_PROTOCOL", "consumer");
    join_and_leave(1, "consumer protocol", consumer).await;
}

#[tokio::test]
async fn chaos_of_two_workers_with_one_instance_id_the_older_ends_and_says_why() {
    let scene = Scene::new(4).await;
    let load = scene.produce(Load::mixed(300));
    let worker = scene.worker().set("KAFKA__GROUP_INSTANCE_ID", "the-same");
    let mut older = worker.start().await;
    older.holds(4).await;
    scene.progresses(200).await;
    let fault = scene.fault(10, "a twin, in the classic protocol");
    let younger = worker.start().await;
    assert_eq!(older.ended().await, Some(1), "a member that is fenced exits non-zero");
    fault.ends(&scene).await;
    let log = older.log();
    let said = log.lines().filter(|line| line.contains("\"ERROR\"")).any(|line| {
        line.contains("group.instance.id") || line.to_lowercase().contains("fenced by")
    });
    assert!(said, "the reason is in the log");
    younger.holds(4).await;
    scene.progresses(200).await;
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(younger.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_a_partition_that_leaves_and_returns_while_its_records_wait_in_a_queue_loses_none() {
    let scene = Scene::new(4).await;
    // One lane, so that records of partitions that stay hold up those of partitions that leave.
    let worker = scene.worker().set("BATCH__LANES", "1").set("BATCH__MAX_EVENTS", "100");
    let first = worker.clone().set("POSTGRES__LOCK_TIMEOUT", "20s").start().await;
    first.holds(4).await;
    let fault = scene.fault(9, "partitions leave and return while their records wait");
    let mut lock = scene.hold("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
    let ledger = scene.produce(Load::mixed(20_000).limit(6_000)).finished().await;
    lock.blocks_somebody().await;
    eventually("records wait in the queue", async || {
        (first.metric("user_events_records_consumed_total", "").await > 1_000.0).then_some(())
    })
    .await;
    let second = worker.set("POSTGRES__LOCK_TIMEOUT", "1s").start().await;
    eventually("partitions leave", async || (first.assigned().await == 2).then_some(())).await;
    assert_eq!(second.stop().await, Some(0));
    eventually("partitions return", async || (first.assigned().await == 4).then_some(())).await;
    lock.release().await;
    fault.ends(&scene).await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(first.stop().await, Some(0));
}
