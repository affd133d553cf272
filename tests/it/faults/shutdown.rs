//! SIGTERM and SIGINT, with work under way.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::checker::Projection;
use crate::support::load::{Load, Producing};
use crate::support::{Fault, Held, Scene, Worker, WorkerBuilder, eventually};

/// A worker under load whose batch cannot be finished until the lock is released.
struct MidBatch {
    scene: Scene,
    load: Producing,
    lock: Held,
    worker: Worker,
    fault: Fault,
}

impl MidBatch {
    async fn new(fault: &str, configured: fn(WorkerBuilder) -> WorkerBuilder) -> Self {
        let scene = Scene::new(4).await;
        let load = scene.produce(Load::mixed(500));
        let worker = configured(scene.worker()).start().await;
        worker.holds(4).await;
        scene.progresses(200).await;
        let mut lock = scene.hold("LOCK TABLE source_offsets IN EXCLUSIVE MODE").await;
        lock.blocks_somebody().await;
        let fault = scene.fault(2, fault);
        Self { scene, load, lock, worker, fault }
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
    async fn finished_by_another(scene: Scene, load: Producing, fault: Fault) {
        let second = fault.ends_with(&scene.worker(), &scene).await;
        let ledger = load.stop().await;
        scene.check(&ledger, Projection::Whole).await;
        assert_eq!(second.stop().await, Some(0));
    }
}

#[tokio::test]
async fn chaos_sigterm_within_a_batch_drops_readiness_finishes_it_and_mirrors_its_offsets() {
    let staged = MidBatch::new("SIGTERM within a batch", |worker| worker).await;
    let before = staged.scene.progress().await;
    staged.asked_to_stop().await;
    let MidBatch { scene, load, lock, worker, fault } = staged;
    lock.release().await;
    let asked = Instant::now();
    assert_eq!(worker.exited().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(25), "within its grace");
    assert!(scene.progress().await > before, "the batch under way was finished");
    assert_eq!(Some(scene.mirrored().await), scene.positions().await);
    MidBatch::finished_by_another(scene, load, fault).await;
}

#[tokio::test]
async fn chaos_a_second_signal_ends_a_drain_that_cannot_finish() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let fault = format!("SIGTERM within a batch that cannot finish, then {second}");
        let staged = MidBatch::new(&fault, |worker| worker).await;
        staged.asked_to_stop().await;
        let MidBatch { scene, load, lock, worker, fault } = staged;
        worker.signal(second);
        let asked = Instant::now();
        assert_eq!(worker.exited().await, Some(1));
        assert!(asked.elapsed() < Duration::from_secs(10), "at once, not at the end of its grace");
        lock.release().await;
        MidBatch::finished_by_another(scene, load, fault).await;
    }
}

#[tokio::test]
async fn chaos_a_drain_that_overruns_its_grace_ends_by_itself_and_says_so() {
    let overrun = "SIGTERM within a batch that overruns its grace";
    let staged = MidBatch::new(overrun, |worker| worker.set("SHUTDOWN__GRACE", "2s")).await;
    staged.asked_to_stop().await;
    let MidBatch { scene, load, lock, mut worker, fault } = staged;
    let asked = Instant::now();
    assert_eq!(worker.ended().await, Some(1));
    assert!(asked.elapsed() < Duration::from_secs(15));
    assert!(worker.log().contains("not finished within shutdown.grace"));
    lock.release().await;
    MidBatch::finished_by_another(scene, load, fault).await;
}
