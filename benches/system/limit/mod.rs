//! How fast Postgres takes the events when nothing else is in the way: decoded before, in memory.

mod copy;
mod plain;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use user_events_worker::apply::{
    Batch, Outcome, ReadyBatch, SessionOptions, Writer, WriterOptions,
};
use user_events_worker::config::Config;
use user_events_worker::types::{Epoch, TopicPartition};

use crate::plan::{PARTITIONS, Plan};
use crate::report::{Case, Table, rounds};
use crate::schema::{self, Schema};
use crate::services::Services;
use crate::usage;
use crate::workload::{self, Mix};

/// By which statements the events get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// The worker's own: fence, ledger, users.
    Worker,
    /// One INSERT from UNNEST, one upsert that merges every profile; batches of 5,000.
    Plain,
    /// Binary COPY into the ledger, and the worker's upserts: it could not take a duplicate.
    Copy,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Setting {
    pub(crate) mix: Mix,
    pub(crate) way: Way,
    pub(crate) connections: usize,
    pub(crate) count: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) events_per_second: f64,
    pub(crate) postgres_cpu_micros: Option<f64>,
    pub(crate) client_cpu_micros: f64,
    pub(crate) batches: usize,
    pub(crate) partitions_per_batch: f64,
}

#[derive(Serialize)]
pub(crate) struct Limit(pub(crate) Vec<Case<Setting, Run>>);

pub(crate) async fn measure(services: &Services, plan: &Plan) -> Result<Limit> {
    let count = plan.events;
    let even = [
        (Way::Worker, 1),
        (Way::Plain, 1),
        (Way::Copy, 1),
        (Way::Worker, 2),
        (Way::Plain, 2),
        (Way::Worker, 4),
    ];
    let profile = [(Way::Worker, 1), (Way::Plain, 1), (Way::Worker, 2)];
    let setting = |mix| move |(way, connections)| Setting { mix, way, connections, count };
    let settings = even.map(setting(Mix::Even)).into_iter();
    let settings = settings.chain(profile.map(setting(Mix::Profile))).collect();
    let cases = rounds("limit", settings, plan.runs, async |setting| run(services, setting).await);
    Ok(Limit(cases.await?))
}

async fn run(services: &Services, setting: &Setting) -> Result<Run> {
    let schema = Schema::new(services).await?;
    let mut config = schema.config.clone();
    if setting.way == Way::Plain {
        config.batch.max_events = plain::BATCH;
    }
    let Setting { mix, count, connections, way } = *setting;
    let lanes = tokio::task::spawn_blocking(move || {
        workload::batches(mix, count, PARTITIONS, connections, &config)
    })
    .await??;
    let batches: Vec<&Batch> = lanes.iter().flatten().collect();
    let ranges: usize = batches.iter().map(|batch| batch.ranges.len()).sum();
    let batches = batches.len();

    services.checkpoint().await?;
    let start = Arc::new(Barrier::new(connections + 1));
    let mut at_work = JoinSet::new();
    for lane in lanes {
        let path = Path::open(way, &schema).await?;
        at_work.spawn(apply_all(path, lane, start.clone()));
    }
    start.wait().await;
    let (began, postgres, client) = (Instant::now(), services.postgres_cpu()?, own_cpu()?);
    let mut open = Vec::new();
    while let Some(applied) = at_work.join_next().await {
        open.push(applied??);
    }
    let seconds = began.elapsed().as_secs_f64();
    let micros = 1e6 / count as f64;
    let postgres = services.postgres_cpu()?.zip(postgres).map(|(after, before)| after - before);
    let client = own_cpu()? - client;
    // Not before: a connection's process must not end between two looks at what it used.
    drop(open);
    schema::expect_events(services, &schema.name, count).await?;
    schema.drop().await?;
    Ok(Run {
        events_per_second: count as f64 / seconds,
        postgres_cpu_micros: postgres.map(|seconds| seconds * micros),
        client_cpu_micros: client * micros,
        batches,
        partitions_per_batch: ranges as f64 / batches as f64,
    })
}

fn own_cpu() -> Result<f64> {
    usage::cpu_seconds(std::process::id())
}

