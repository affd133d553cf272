//! A steady load: how long from produced to visible, seen from outside the worker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use serde::Serialize;
use sqlx::PgConnection;
use user_events_worker::commands::produce::{Delivered, Rate, Sender};

use crate::backlog::Backlog;
use crate::draining::Draining;
use crate::plan::{PARTITIONS, Plan};
use crate::report::{Case, Table, rounds};
use crate::schema::Schema;
use crate::services::Services;
use crate::usage;
use crate::worker::Worker;
use crate::workload::{self, Mix};

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Setting {
    /// Events per second.
    pub(crate) rate: u64,
    /// Whether the rate was taken from how fast a drain is.
    pub(crate) share_of_drain: bool,
    pub(crate) seconds: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// Share of the events, and the milliseconds within which they were visible.
    pub(crate) curve: Vec<(f64, f64)>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// What the producer managed.
    pub(crate) events_per_second: f64,
    pub(crate) worker_cpu_micros: f64,
    pub(crate) postgres_cpu_micros: Option<f64>,
    pub(crate) peak_rss_mib: f64,
    pub(crate) events_per_batch: f64,
}

#[derive(Serialize)]
pub(crate) struct Steady(pub(crate) Vec<Case<Setting, Run>>);

const RATES: [u64; 3] = [1_000, 5_000, 20_000];
/// Of the rate of a drain: much, and not so much that nothing may happen.
const SHARE: f64 = 0.6;
/// Joining the group, preparing statements, and what the brokers compile on first use (seconds, on a
/// machine that has two cores for all) are start-up: they are over after this.
const WARM_UP_SECONDS: u64 = 10;

/// `drain` is the rate of a drain in events per second, if it is known.
pub(crate) async fn measure(
    services: &Services,
    plan: &Plan,
    drain: Option<f64>,
) -> Result<Steady> {
    let drain = match drain {
        Some(drain) => drain,
        None => drain_once(services, plan.events).await?,
    };
    let seconds = plan.steady_seconds;
    let fixed = RATES.map(|rate| Setting { rate, share_of_drain: false, seconds });
    let share = Setting { rate: (drain * SHARE) as u64, share_of_drain: true, seconds };
    let settings = fixed.into_iter().chain([share]).collect();
    let cases = rounds("steady", settings, plan.steady_runs, async |setting| {
        run(services, setting.rate, setting.seconds).await
    });
    Ok(Steady(cases.await?))
}

async fn drain_once(services: &Services, events: u64) -> Result<f64> {
    let backlog = Backlog::of(services, Mix::Even, events, PARTITIONS).await?;
    let schema = Schema::new(services).await?;
    let drained = Draining::new(services, &backlog, &schema).measure().await?;
    schema.drop().await?;
    backlog.drop(services).await?;
    Ok(drained.events_per_second)
}

async fn run(services: &Services, rate: u64, seconds: u64) -> Result<Run> {
    let schema = Schema::new(services).await?;
    let topic = services.topic(PARTITIONS).await?;
    services.checkpoint().await?;
    let worker = Worker::start(services, &schema, &topic, None)?;
    let waiting = Waiting::default();
    let (warmed_up, seen) = tokio::join!(
        load(connect(services, &topic, &waiting)?, rate, WARM_UP_SECONDS),
        watch(&schema, &waiting, usize::try_from(rate * WARM_UP_SECONDS)?),
    );
    let (producer, _) = warmed_up?;
    seen?;

    let (before, postgres, account) =
        (usage::cpu_seconds(worker.pid())?, services.postgres_cpu()?, worker.account().await?);
    let events = rate * seconds;
    let (loaded, latencies) = tokio::join!(
        load(producer, rate, seconds),
        watch(&schema, &waiting, usize::try_from(events)?)
    );
    let ((_, took), mut latencies) = (loaded?, latencies?);
    let cpu = usage::cpu_seconds(worker.pid())? - before;
    let postgres = services.postgres_cpu()?.zip(postgres).map(|(after, before)| after - before);
    let now = worker.account().await?;
    let peak_rss_mib = usage::peak_rss_mib(worker.pid())?;
    drop(worker);
    schema.drop().await?;
    services.drop_topic(&topic).await?;

    latencies.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share).round() as usize];
    let micros = 1e6 / events as f64;
    Ok(Run {
        curve: CURVE.map(|share| (share, at(share))).into(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: at(1.0),
        events_per_second: events as f64 / took.as_secs_f64(),
        worker_cpu_micros: cpu * micros,
        postgres_cpu_micros: postgres.map(|seconds| seconds * micros),
        peak_rss_mib,
        events_per_batch: (now.records - account.records) / (now.batches - account.batches),
    })
}

