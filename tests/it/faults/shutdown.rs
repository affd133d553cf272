//! SIGTERM and SIGINT, with work under way.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::checker::Projection;
use crate::support::load::{Load, Producing};
use crate::support::{Held, Scene, Worker, WorkerBuilder, eventually};

/// A worker under load whose batch cannot be finished until the lock is released.
struct MidBatch {
    scene: Scene,
    load: Producing,
    lock: Held,
    worker: Worker,
}

impl MidBatch {
    async fn new(configured: fn(WorkerBuilder) -> WorkerBuilder) -> Self {
        let scene = Scene::new(4).await;
        let load = scene.produce(Load::mixed(500));
        let worker = configured(scene.worker()).start().await;
        worker.holds(4).await;
        scene.progresses(200).await;
        let mut lock = scene.hold("LOCK TABLE source_offsets IN EXCLUSIVE MODE").await;
        lock.blocks_somebody().await;
        Self { scene, load, lock, worker }
    }

    async fn asked_to_stop(&self) {
        assert_eq!(self.worker.get("/readyz").await.0, 200);
        self.worker.signal(Signal::SIGTERM);
        eventually("readiness drops", async || {
            let (status, body) = self.worker.get("/readyz").await;
            (status == 503 && body.contains("stopping")).then_some(())
        })
        .await;
        assert_eq!(self.worker.get("/livez").await.0, 200, "stopping, not dead");
    }

    /// What the first worker left is finished by a second.
    async fn finished_by_another(scene: Scene, load: Producing) {
        let second = scene.worker().start().await;
        let ledger = load.stop().await;
        scene.check(&ledger, Projection::Whole).await;
        assert_eq!(second.stop().await, Some(0));
    }
}

#[tokio::test]
async fn chaos_sigterm_within_a_batch_drops_readiness_finishes_it_and_mirrors_its_offsets() {
    let staged = MidBatch::new(|worker| worker).await;
    let before = staged.scene.progress().await;
    staged.asked_to_stop().await;
    let MidBatch { scene, load, lock, worker } = staged;
    lock.release().await;
    let asked = Instant::now();
    assert_eq!(worker.exited().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(25), "within its grace");
    assert!(scene.progress().await > before, "the batch under way was finished");
    assert_eq!(Some(scene.mirrored().await), scene.positions().await);
    MidBatch::finished_by_another(scene, load).await;
}

#[tokio::test]
async fn chaos_a_second_signal_ends_a_drain_that_cannot_finish() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let staged = MidBatch::new(|worker| worker).await;
        staged.asked_to_stop().await;
        let MidBatch { scene, load, lock, worker } = staged;
        worker.signal(second);
        let asked = Instant::now();
        assert_eq!(worker.exited().await, Some(1));
        assert!(asked.elapsed() < Duration::from_secs(10), "at once, not at the end of its grace");
        lock.release().await;
        MidBatch::finished_by_another(scene, load).await;
    }
}

#[tokio::test]
async fn chaos_a_drain_that_overruns_its_grace_ends_by_itself_and_says_so() {
    let staged = MidBatch::new(|worker| worker.set("SHUTDOWN__GRACE", "2s")).await;
    staged.asked_to_stop().await;
    let MidBatch { scene, load, lock, mut worker } = staged;
    let asked = Instant::now();
    assert_eq!(worker.ended().await, Some(1));
    assert!(asked.elapsed() < Duration::from_secs(15));
    assert!(worker.log().contains("not finished within shutdown.grace"));
    lock.release().await;
    MidBatch::finished_by_another(scene, load).await;
}
