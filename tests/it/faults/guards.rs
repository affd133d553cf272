//! What each guard is for, shown where it alone stands between a fault and a wrong row.
//! `scripts/guards` takes each guard away in turn and wants these tests to fail.

use nix::sys::signal::Signal;
use sqlx::Executor;

use crate::support::{EventBuilder, Scene, Worker, WorkerBuilder, event, eventually};

fn logins(ids: std::ops::Range<usize>) -> Vec<EventBuilder> {
    ids.map(|id| event("ann", &id.to_string(), "login")).collect()
}

/// A worker whose group notices soon that it is gone.
fn hasty(scene: &Scene) -> WorkerBuilder {
    scene.worker().set("KAFKA__SESSION_TIMEOUT", "2s").set("KAFKA__CLAIM_PATIENCE", "1s")
}

/// A worker that has applied offset 0 and stands at the fence with what follows, while `change`
/// (SQL) happens to its row.
async fn changed_at_the_fence(change: &str) -> (Scene, Worker) {
    let scene = Scene::new(1).await;
    let worker = hasty(&scene).start().await;
    scene.send(&logins(0..1)).await;
    scene.caught_up().await;
    let mut row = scene.hold(change).await;
    scene.send(&logins(1..3)).await;
    row.blocks_somebody().await;
    row.commit().await;
    (scene, worker)
}

#[tokio::test]
async fn a_batch_under_an_old_claim_is_not_written_however_well_its_offset_fits() {
    let claim = "UPDATE source_offsets SET epoch = epoch + 1, claimed_by = 'another'";
    let (scene, worker) = changed_at_the_fence(claim).await;
    let events = eventually("the batch is fenced or written", async || {
        let events = scene.count("SELECT count(*) FROM user_events").await;
        let fenced = worker.metric("user_events_fenced_total", "").await;
        (fenced > 0.0 || events > 1).then_some(events)
    })
    .await;
    assert_eq!(events, 1, "a batch under an old claim was written");
    // Nobody else is there: after an undisturbed session it is sure, and claims again.
    scene.caught_up().await;
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, 3);
    assert_eq!(scene.count("SELECT event_count FROM users").await, 3);
}

#[tokio::test]
async fn a_batch_that_begins_elsewhere_than_its_partition_stands_is_not_written() {
    let (scene, _worker) = changed_at_the_fence("UPDATE source_offsets SET next_offset = 2").await;
    scene.caught_up().await;
    let offsets: Vec<(i64,)> =
        scene.fetch_all("SELECT kafka_offset FROM user_events ORDER BY 1").await;
    assert_eq!(offsets, [(0,), (2,)], "a batch was written from where its partition did not stand");
}

#[tokio::test]
async fn a_worker_killed_before_its_commit_leaves_nothing_behind() {
    let scene = Scene::new(1).await;
    let mut worker = hasty(&scene).failpoint("before-commit=1*return").start().await;
    scene.send(&logins(0..20)).await;
    assert_eq!(worker.ended().await, None, "killed");
    let left = "SELECT (SELECT count(*) FROM user_events) + (SELECT count(*) FROM users)
                     + (SELECT count(next_offset) FROM source_offsets)";
    assert_eq!(scene.count(left).await, 0, "half a batch was committed");
    let _successor = scene.worker().start().await;
    scene.caught_up().await;
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, 20);
}

#[tokio::test]
async fn a_worker_behind_a_stuck_database_still_answers_its_group() {
    let scene = Scene::new(2).await;
    let worker = scene
        .worker()
        .set("KAFKA__MAX_POLL_INTERVAL", "6s")
        .set("POSTGRES__LOCK_TIMEOUT", "20s")
        .set("BATCH__LANES", "1")
        .set("BATCH__MAX_EVENTS", "100");
    let first = worker.start().await;
    first.holds(2).await;
    let fault = scene.fault(8, "a full queue behind a locked table");
    let mut lock = scene.hold("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
    // More than the lane's queue takes.
    let events: Vec<_> =
        logins(0..6_000).into_iter().enumerate().map(|(n, e)| e.to(n as i32 % 2)).collect();
    scene.send(&events).await;
    lock.blocks_somebody().await;
    let second = worker.start().await;
    let (kept, taken) = eventually("the group shares out its partitions", async || {
        let (kept, taken) = (first.assigned().await, second.assigned().await);
        (taken == 2 || (kept, taken) == (1, 1)).then_some((kept, taken))
    })
    .await;
    assert_eq!((kept, taken), (1, 1), "a member that did not poll was thrown out");
    lock.release().await;
    fault.ends(&scene).await;
}

#[tokio::test]
async fn a_claim_waits_for_a_lock_no_longer_than_its_timeout() {
    let scene = Scene::new(1).await;
    scene.migrate().await;
    let mut lock = scene.hold("LOCK TABLE source_offsets IN EXCLUSIVE MODE").await;
    let worker = scene
        .worker()
        .set("POSTGRES__LOCK_TIMEOUT", "300ms")
        .set("POSTGRES__STATEMENT_TIMEOUT", "3s")
        .start()
        .await;
    lock.blocks_somebody().await;
    let errors = async |kind| worker.metric("user_events_apply_errors_total", kind).await;
    eventually("the claim gives way", async || {
        (errors("retry").await + errors("smaller").await > 0.0).then_some(())
    })
    .await;
    assert_eq!(errors("smaller").await, 0.0, "a claim waited until its statement timed out");
    lock.release().await;
    worker.holds(1).await;
}

#[tokio::test]
async fn the_locks_of_a_sleeping_worker_are_freed_by_postgres() {
    let scene = Scene::new(1).await;
    let worker = scene
        .worker()
        .set("POSTGRES__IDLE_IN_TRANSACTION_TIMEOUT", "1s")
        .failpoint("after-fence=1*return(stop)")
        .start()
        .await;
    scene.send(&logins(0..20)).await;
    worker.is_asleep().await;
    let fault = scene.fault(5, "SIGSTOP behind the fence, until its locks are freed");
    let mut successor = scene.db().await;
    successor.execute("SET lock_timeout = '5s'").await.unwrap();
    let locked = successor.execute("SELECT FROM source_offsets FOR UPDATE").await;
    assert!(locked.is_ok(), "the locks of a sleeper outlive its patience: {locked:?}");
    worker.signal(Signal::SIGCONT);
    fault.ends(&scene).await;
    assert_eq!(scene.count("SELECT event_count FROM users").await, 20);
}

#[tokio::test]
async fn a_failpoint_that_does_not_exist_refuses_the_start() {
    let scene = Scene::new(1).await;
    let (code, _, log) = scene.worker().failpoint("before-lunch=return").output().await;
    assert_eq!(code, Some(1));
    assert!(log.contains("before-lunch") && log.contains("before-commit"), "{log}");
}
