//! Workers that sleep through the loss of their partitions and wake up believing.

use nix::sys::signal::Signal;

use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::locks::blocked_by;
use crate::support::{Scene, eventually};

use super::{never_stepped_back, watch_for_steps_back};

#[tokio::test]
async fn chaos_a_zombie_that_wakes_after_its_partitions_moved_is_fenced_and_shares_work_again() {
    let scene = Scene::new(6).await;
    let load = scene.produce(Load::mixed(800));
    let sleeper = scene.worker().start().await;
    let other = scene.worker().start().await;
    sleeper.holds(3).await;
    other.holds(3).await;

    let fault = scene.fault(4, "SIGSTOP until another has the partitions");
    // Asleep within a batch: it will want to write what it has read.
    let mut lock = scene.hold("LOCK TABLE dead_letters IN EXCLUSIVE MODE").await;
    let waiting = lock.blocks_somebody().await;
    assert!(!waiting.is_empty());
    sleeper.signal(Signal::SIGSTOP);
    lock.release().await;

    other.holds(6).await;
    scene.progresses(500).await;
    sleeper.signal(Signal::SIGCONT);
    fault.ends(&scene).await;
    eventually("the zombie notices", async || {
        let fenced = sleeper.metric("user_events_fenced_total", "").await;
        let lost = sleeper.metric("user_events_rebalances_total", "lost").await;
        (fenced + lost > 0.0).then_some(())
    })
    .await;
    sleeper.holds(3).await;
    other.holds(3).await;
    scene.progresses(500).await;
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(sleeper.stop().await, Some(0));
    assert_eq!(other.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_a_zombie_inside_its_transaction_holds_up_its_successor_for_a_while_only() {
    let scene = Scene::new(4).await;
    let load = scene.produce(Load::mixed(500));
    let worker = scene
        .worker()
        .set("BATCH__LANES", "1")
        .set("POSTGRES__LOCK_TIMEOUT", "3s")
        // Longer than the session: the successor comes while the transaction is still open.
        .set("POSTGRES__IDLE_IN_TRANSACTION_TIMEOUT", "15s");
    let zombie = worker.start().await;
    zombie.holds(4).await;
    scene.progresses(500).await;

    // The fence is passed, the projection waits for the busiest user's row.
    let mut lock = scene.hold("SELECT FROM users WHERE user_id = 'user-0000' FOR UPDATE").await;
    let zombies_session = lock.blocks_somebody().await[0];
    let fault = scene.fault(5, "SIGSTOP within a transaction, until it is given up");
    zombie.signal(Signal::SIGSTOP);
    lock.release().await;
    let mut conn = scene.db().await;
    eventually("the zombie's transaction is open and idle", async || {
        let state: Option<String> =
            sqlx::query_scalar("SELECT state FROM pg_stat_activity WHERE pid = $1")
                .bind(zombies_session)
                .fetch_optional(&mut conn)
                .await
                .unwrap();
        (state.as_deref() == Some("idle in transaction")).then_some(())
    })
    .await;

    let successor = worker.start().await;
    eventually("the successor's claim waits for the zombie's transaction", async || {
        let waiting = blocked_by(&mut conn, zombies_session).await;
        (!waiting.is_empty()).then_some(())
    })
    .await;
    successor.holds(4).await;
    scene.progresses(500).await;

    zombie.signal(Signal::SIGCONT);
    fault.ends(&scene).await;
    zombie.holds(2).await;
    successor.holds(2).await;
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(zombie.stop().await, Some(0));
    assert_eq!(successor.stop().await, Some(0));
}

/// A worker that falls asleep at a failpoint in the midst of a batch, is succeeded, and wakes up
/// with the rest of that batch before it. Postgres keeps its transaction open for `idle`.
async fn sleeps_at(point: &str, idle: &str) {
    let scene = Scene::new(4).await;
    watch_for_steps_back(&scene).await;
    let load = scene.produce(Load::mixed(500));
    let worker = scene
        .worker()
        // No other lane, which might fall asleep with locks of its own.
        .set("BATCH__LANES", "1")
        .set("KAFKA__SESSION_TIMEOUT", "3s")
        .set("POSTGRES__LOCK_TIMEOUT", "1s")
        .set("POSTGRES__IDLE_IN_TRANSACTION_TIMEOUT", idle);
    let stop = format!("{point}=20*off->1*return(stop)");
    let sleeper = worker.clone().failpoint(&stop).start().await;
    let fault = scene.fault(5, format!("SIGSTOP {point}"));
    sleeper.is_asleep().await;
    let successor = worker.start().await;
    successor.holds(4).await;
    scene.progresses(300).await;

    sleeper.signal(Signal::SIGCONT);
    fault.ends(&scene).await;
    sleeper.holds(2).await;
    successor.holds(2).await;
    scene.progresses(300).await;
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    never_stepped_back(&scene).await;
    assert_eq!(sleeper.metric("user_events_rebalances_total", "lost").await, 1.0);
    assert_eq!(sleeper.stop().await, Some(0));
    assert_eq!(successor.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_a_zombie_asleep_before_the_fence_does_not_pass_it_any_more() {
    // Its transaction is still open when it wakes: nothing but the fence keeps it from writing.
    sleeps_at("before-fence", "60s").await;
}

#[tokio::test]
async fn chaos_a_zombie_asleep_behind_the_fence_has_written_nothing() {
    sleeps_at("after-fence", "2s").await;
}

#[tokio::test]
async fn chaos_a_zombie_asleep_after_its_commit_has_written_once() {
    sleeps_at("after-commit", "2s").await;
}
