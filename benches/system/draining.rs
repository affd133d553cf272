//! One drain: a backlog is there, workers start, and the clock runs until all of it is in Postgres.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use sqlx::PgConnection;

use crate::backlog::Backlog;
use crate::report::Case;
use crate::schema::Schema;
use crate::services::Services;
use crate::usage;
use crate::worker::{Account, Worker};

/// A drain that gets no further for so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a backlog is to be drained.
pub(crate) struct Draining<'a> {
    pub(crate) services: &'a Services,
    pub(crate) backlog: &'a Backlog,
    /// Its name is also the group's.
    pub(crate) schema: &'a Schema,
    pub(crate) workers: usize,
    /// The worker's default where not given.
    pub(crate) lanes: Option<usize>,
}

/// What it took. Costs are of all workers together, per record.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Drained {
    pub(crate) events_per_second: f64,
    pub(crate) worker_cpu_micros: f64,
    pub(crate) postgres_cpu_micros: Option<f64>,
    pub(crate) broker_cpu_micros: Option<f64>,
    /// Of the largest worker.
    pub(crate) peak_rss_mib: f64,
    pub(crate) batches: f64,
    pub(crate) events_per_batch: f64,
    pub(crate) partitions_per_batch: f64,
}

impl<'a> Draining<'a> {
    /// By one worker as it is configured by default.
    pub(crate) fn new(services: &'a Services, backlog: &'a Backlog, schema: &'a Schema) -> Self {
        Self { services, backlog, schema, workers: 1, lanes: None }
    }

    /// Joining the group and the first batch are start-up, not speed: the clock starts after them,
    /// and with several workers only once each has its share of the partitions.
    pub(crate) async fn measure(self) -> Result<Drained> {
        let Self { services, backlog, schema, workers, lanes } = self;
        services.checkpoint().await?;
        let workers = (0..workers)
            .map(|_| Worker::start(services, schema, &backlog.topic, lanes))
            .collect::<Result<Vec<_>>>()?;
        let mut conn = schema.connect().await?;
        if workers.len() > 1 {
            shared_out(&workers, backlog.partitions).await?;
        }
        let (from, began) = progress_beyond(&mut conn, backlog, &workers, 0).await?;
        let before = Spent::so_far(services, &workers)?;
        let all = i64::try_from(backlog.records)?;
        ensure!(from < all, "drained before the clock could start: raise the number of events");
        let (to, ended) = progress_beyond(&mut conn, backlog, &workers, all - 1).await?;
        let spent = Spent::so_far(services, &workers)?;
        let rss: Vec<f64> = workers
            .iter()
            .map(|worker| usage::peak_rss_mib(worker.pid()))
            .collect::<Result<_>>()?;
        let mut account = Account::default();
        for worker in &workers {
            account.add(&worker.account().await?);
        }
        drop(workers);
        let partitions_per_batch = expect_stored(&mut conn, backlog).await?;

        let records = (to - from) as f64;
        let micros = |before: f64, after: f64| (after - before) * 1e6 / records;
        let known = |before: Option<f64>, after: Option<f64>| Some(micros(before?, after?));
        Ok(Drained {
            events_per_second: records / (ended - began).as_secs_f64(),
            worker_cpu_micros: micros(before.workers, spent.workers),
            postgres_cpu_micros: known(before.postgres, spent.postgres),
            broker_cpu_micros: known(before.broker, spent.broker),
            peak_rss_mib: rss.into_iter().fold(0.0, f64::max),
            batches: account.batches,
            events_per_batch: account.records / account.batches,
            partitions_per_batch,
        })
    }
}

/// CPU seconds.
struct Spent {
    workers: f64,
    postgres: Option<f64>,
    broker: Option<f64>,
}

impl Spent {
    fn so_far(services: &Services, workers: &[Worker]) -> Result<Self> {
        let workers = workers.iter().map(|worker| usage::cpu_seconds(worker.pid()));
        Ok(Self {
            workers: workers.sum::<Result<f64>>()?,
            postgres: services.postgres_cpu()?,
            broker: services.broker_cpu()?,
        })
    }
}

/// Waits until every worker has its share of the partitions.
async fn shared_out(workers: &[Worker], partitions: i32) -> Result<()> {
    let share = f64::from(partitions) / workers.len() as f64;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut shared = true;
        for worker in workers {
            // One that has only just started does not answer yet.
            let assigned = worker.account().await.map_or(0.0, |account| account.partitions);
            shared &= assigned == share;
        }
        if shared {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the partitions were not shared out evenly");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until more than `records` are applied; answers how many, and when.
async fn progress_beyond(
    conn: &mut PgConnection,
    Backlog { topic, .. }: &Backlog,
    workers: &[Worker],
    records: i64,
) -> Result<(i64, Instant)> {
    let sql = "SELECT COALESCE(sum(next_offset), 0)::bigint FROM source_offsets WHERE topic = $1";
    let (mut last, mut deadline) = (-1, Instant::now() + PATIENCE);
    loop {
        let applied: i64 = sqlx::query_scalar(sql).bind(topic).fetch_one(&mut *conn).await?;
        if applied > records {
            return Ok((applied, Instant::now()));
        }
        if applied > last {
            (last, deadline) = (applied, Instant::now() + PATIENCE);
        }
        if Instant::now() >= deadline {
            for worker in workers {
                eprintln!("{}", worker.status().await);
            }
            bail!("stuck at {applied} records of {topic}; what the workers say is above");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A measurement counts only if the work was done. Answers how many partitions a batch had events
/// of: all rows of a transaction have one `received_at`.
async fn expect_stored(conn: &mut PgConnection, backlog: &Backlog) -> Result<f64> {
    let sql = "SELECT COALESCE(sum(events), 0)::bigint, COALESCE(avg(partitions), 0)::float8
               FROM (SELECT count(*) AS events, count(DISTINCT kafka_partition) AS partitions
                     FROM user_events WHERE kafka_topic = $1 GROUP BY received_at) AS batches";
    let (stored, partitions): (i64, f64) =
        sqlx::query_as(sql).bind(&backlog.topic).fetch_one(conn).await?;
    let (stored, events) = (u64::try_from(stored)?, backlog.events);
    ensure!(stored == events, "{stored} events are stored instead of {events}");
    Ok(partitions)
}

impl<S> Case<S, Drained> {
    /// The figures that every table of drains has.
    pub(crate) fn cells(&self) -> Vec<String> {
        vec![
            self.spread(|run| run.events_per_second).whole(),
            self.spread(|run| run.worker_cpu_micros).tenths(),
            self.spread_of(|run| run.postgres_cpu_micros),
            self.spread_of(|run| run.broker_cpu_micros),
            self.spread(|run| run.peak_rss_mib).tenths(),
            format!("{:.0}", self.median(|run| run.batches)),
            format!("{:.0}", self.median(|run| run.events_per_batch)),
            format!("{:.1}", self.median(|run| run.partitions_per_batch)),
        ]
    }
}

/// Their headings.
pub(crate) const COLUMNS: [&str; 8] = [
    "events/s",
    "worker CPU us/event",
    "Postgres CPU us/event",
    "broker CPU us/event",
    "peak RSS MiB",
    "batches",
    "events per batch",
    "partitions per batch",
];
