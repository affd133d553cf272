//! Watches the worker from outside: its positions in Postgres, and when events become visible.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sqlx::PgConnection;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use uuid::Uuid;

use super::backlog::{Backlog, Totals};
use super::progress::Display;

/// How often to read the positions.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the worker may take to claim its partitions.
const CLAIMED_WITHIN: Duration = Duration::from_secs(60);
/// How long nothing may move while something waits.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How often to look for sampled events: what the latencies are exact to.
const SAMPLE_EVERY: Duration = Duration::from_millis(1);

/// Follows the worker's positions in Postgres.
pub struct Watcher {
    /// Sees the worker's tables.
    pub connection: PgConnection,
    /// Told of every position.
    pub backlog: Arc<Backlog>,
    /// The worker's consumer group.
    pub group: String,
    /// The only topic.
    pub topic: String,
}

impl Watcher {
    /// Waits until the worker has claimed this many partitions.
    ///
    /// # Errors
    /// It takes too long, or Postgres's own.
    pub async fn claimed(&mut self, partitions: i32) -> anyhow::Result<()> {
        let give_up = Instant::now() + CLAIMED_WITHIN;
        while self.claims().await? < i64::from(partitions) {
            if Instant::now() >= give_up {
                bail!(
                    "the worker has not claimed its partitions within {CLAIMED_WITHIN:?}: its log \
                     says why"
                );
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn claims(&mut self) -> anyhow::Result<i64> {
        // The worker makes the tables, some time after it has started.
        let migrated = sqlx::query_scalar!(
            r#"SELECT to_regclass('source_offsets') IS NOT NULL AS "migrated!""#
        );
        if !migrated.fetch_one(&mut self.connection).await? {
            return Ok(0);
        }
        let claims = sqlx::query_scalar!(
            r#"SELECT count(*) AS "claims!" FROM source_offsets
               WHERE consumer_group = $1 AND topic = $2"#,
            self.group,
            self.topic
        );
        Ok(claims.fetch_one(&mut self.connection).await?)
    }

    /// Watches until the feed has sent everything and the worker has applied it; answers what the
    /// feed does.
    ///
    /// # Errors
    /// The feed failed, or the worker does not get on.
    pub async fn until_applied<T>(
        &mut self,
        mut feeding: JoinHandle<anyhow::Result<T>>,
        display: &mut Display,
    ) -> anyhow::Result<T> {
        let mut fed = None;
        let mut before = Totals::default();
        let mut moved = Instant::now();
        loop {
            self.look().await?;
            let totals = self.backlog.totals();
            display.show(totals);
            if fed.is_none() && feeding.is_finished() {
                fed = Some((&mut feeding).await.context("the feed's thread ended early")??);
            }
            if totals.lag() == 0
                && self.backlog.totals() == totals
                && let Some(fed) = fed.take()
            {
                return Ok(fed);
            }
            if totals != before || totals.lag() == 0 {
                (before, moved) = (totals, Instant::now());
            }
            if moved.elapsed() > STALLED_AFTER {
                let lag = totals.lag();
                bail!(
                    "the worker has not moved for {STALLED_AFTER:?} with {lag} records waiting: \
                     /status and its log say why"
                );
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let positions = sqlx::query!(
            r#"SELECT partition, next_offset AS "next_offset!" FROM source_offsets
               WHERE consumer_group = $1 AND topic = $2 AND next_offset IS NOT NULL"#,
            self.group,
            self.topic
        );
        for position in positions.fetch_all(&mut self.connection).await? {
            self.backlog.applied(position.partition, position.next_offset);
        }
        Ok(())
    }
}

/// An event and when it was handed to the producer.
pub type Sample = (Uuid, Instant);

/// Measures how long events take from the producer until a reader of Postgres sees them. Ends when
/// no more samples can come and all were seen; answers them in ascending order.
///
/// # Errors
/// Postgres's own.
pub async fn latencies(
    mut connection: PgConnection,
    mut samples: UnboundedReceiver<Sample>,
) -> anyhow::Result<Vec<Duration>> {
    let mut awaited: HashMap<Uuid, Instant> = HashMap::new();
    let mut latencies = Vec::new();
    loop {
        let more = loop {
            match samples.try_recv() {
                Ok((id, sent)) => drop(awaited.insert(id, sent)),
                Err(TryRecvError::Empty) => break true,
                Err(TryRecvError::Disconnected) => break false,
            }
        };
        if !awaited.is_empty() {
            let ids: Vec<Uuid> = awaited.keys().copied().collect();
            let visible = sqlx::query_scalar!(
                "SELECT event_id FROM user_events WHERE event_id = ANY($1)",
                &ids
            );
            let visible = visible.fetch_all(&mut connection).await?;
            let now = Instant::now();
            let sent = visible.iter().filter_map(|id| awaited.remove(id));
            latencies.extend(sent.map(|sent| now.saturating_duration_since(sent)));
        } else if !more {
            latencies.sort_unstable();
            return Ok(latencies);
        }
        sleep(SAMPLE_EVERY).await;
    }
}

/// The value below which this share of the sorted values lies.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.5), Duration::from_millis(50));
        assert_eq!(percentile(&sorted, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&sorted[..1], 0.5), Duration::from_millis(1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
