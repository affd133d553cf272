//! A preloaded backlog, drained.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use user_events_worker::commands::produce::{Clock, Generator, Pace, ProduceArgs, Sender};

use super::services::Services;
use super::worker::Worker;

/// One drain.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Drain {
    pub(crate) events_per_second: f64,
    pub(crate) cpu_micros_per_event: f64,
    pub(crate) peak_rss_mib: f64,
}

/// The generator's recipe by the command line's names, so that a reader can repeat it.
#[derive(Parser)]
struct Recipe {
    #[command(flatten)]
    args: ProduceArgs,
}

/// A recipe: 250 B, 100,000 users, nothing but good events.
pub(crate) fn generator() -> Result<Generator> {
    let recipe = Recipe::parse_from([
        "produce",
        "--users",
        "100000",
        "--size",
        "250",
        "--binary",
        "0",
        "--sequence",
        "0",
    ]);
    Generator::new(recipe.args.recipe, Clock::System)
}

pub(crate) async fn measure(services: &Services, count: u64, partitions: i32) -> Result<Drain> {
    let topic = services.topic(partitions).await?;
    let properties = services.producer_properties();
    let preloaded = topic.clone();
    tokio::task::spawn_blocking(move || {
        let mut sender = Sender::new(&properties, &preloaded)?;
        let records = generator()?.take(usize::try_from(count)?);
        sender.pump(records, |_| Pace::Go, |_| {})?;
        sender.settle(Duration::from_secs(60))
    })
    .await??;
    let end = services.end(&topic, partitions)?;
    ensure!(end == i64::try_from(count)?, "{end} records in Kafka instead of {count}");

    let worker = Worker::start(services, &topic)?;
    let mut conn = PgConnection::connect(&services.database_url).await?;
    let (from, began) = progress_beyond(&mut conn, &topic, 0).await?;
    let before = worker.usage()?;
    let (to, ended) = progress_beyond(&mut conn, &topic, end - 1).await?;
    let after = worker.usage()?;
    let stored: i64 =
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM \"{topic}\".user_events")))
            .fetch_one(&mut conn)
            .await?;
    ensure!(stored == end, "{stored} events stored instead of {end}");
    let events = (to - from) as f64;
    let schema = format!("DROP SCHEMA \"{topic}\" CASCADE");
    drop(worker);
    sqlx::raw_sql(AssertSqlSafe(schema)).execute(&mut conn).await?;
    Ok(Drain {
        events_per_second: events / (ended - began).as_secs_f64(),
        cpu_micros_per_event: (after.cpu - before.cpu).as_secs_f64() * 1e6 / events,
        peak_rss_mib: after.peak_rss_kib as f64 / 1024.0,
    })
}

/// Waits until more than `records` are applied; answers how many, and when. Joining the group and
/// the first batch are start-up, not speed: the clock starts after them.
async fn progress_beyond(
    conn: &mut PgConnection,
    schema: &str,
    records: i64,
) -> Result<(i64, Instant)> {
    let sql = format!("SELECT sum(next_offset)::bigint FROM \"{schema}\".source_offsets");
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        // The schema is not there at first.
        let applied: Option<i64> = sqlx::query_scalar(AssertSqlSafe(sql.clone()))
            .fetch_one(&mut *conn)
            .await
            .unwrap_or(None);
        match applied {
            Some(applied) if applied > records => return Ok((applied, Instant::now())),
            _ => ensure!(Instant::now() < deadline, "no progress beyond {records} records"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
