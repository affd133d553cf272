//! `offsets`: positions as an operator sees and moves them.
//!
//! ```text
//! args.rs     what may be asked
//! logs.rs     what Kafka says: where each log begins and ends, and where a time is
//! plan.rs     where a partition would be moved, and whether it may (pure)
//! moves.rs    `move`: a dry run, or one transaction
//! show.rs     `show`, history.rs `history`, table.rs their tables
//! ```
//!
//! The statements are in [`crate::apply::moves`]. None of this joins the group.

mod args;
mod history;
mod logs;
mod moves;
mod plan;
mod show;
mod table;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::app;
use crate::apply::identity::{self, Identity};
use crate::apply::moves::{Position, positions};
use crate::apply::{Session, migrate};
use crate::config::Config;
use crate::types::TopicPartition;

pub use args::{HistoryArgs, MoveArgs, OffsetsArgs, OffsetsCommand, ShowArgs};

/// Shows positions, moves them, or shows what was moved.
///
/// # Errors
/// Kafka or Postgres away, a schema of others or too old, and every refusal to move.
pub async fn run(args: OffsetsArgs, config: &Config) -> anyhow::Result<ExitCode> {
    match args.chosen()? {
        OffsetsCommand::Show(args) => show(&args, config).await?,
        OffsetsCommand::Move(args) => moves::run(&args, config).await?,
        OffsetsCommand::History(args) => history::run(&args, config).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(args: &ShowArgs, config: &Config) -> anyhow::Result<()> {
    let view = view(config, &mut session(config)?, args.topic.as_deref(), None).await?;
    let rows = show::rows(&view, config.kafka.start_from);
    if args.json {
        return json(&rows);
    }
    say(&show::table(&rows))
}

/// What Postgres and Kafka say about the configured topics, or one of them.
struct View {
    cluster: String,
    positions: Vec<Position>,
    logs: BTreeMap<TopicPartition, logs::Log>,
}

/// Positions first: a log's end only grows, so none of them can seem to lie beyond it only
/// because a worker went on.
async fn view(
    config: &Config,
    session: &mut Session,
    topic: Option<&str>,
    time: Option<OffsetDateTime>,
) -> anyhow::Result<View> {
    let topics = topics(config, topic)?;
    let conn = in_schema(config, session).await?;
    let theirs = identity::read(conn).await.context("reading worker_identity")?;
    let mut positions =
        positions(conn, &config.kafka.group_id).await.context("reading source_offsets")?;
    session.commit().await?;
    positions.retain(|position| topics.iter().any(|topic| **topic == *position.source.topic));
    let logs::Logs { cluster, logs } = logs::look(config, topics, time).await?;
    let ours = Identity { group: config.kafka.group_id.clone(), cluster: cluster.clone() };
    if let Some(theirs) = theirs
        && theirs != ours
    {
        return Err(identity::Mismatch { ours, theirs }.into());
    }
    Ok(View { cluster, positions, logs })
}

fn topics(config: &Config, topic: Option<&str>) -> anyhow::Result<Vec<String>> {
    let configured = &config.kafka.topics;
    match topic {
        None => Ok(configured.clone()),
        Some(topic) if configured.iter().any(|known| known == topic) => Ok(vec![topic.to_owned()]),
        Some(topic) => {
            bail!("topic {topic:?} is not one of kafka.topics = {:?}", configured.join(","))
        }
    }
}

fn session(config: &Config) -> anyhow::Result<Session> {
    Ok(Session::new(app::session_options(&config.postgres)?))
}

/// Begins a transaction in the worker's schema, after making sure that it is new enough.
async fn in_schema<'a>(
    config: &Config,
    session: &'a mut Session,
) -> anyhow::Result<&'a mut PgConnection> {
    let conn = session.begin().await.context("connecting to postgres")?;
    let latest = migrate::require_latest(conn, &config.postgres.schema).await;
    latest.context("reading the schema's version")??;
    Ok(conn)
}

/// To the second, which is enough for a table.
fn seconds(at: OffsetDateTime) -> String {
    let at = at.replace_nanosecond(0).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

fn json(value: &impl Serialize) -> anyhow::Result<()> {
    say(&serde_json::to_string_pretty(value)?)
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("writing to standard output")
}