const CURVE: [f64; 14] =
    [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999];

/// Acknowledged and not yet seen in Postgres: offset and time of producing (milliseconds since
/// 1970), by partition, in order.
type Waiting = Arc<Mutex<BTreeMap<i32, VecDeque<(i64, i64)>>>>;

/// A producer that notes what was acknowledged.
fn connect(services: &Services, topic: &str, waiting: &Waiting) -> Result<Sender> {
    let waiting = waiting.clone();
    let delivered = move |delivered: Delivered| {
        let mut waiting = waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let produced = delivered.timestamp_ms.unwrap_or_default();
        waiting.entry(delivered.partition).or_default().push_back((delivered.offset, produced));
    };
    Sender::observed(&services.producer_properties(), topic, Box::new(delivered))
}

/// Answers the producer, for more (connecting anew would be measured, too), and how long it took.
async fn load(mut sender: Sender, rate: u64, seconds: u64) -> Result<(Sender, Duration)> {
    tokio::task::spawn_blocking(move || {
        let records =
            workload::generator(Mix::Even.recipe())?.take(usize::try_from(rate * seconds)?);
        let began = Instant::now();
        let mut pace = Rate::per_second(rate);
        sender.pump(records, |_| pace.pass(), |_| {})?;
        let took = began.elapsed();
        sender.settle(Duration::from_secs(30))?;
        Ok((sender, took))
    })
    .await?
}

/// Looks about once a millisecond until so many records were seen; answers their latencies in
/// milliseconds.
async fn watch(schema: &Schema, waiting: &Waiting, records: usize) -> Result<Vec<f64>> {
    let mut conn = schema.connect().await?;
    let mut latencies = Vec::with_capacity(records);
    let mut last = Instant::now();
    while latencies.len() < records {
        let positions = positions(&mut conn).await?;
        let before = latencies.len();
        pass(waiting, positions, &mut latencies)?;
        if latencies.len() > before {
            last = Instant::now();
        }
        ensure!(last.elapsed() < Duration::from_secs(60), "the worker has stalled");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(latencies)
}

async fn positions(conn: &mut PgConnection) -> sqlx::Result<Vec<(i32, i64)>> {
    let sql = "SELECT partition, next_offset FROM source_offsets WHERE next_offset IS NOT NULL";
    sqlx::query_as(sql).fetch_all(conn).await
}

/// Moves what has become visible from the waiting to the latencies.
fn pass(waiting: &Waiting, positions: Vec<(i32, i64)>, latencies: &mut Vec<f64>) -> Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64() * 1e3;
    let mut waiting = waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (partition, next) in positions {
        let queue = waiting.entry(partition).or_default();
        while queue.front().is_some_and(|(offset, _)| *offset < next) {
            if let Some((_, produced)) = queue.pop_front() {
                latencies.push(now - produced as f64);
            }
        }
    }
    Ok(())
}

impl Steady {
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(
            "steady: from produced to visible in Postgres",
            &[
                "events/s",
                "for",
                "p50 ms",
                "p99 ms",
                "p99.9 ms",
                "greatest ms",
                "worker CPU us/event",
                "Postgres CPU us/event",
                "peak RSS MiB",
                "events per batch",
            ],
        );
        for case in &self.0 {
            let Setting { rate, share_of_drain, seconds } = case.setting;
            let why = if share_of_drain { " (60 % of drain)" } else { "" };
            table.row([
                format!("{rate}{why}"),
                format!("{seconds} s"),
                case.spread(|run| run.p50_ms).tenths(),
                case.spread(|run| run.p99_ms).tenths(),
                case.spread(|run| run.p999_ms).tenths(),
                case.spread(|run| run.max_ms).tenths(),
                case.spread(|run| run.worker_cpu_micros).tenths(),
                case.spread_of(|run| run.postgres_cpu_micros),
                case.spread(|run| run.peak_rss_mib).tenths(),
                format!("{:.0}", case.median(|run| run.events_per_batch)),
            ]);
        }
        table
    }
}
