//! `offsets history`: the moves that were made.

use anyhow::Context as _;

use crate::apply::moves::{self, Recorded};
use crate::commands::offsets::args::HistoryArgs;
use crate::commands::offsets::table::{cell, lay_out};
use crate::commands::offsets::{in_schema, json, say, seconds, session};
use crate::config::Config;

/// Prints them, the newest first. Asks Postgres only.
pub(super) async fn run(args: &HistoryArgs, config: &Config) -> anyhow::Result<()> {
    let mut session = session(config)?;
    let conn = in_schema(config, &mut session).await?;
    let group = &config.kafka.group_id;
    let recorded = moves::history(conn, group, args.topic.as_deref(), args.limit)
        .await
        .context("reading offset_moves")?;
    session.commit().await?;
    if args.json {
        return json(&recorded);
    }
    say(&table(&recorded))
}

fn table(recorded: &[Recorded]) -> String {
    let header = [
        "MOVED-AT",
        "TOPIC",
        "PARTITION",
        "FROM",
        "TO",
        "SKIPPED",
        "REPEATED",
        "BY",
        "DATABASE-USER",
        "REASON",
    ];
    let rows: Vec<_> = recorded
        .iter()
        .map(|moved| {
            [
                seconds(moved.moved_at),
                moved.topic.clone(),
                moved.partition.to_string(),
                cell(moved.from_offset),
                moved.to_offset.to_string(),
                moved.skipped.to_string(),
                moved.repeated.to_string(),
                moved.moved_by.clone(),
                moved.database_user.clone(),
                moved.reason.clone(),
            ]
        })
        .collect();
    lay_out(header, &rows)
}
