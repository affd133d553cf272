//! A steady load: how long from produced to visible, seen from outside the worker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use user_events_worker::commands::produce::{Delivered, Rate, Sender};

use super::drain::generator;
use super::services::Services;
use super::worker::Worker;

/// Latencies in milliseconds, from Kafka's acknowledgement to visibility in Postgres.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Steady {
    pub(crate) rate: u64,
    pub(crate) samples: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) peak_rss_mib: f64,
}

/// Acknowledged and not yet seen in Postgres: offset and time, by partition, in order.
type Waiting = Arc<Mutex<BTreeMap<i32, VecDeque<(i64, Instant)>>>>;

pub(crate) async fn measure(
    services: &Services,
    rate: u64,
    seconds: u64,
    partitions: i32,
) -> Result<Steady> {
    let topic = services.topic(partitions).await?;
    let worker = Worker::start(services, &topic)?;
    // Joining the group and preparing statements are start-up: they are over after this.
    load(services, &topic, rate, 3, &Waiting::default()).await?;

    let waiting = Waiting::default();
    let watcher = Watcher {
        conn: PgConnection::connect(&services.database_url).await?,
        sql: format!(
            "SELECT partition, next_offset FROM \"{topic}\".source_offsets WHERE next_offset IS NOT NULL"
        ),
        waiting: waiting.clone(),
    };
    let (loaded, latencies) = tokio::join!(
        load(services, &topic, rate, seconds, &waiting),
        watcher.watch(usize::try_from(rate * seconds)?),
    );
    loaded?;
    let mut latencies = latencies?;
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = ((latencies.len() - 1) as f64 * share).round() as usize;
        latencies[index].as_secs_f64() * 1e3
    };
    Ok(Steady {
        rate,
        samples: latencies.len(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: at(1.0),
        peak_rss_mib: worker.usage()?.peak_rss_kib as f64 / 1024.0,
    })
}

async fn load(
    services: &Services,
    topic: &str,
    rate: u64,
    seconds: u64,
    waiting: &Waiting,
) -> Result<()> {
    let (properties, topic, waiting) =
        (services.producer_properties(), topic.to_owned(), waiting.clone());
    tokio::task::spawn_blocking(move || {
        let mut sender = Sender::observed(
            &properties,
            &topic,
            Box::new(move |delivered: Delivered| {
                let mut waiting = waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let sent = (delivered.offset, Instant::now());
                waiting.entry(delivered.partition).or_default().push_back(sent);
            }),
        )?;
        let mut pace = Rate::per_second(rate);
        let records = generator()?.take(usize::try_from(rate * seconds)?);
        sender.pump(records, |_| pace.pass(), |_| {})?;
        sender.settle(Duration::from_secs(30))
    })
    .await?
}

struct Watcher {
    conn: PgConnection,
    sql: String,
    waiting: Waiting,
}

impl Watcher {
    /// Looks about once a millisecond until so many records were seen.
    async fn watch(mut self, records: usize) -> Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(records);
        let mut last = Instant::now();
        while latencies.len() < records {
            let rows: Vec<(i32, i64)> =
                sqlx::query_as(AssertSqlSafe(self.sql.clone())).fetch_all(&mut self.conn).await?;
            let seen = self.seen(rows);
            if !seen.is_empty() {
                last = Instant::now();
            }
            latencies.extend(seen);
            ensure!(last.elapsed() < Duration::from_secs(60), "the worker has stalled");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(latencies)
    }

    /// The latencies of the records that have become visible.
    fn seen(&self, positions: Vec<(i32, i64)>) -> Vec<Duration> {
        let now = Instant::now();
        let mut waiting = self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut latencies = Vec::new();
        for (partition, next) in positions {
            let queue = waiting.entry(partition).or_default();
            while queue.front().is_some_and(|(offset, _)| *offset < next) {
                if let Some((_, sent)) = queue.pop_front() {
                    latencies.push(now.saturating_duration_since(sent));
                }
            }
        }
        latencies
    }
}