async fn apply_all(mut path: Path, batches: Vec<Batch>, start: Arc<Barrier>) -> Result<Path> {
    path.prepare(&batches).await?;
    start.wait().await;
    match &mut path {
        Path::Worker(writer) => apply_as_a_lane(writer, batches).await?,
        Path::Plain(conn) => {
            for batch in &batches {
                plain::apply(conn, batch).await.context("plain statements")?;
            }
        }
        Path::Copy(conn) => {
            for batch in &batches {
                copy::apply(conn, batch).await.context("copy")?;
            }
        }
    }
    Ok(path)
}

/// Each batch is prepared while the one before is written.
async fn apply_as_a_lane(writer: &mut Writer, batches: Vec<Batch>) -> Result<()> {
    let prepare = |batch: Batch| {
        tokio::task::spawn_blocking(move || {
            let mut batch = ReadyBatch::from(batch);
            batch.prepare();
            batch
        })
    };
    let mut batches = batches.into_iter();
    let mut next = batches.next().map(prepare);
    while let Some(ready) = next {
        let mut batch = ready.await?;
        next = batches.next().map(prepare);
        match writer.apply(&mut batch).await {
            Outcome::Applied(applied) if applied.applied == batch.items.len() as u64 => {}
            other => bail!("a batch was not simply applied: {other:?}"),
        }
    }
    Ok(())
}

/// A connection and what it does with a batch.
enum Path {
    Worker(Box<Writer>),
    Plain(PgConnection),
    Copy(PgConnection),
}

impl Path {
    async fn open(way: Way, schema: &Schema) -> Result<Self> {
        let session = schema.session()?;
        Ok(match way {
            Way::Worker => Self::Worker(Box::new(writer(session, &schema.config)?)),
            Way::Plain => Self::Plain(schema.connect().await?),
            Way::Copy => Self::Copy(schema.connect().await?),
        })
    }

    /// Claims what the batches move over. The ledger's months are there already.
    async fn prepare(&mut self, batches: &[Batch]) -> Result<()> {
        let Self::Worker(writer) = self else { return Ok(()) };
        let mut sources: Vec<TopicPartition> = batches
            .iter()
            .flat_map(|batch| batch.ranges.iter().map(|range| range.source.clone()))
            .collect();
        sources.sort_unstable();
        sources.dedup();
        let claims = writer.claim(&sources).await?;
        ensure!(claims.iter().all(|claim| claim.epoch == Epoch(1)), "claimed before");
        Ok(())
    }
}

fn writer(session: SessionOptions, config: &Config) -> Result<Writer> {
    let caps = user_events_worker::apply::Caps {
        key: usize::try_from(config.dead_letters.max_key_bytes.as_u64())?,
        value: usize::try_from(config.dead_letters.max_value_bytes.as_u64())?,
        headers: usize::try_from(config.dead_letters.max_header_bytes.as_u64())?,
    };
    let (group, worker) = ("bench".to_owned(), "bench".to_owned());
    Ok(Writer::new(WriterOptions { session, group, worker, caps }))
}

impl Limit {
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(
            "limit: the same events from memory, no Kafka",
            &[
                "events",
                "statements",
                "connections",
                "events/s",
                "Postgres CPU us/event",
                "client CPU us/event",
                "batches",
                "events per batch",
                "partitions per batch",
            ],
        );
        for case in &self.0 {
            let Setting { mix, way, connections, count } = case.setting;
            let batches = case.median(|run| run.batches as f64);
            table.row([
                mix.label().to_owned(),
                way.label().to_owned(),
                connections.to_string(),
                case.spread(|run| run.events_per_second).whole(),
                case.spread_of(|run| run.postgres_cpu_micros),
                case.spread(|run| run.client_cpu_micros).tenths(),
                format!("{batches:.0}"),
                format!("{:.0}", count as f64 / batches),
                format!("{:.1}", case.median(|run| run.partitions_per_batch)),
            ]);
        }
        table
    }
}

impl Way {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Worker => "the worker's",
            Self::Plain => "plain pair",
            Self::Copy => "binary COPY and the worker's upserts",
        }
    }
}
