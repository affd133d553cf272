//! Faults of processes: killed, frozen, coming and going.

use std::time::Instant;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::time::sleep;

use super::super::watch::{Claim, LOOK_EVERY, epochs};
use super::{PATIENCE, Saboteur};

/// Waves of a rebalance storm.
const WAVES: usize = 2;
/// Workers that come in a wave.
const NEWCOMERS: usize = 2;

fn held(claims: &[Claim], pid: Pid) -> usize {
    claims.iter().filter(|claim| claim.is_of(pid)).count()
}

impl Saboteur<'_> {
    /// Waits until a worker has something to lose; answers the claims.
    async fn holder(&mut self, worker: usize) -> anyhow::Result<(Pid, Vec<Claim>)> {
        let pid = self.fleet.member(worker)?.pid();
        let what = format!("worker {pid} holds partitions");
        let claims = self.watch.until(&what, PATIENCE, |claims| held(claims, pid) > 0).await?;
        Ok((pid, claims))
    }

    pub(super) async fn kill(&mut self, worker: usize) -> anyhow::Result<String> {
        let (pid, claims) = self.holder(worker).await?;
        let held = held(&claims, pid);
        self.fleet.replace(worker)?.kill().await?;
        Ok(format!("worker {pid} ended by signal 9 while it held {held} partitions"))
    }

    /// Freezes a worker with batches under way: they wait for users that we have locked, and are
    /// let go when nobody is there any more to go on with them.
    pub(super) async fn stop(&mut self, worker: usize) -> anyhow::Result<String> {
        let (pid, _) = self.holder(worker).await?;
        let (locker, waiting) = self.block_writers().await?;
        let began = Instant::now();
        self.fleet.member(worker)?.signal(Signal::SIGSTOP)?;
        // The server rolls back what is open on it.
        drop(locker);
        let result = self.while_frozen(worker, pid).await;
        // Whatever happened: it must not stay frozen.
        self.fleet.member(worker)?.signal(Signal::SIGCONT)?;
        let lost = result?;
        Ok(format!(
            "worker {pid} frozen while {waiting} of the workers' backends waited for locks of \
             ours; in state T for {:.1} s, while others claimed its {lost} partitions",
            began.elapsed().as_secs_f64()
        ))
    }

    /// Waits until the group has given up a frozen worker; answers how many partitions it lost.
    async fn while_frozen(&mut self, worker: usize, pid: Pid) -> anyhow::Result<usize> {
        let give_up = Instant::now() + PATIENCE;
        while self.fleet.member(worker)?.state() != Some('T') {
            ensure!(Instant::now() < give_up, "worker {pid} was never seen in state T");
            sleep(LOOK_EVERY).await;
        }
        // A claim may have been under way: from now on there are none.
        let claims = self.watch.claims().await?;
        let lost = held(&claims, pid);
        ensure!(lost > 0, "worker {pid} was frozen when it held nothing");
        let what = format!("others claim the partitions of the frozen worker {pid}");
        self.watch.until(&what, PATIENCE, |claims| held(claims, pid) == 0).await?;
        let state = self.fleet.member(worker)?.state();
        ensure!(state == Some('T'), "worker {pid} is in state {state:?} though nobody woke it");
        Ok(lost)
    }

    pub(super) async fn storm(&mut self) -> anyhow::Result<String> {
        let before = self.watch.claims().await?;
        let mut gained = 0;
        for _ in 0..WAVES {
            let mut wave = Vec::new();
            for _ in 0..NEWCOMERS {
                wave.push(self.fleet.launch()?);
            }
            let of_wave = |claims: &[Claim]| -> usize {
                wave.iter().map(|worker| held(claims, worker.pid())).sum()
            };
            let what = "a newcomer is given partitions";
            let claims = self.watch.until(what, PATIENCE, |claims| of_wave(claims) > 0).await?;
            gained += of_wave(&claims);
            // One goes as it should, the other as it should not.
            wave.pop().context("a wave has workers")?.kill().await?;
            for worker in wave {
                self.fleet.retire(worker).await?;
            }
        }
        let claims = epochs(&self.watch.claims().await?) - epochs(&before);
        Ok(format!(
            "{WAVES} waves of {NEWCOMERS} workers came, claimed {gained} partitions and went; \
             epochs rose by {claims}"
        ))
    }
}
