//! `kill -9` at exact points of a batch, two workers at a time.

use rand::RngExt;

use crate::support::Scene;
use crate::support::checker::Projection;
use crate::support::load::Load;

use super::{never_stepped_back, watch_for_steps_back};

const POINTS: [&str; 4] = ["before-fence", "after-fence", "before-commit", "after-commit"];

/// One static member that dies again and again, and is back at once.
async fn dies(scene: &Scene, member: &str, times: usize) {
    for time in 0..times {
        let point = POINTS[time % POINTS.len()];
        let batches = rand::rng().random_range(1..8);
        let mut worker = scene
            .worker()
            .set("KAFKA__GROUP_INSTANCE_ID", member)
            .set("KAFKA__CLAIM_PATIENCE", "1s")
            .set("BATCH__MAX_EVENTS", "200")
            .failpoint(&format!("{point}={batches}*off->1*return"))
            .start()
            .await;
        assert_eq!(worker.ended().await, None, "killed, not ended:\n{}", worker.log());
        let reached = format!("\"point\":\"{point}\"");
        assert!(worker.log().contains(&reached), "killed at {point}:\n{}", worker.log());
    }
}

async fn killed_under_load(kills: usize) {
    let scene = Scene::new(6).await;
    watch_for_steps_back(&scene).await;
    let load = scene.produce(Load::mixed(400));
    let fault = scene.fault(1, format!("{kills} times kill -9 at exact points of a batch"));
    tokio::join!(dies(&scene, "one", kills / 2), dies(&scene, "two", kills / 2));
    let member = |name| scene.worker().set("KAFKA__GROUP_INSTANCE_ID", name);
    let (one, two) = (member("one"), member("two"));
    let (survivor, other, _) = tokio::join!(one.start(), two.start(), fault.ends(&scene));
    scene.progresses(200).await;
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    never_stepped_back(&scene).await;
    assert_eq!(survivor.stop().await, Some(0));
    assert_eq!(other.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_kills_at_every_point_of_a_batch_lose_and_double_nothing() {
    killed_under_load(24).await;
}

#[tokio::test]
async fn long_chaos_two_hundred_kills_at_every_point_of_a_batch_lose_and_double_nothing() {
    killed_under_load(200).await;
}
