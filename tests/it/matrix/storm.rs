//! Row 7: a rebalance storm. Every worker is restarted again and again, each by itself, most of
//! them politely, some by `kill -9`.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::{JoinSet, LocalSet};

use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::{Scene, Worker, WorkerBuilder, eventually};

#[derive(Clone, Copy)]
struct Storm {
    workers: usize,
    partitions: i32,
    restarts: usize,
    rate: usize,
    /// Records in all; the storm may end before they are produced.
    records: usize,
}

const SMALL: Storm =
    Storm { workers: 3, partitions: 8, restarts: 3, rate: 400, records: usize::MAX };
const BIG: Storm =
    Storm { workers: 8, partitions: 32, restarts: 16, rate: 2_000, records: 100_000 };

impl Storm {
    async fn rages(self, group: &str, configured: fn(WorkerBuilder) -> WorkerBuilder) {
        let scene = Arc::new(Scene::new(self.partitions).await);
        let load = scene.produce(Load::mixed(self.rate).users(2_000).limit(self.records));
        let restarts = self.workers * self.restarts;
        let worker = configured(scene.worker().set("BATCH__MAX_EVENTS", "500"));
        let seed: u64 = rand::random();
        eprintln!("storm: seed {seed}");
        let mut workers = Vec::new();
        for _ in 0..self.workers {
            workers.push(worker.start().await);
        }
        scene.progresses(200).await;
        let fault = scene
            .fault(7, format!("{restarts} restarts of {} workers, {group}", self.workers))
            .within(Duration::from_secs(60), "all partitions have moved");
        let restart_all = async {
            let mut slots = JoinSet::new();
            for (slot, first) in workers.into_iter().enumerate() {
                let rng = StdRng::seed_from_u64(seed.wrapping_add(slot as u64));
                slots.spawn_local(restarted(first, worker.clone(), rng, self.restarts));
            }
            slots.join_all().await
        };
        let workers = LocalSet::new().run_until(restart_all).await;
        fault.ends(&scene).await;
        let ledger = match self.records {
            usize::MAX => load.stop().await,
            _ => load.finished().await,
        };
        let share = self.partitions as usize;
        eventually("the partitions are shared out again", async || {
            let mut held = 0;
            for worker in &workers {
                held += worker.assigned().await;
            }
            (held == share).then_some(())
        })
        .await;
        scene.check(&ledger, Projection::Whole).await;
        let claims = scene.count("SELECT sum(epoch)::bigint FROM source_offsets").await;
        assert!(claims > i64::from(self.partitions), "partitions moved: {claims} claims");
        eprintln!("{claims} claims of {} partitions", self.partitions);
        for worker in workers {
            assert_eq!(worker.stop().await, Some(0));
        }
    }
}

/// A worker after so many restarts.
async fn restarted(
    mut worker: Worker,
    builder: WorkerBuilder,
    mut rng: StdRng,
    restarts: usize,
) -> Worker {
    for _ in 0..restarts {
        // The storm's own rhythm, not a wait for something.
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..2_000))).await;
        if rng.random_bool(0.25) {
            worker.kill().await;
        } else {
            worker.signal(Signal::SIGINT);
            let (code, log) = worker.exited_with_log().await;
            assert_eq!(code, Some(0), "{log}");
        }
        worker = builder.start().await;
    }
    worker
}

fn cooperative(worker: WorkerBuilder) -> WorkerBuilder {
    worker
}

fn eager(worker: WorkerBuilder) -> WorkerBuilder {
    worker.set("KAFKA__ASSIGNMENT_STRATEGY", "range")
}

fn brokers_own(worker: WorkerBuilder) -> WorkerBuilder {
    worker.set("KAFKA__GROUP_PROTOCOL", "consumer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_storm_of_restarts_in_a_cooperative_group_loses_and_doubles_nothing() {
    SMALL.rages("cooperative", cooperative).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_storm_of_restarts_in_an_eager_group_loses_and_doubles_nothing() {
    SMALL.rages("eager", eager).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_storm_of_restarts_in_a_group_the_broker_assigns_loses_and_doubles_nothing() {
    SMALL.rages("consumer protocol", brokers_own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_great_storm_in_a_cooperative_group_loses_and_doubles_nothing() {
    BIG.rages("cooperative", cooperative).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_great_storm_in_an_eager_group_loses_and_doubles_nothing() {
    BIG.rages("eager", eager).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_great_storm_in_a_group_the_broker_assigns_loses_and_doubles_nothing() {
    BIG.rages("consumer protocol", brokers_own).await;
}
