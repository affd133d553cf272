//! Looks at the workers' progress from outside: in Postgres, over connections of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::unistd::Pid;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::time::{sleep, timeout};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How often to look again while waiting.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Sees the workers' tables.
#[derive(Clone)]
pub struct Watch {
    /// How to connect.
    pub options: PgConnectOptions,
    /// The workers' consumer group.
    pub group: String,
    /// The scratch topic.
    pub topic: String,
}

/// A row of `source_offsets`.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which partition.
    pub partition: i32,
    /// The next offset to read; none before reading has begun.
    pub next_offset: Option<i64>,
    /// Claims so far.
    pub epoch: i64,
    /// The worker that claimed last.
    pub claimed_by: String,
}

impl Claim {
    /// Whether this process claimed last. A worker's name ends with its process id and a random
    /// number.
    pub fn is_of(&self, pid: Pid) -> bool {
        self.claimed_by.rsplit('-').nth(1) == Some(pid.to_string().as_str())
    }
}

/// The sum of the epochs: it rises by one with every claim.
pub fn epochs(claims: &[Claim]) -> i64 {
    claims.iter().map(|claim| claim.epoch).sum()
}

impl Watch {
    /// A connection that sees the workers' tables.
    ///
    /// # Errors
    /// Postgres's own, or no answer.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        let connected = timeout(CONNECT, self.options.connect()).await;
        connected.context("Postgres does not answer")?.context("connecting to Postgres")
    }

    /// Who holds what, and how far.
    ///
    /// # Errors
    /// Postgres's own.
    pub async fn claims(&self) -> anyhow::Result<Vec<Claim>> {
        let mut conn = self.connect().await?;
        let claims = sqlx::query_as!(
            Claim,
            "SELECT partition, next_offset, epoch, claimed_by FROM source_offsets
             WHERE consumer_group = $1 AND topic = $2 ORDER BY partition",
            self.group,
            self.topic
        );
        Ok(claims.fetch_all(&mut conn).await?)
    }

    /// Waits until the claims are as wished.
    ///
    /// # Errors
    /// They are not within `patience`; Postgres's own.
    pub async fn until(
        &self,
        what: &str,
        patience: Duration,
        wished: impl Fn(&[Claim]) -> bool,
    ) -> anyhow::Result<Vec<Claim>> {
        let give_up = Instant::now() + patience;
        loop {
            let claims = self.claims().await?;
            if wished(&claims) {
                return Ok(claims);
            }
            if Instant::now() >= give_up {
                bail!("{what}: not within {patience:?}");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every partition has passed these ends; answers how long it took.
    ///
    /// # Errors
    /// It takes longer than `patience`; Postgres's own.
    pub async fn caught_up(
        &self,
        ends: &BTreeMap<i32, i64>,
        patience: Duration,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.until("the workers have caught up with the log", patience, |claims| {
            let at: BTreeMap<i32, i64> =
                claims.iter().filter_map(|c| Some((c.partition, c.next_offset?))).collect();
            ends.iter().all(|(partition, end)| at.get(partition).is_some_and(|at| at >= end))
        })
        .await?;
        Ok(began.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_names_its_process() {
        let claimed_by = "my-host-1-4711-0123abcd".to_owned();
        let claim = Claim { partition: 0, next_offset: None, epoch: 3, claimed_by };
        assert!(claim.is_of(Pid::from_raw(4711)));
        assert!(!claim.is_of(Pid::from_raw(711)) && !claim.is_of(Pid::from_raw(1)));
    }
}
