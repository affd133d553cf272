//! `kill -9`.

use std::time::Duration;

use rand::RngExt;

use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::{Scene, Worker};

/// Two slots, one with a dynamic and one with a static member: the latter's successor takes over
/// at once, the former's partitions wait for the session to end.
async fn start(scene: &Scene, slot: usize) -> Worker {
    let worker = scene
        .worker()
        .set("KAFKA__SESSION_TIMEOUT", "2s")
        .set("KAFKA__CLAIM_PATIENCE", "1s")
        .set("BATCH__MAX_EVENTS", "200");
    match slot {
        0 => worker.start().await,
        _ => worker.set("KAFKA__GROUP_INSTANCE_ID", "static").start().await,
    }
}

#[tokio::test]
async fn chaos_twenty_kills_under_load_lose_and_double_nothing() {
    let scene = Scene::new(6).await;
    let load = scene.produce(Load::mixed(500));
    let mut workers = vec![start(&scene, 0).await, start(&scene, 1).await];
    let fault = scene.fault(1, "20 times kill -9 at random, of one of two workers");
    for _ in 0..20 {
        // Work is under way again, at any point of a batch.
        scene.progresses(100).await;
        let moment = rand::rng().random_range(0..400);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        let slot = rand::rng().random_range(0..2);
        let fresh = start(&scene, slot);
        workers.remove(slot).kill().await;
        workers.insert(slot, fresh.await);
    }
    fault.ends(&scene).await;
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    let (claims,): (i64,) = scene.fetch_one("SELECT sum(epoch)::bigint FROM source_offsets").await;
    assert!(claims > 20, "partitions changed hands: {claims} claims");
}
