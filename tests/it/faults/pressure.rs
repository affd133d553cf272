//! More work than Postgres takes, and writers in each other's way.

use std::time::{Duration, Instant};

use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::{Scene, eventually};

/// Longer than the poll interval: a worker that stopped polling would be thrown out.
const HOLD: Duration = Duration::from_secs(12);

#[tokio::test]
async fn chaos_a_backlog_behind_a_stuck_database_pauses_partitions_and_keeps_membership() {
    let scene = Scene::new(4).await;
    // 200 MiB: more than may be held.
    let backlog = Load::mixed(20_000).padding(16 * 1024).limit(12_500);
    let worker = scene
        .worker()
        .set("KAFKA__SESSION_TIMEOUT", "6s")
        .set("KAFKA__MAX_POLL_INTERVAL", "8s")
        .start()
        .await;
    worker.holds(4).await;
    let rebalances = worker.metric("user_events_rebalances_total", "").await;

    let fault = scene
        .fault(8, "200 MiB behind a table locked for longer than the poll interval")
        .within(Duration::from_secs(180), "200 MiB are to be applied");
    let mut lock = scene.hold("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
    let load = scene.produce(backlog);
    lock.blocks_somebody().await;
    eventually("every partition is paused", async || {
        (worker.metric("user_events_partitions_paused", "").await == 4.0).then_some(())
    })
    .await;
    let started = Instant::now();
    let ledger = load.finished().await;
    eprintln!("produced within {:?}", started.elapsed());
    let until = Instant::now() + HOLD;
    while Instant::now() < until {
        assert_eq!(worker.get("/livez").await.0, 200, "it goes on polling");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let status = worker.status().await;
    let states: Vec<_> = status["partitions"].as_array().unwrap().iter().collect();
    assert!(states.iter().all(|p| p["state"] == "paused"), "{status}");
    assert!(worker.metric("user_events_lag_records", "").await > 10_000.0, "the lag is told");
    assert_eq!(worker.get("/readyz").await.0, 200, "postgres answers, however slowly");
    lock.release().await;
    let released = Instant::now();

    let total = i64::try_from(ledger.len()).unwrap();
    let mut applied = scene.progress().await;
    while applied < total {
        applied = eventually("the backlog drains further", async || {
            Some(scene.progress().await).filter(|now| *now > applied)
        })
        .await;
    }
    fault.ended(released, &scene).await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(worker.metric("user_events_rebalances_total", "").await, rebalances);
    assert_eq!(worker.metric("user_events_partitions_paused", "").await, 0.0);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_writers_in_each_others_way_all_finish() {
    let scene = Scene::new(8).await;
    let load = Load::crossed(20_000).users(30).limit(20_000);
    let ledger = scene.produce(load).finished().await;
    let worker = scene.worker().set("BATCH__LANES", "4").set("BATCH__MAX_EVENTS", "50");
    let fault = scene.fault(28, "two workers of four lanes, and 30 users in every partition");
    let workers = [worker.start().await, worker.start().await];
    fault.ends(&scene).await;
    scene.check(&ledger, Projection::Counts).await;
    let mut conflicts = 0.0;
    for worker in &workers {
        conflicts += worker.metric("user_events_apply_errors_total", "retry").await;
    }
    // Each deadlock costs a second. A lane that met one locks its users in order from then on.
    eprintln!("conflicts: {conflicts}");
    assert!(conflicts < 50.0, "{conflicts} conflicts");
    for worker in workers {
        assert_eq!(worker.stop().await, Some(0));
    }
}
