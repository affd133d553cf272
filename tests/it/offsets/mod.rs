//! Positions as an operator sees and moves them: the `offsets` command beside running workers.

mod history;
mod moves;
mod refusals;
mod schema;
mod show;

use serde_json::Value;

use crate::support::{EventBuilder, Scene, Worker, event, eventually};

/// So many events, one user each, numbered from `first`, to one partition.
fn events(first: usize, count: usize, partition: i32) -> Vec<EventBuilder> {
    let numbered = |n: usize| event(&format!("u{n}"), &format!("e{n}"), "user.created");
    (first..first + count).map(|n| numbered(n).to(partition)).collect()
}

/// One partition, and a worker that has applied so many events.
async fn applied(count: usize) -> (Scene, Worker) {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    scene.send(&events(0, count, 0)).await;
    scene.caught_up().await;
    (scene, worker)
}

/// The same, once the worker was stopped.
async fn applied_and_stopped(count: usize) -> Scene {
    let (scene, worker) = applied(count).await;
    assert_eq!(worker.stop().await, Some(0));
    scene
}

impl Scene {
    /// `offsets` with these arguments, which must succeed; answers what it printed.
    async fn offsets(&self, args: &[&str]) -> String {
        let (code, out, log) = self.worker().command(&[&["offsets"], args].concat()).output().await;
        assert_eq!(code, Some(0), "{args:?}: {out}{log}");
        out
    }

    /// The same, which must be refused; answers why.
    async fn refused(&self, args: &[&str]) -> String {
        let (code, out, log) = self.worker().command(&[&["offsets"], args].concat()).output().await;
        assert_eq!(code, Some(1), "{args:?}: {out}{log}");
        log
    }

    /// `offsets move` of partition 0, carried out.
    async fn moves(&self, target: &[&str]) -> String {
        self.offsets(&self.moving(target)).await
    }

    fn moving<'a>(&'a self, target: &[&'a str]) -> Vec<&'a str> {
        let which = ["move", "--topic", &self.topic, "--partition", "0"];
        [&which, target, &["--execute", "--reason", "a test", "--by", "ann"]].concat()
    }

    /// `offsets show --json`, by partition.
    async fn shown(&self) -> Vec<Value> {
        serde_json::from_str(&self.offsets(&["show", "--json"]).await).unwrap()
    }

    /// `offsets history --json`, the newest first.
    async fn history(&self) -> Vec<Value> {
        serde_json::from_str(&self.offsets(&["history", "--json"]).await).unwrap()
    }

    /// What stands in every row of `source_offsets`.
    async fn standing(&self) -> Vec<(i32, Option<i64>, i64, String)> {
        self.fetch_all(
            "SELECT partition, next_offset, epoch, claimed_by FROM source_offsets ORDER BY 1",
        )
        .await
    }
}

/// Waits until the worker claimed partition 0 again after an operator moved it.
async fn claimed_again(scene: &Scene) {
    eventually("the worker claims what was moved", async || {
        let (by,): (String,) =
            scene.fetch_one("SELECT claimed_by FROM source_offsets WHERE partition = 0").await;
        (!by.starts_with("operator")).then_some(())
    })
    .await;
}

/// Why partition 0 is halted, once it is.
async fn halted(worker: &Worker) -> String {
    eventually("the partition is halted", async || {
        let row = worker.status().await["partitions"][0].clone();
        (row["state"] == "halted").then(|| row["last_error"].as_str().unwrap_or("").to_owned())
    })
    .await
}

/// Waits until partition 0 is read.
async fn reads(worker: &Worker) {
    eventually("the partition is read", async || {
        (worker.status().await["partitions"][0]["state"] == "reading").then_some(())
    })
    .await;
}
