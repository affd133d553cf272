//! A ledger that is large already, and topics of few or many partitions.

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::backlog::Backlog;
use crate::draining::{COLUMNS, Drained, Draining};
use crate::plan::{PARTITIONS, Plan};
use crate::report::{Case, Table};
use crate::schema::Schema;
use crate::services::Services;
use crate::workload::Mix;

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Setting {
    /// In the ledger before the first run, in the month of the new events.
    pub(crate) rows: u64,
    pub(crate) partitions: i32,
    pub(crate) events: u64,
}

#[derive(Serialize)]
pub(crate) struct Growth(pub(crate) Vec<Case<Setting, Drained>>);

pub(crate) async fn measure(services: &Services, plan: &Plan) -> Result<Growth> {
    let rows = plan.ledger_rows.iter().map(|&rows| (rows, PARTITIONS));
    let partitions = plan.partitions.iter().map(|&partitions| (0, partitions));
    let mut cases = Vec::new();
    for (rows, partitions) in rows.chain(partitions) {
        let setting = Setting { rows, partitions, events: plan.events };
        eprintln!("growth, {} runs: {setting:?}", plan.other_runs);
        cases.push(Case { runs: run(services, setting, plan.other_runs).await?, setting });
    }
    Ok(Growth(cases))
}

/// Several backlogs, one after the other, into one ledger; loading it takes longer than they do.
/// An empty one is made anew for each.
async fn run(services: &Services, setting: Setting, runs: usize) -> Result<Vec<Drained>> {
    let Setting { rows, partitions, events } = setting;
    let mut schema = Schema::new(services).await?;
    load(&schema, rows).await?;
    let mut drained = Vec::new();
    for run in 0..runs {
        if run > 0 && rows == 0 {
            schema.drop().await?;
            schema = Schema::new(services).await?;
        }
        let backlog = Backlog::of(services, Mix::Even, events, partitions).await?;
        drained.push(Draining::new(services, &backlog, &schema).measure().await?);
        backlog.drop(services).await?;
    }
    schema.drop().await?;
    Ok(drained)
}

/// Rows in one statement.
const PORTION: u64 = 1_000_000;

/// As many events as would have come since the month began, in that order, with UUIDv7 ids.
const LOAD: &str = "INSERT INTO user_events (event_id, occurred_at, kafka_offset, kafka_partition,
                        kafka_topic, source, type, user_id, data)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
            || left(random, 3) || '8' || right(random, 15))::uuid,
           at, i, 0, 'loaded', '/web', 'page.viewed', 'user-' || i % 100000,
           jsonb_build_object('page', '/cart', 'milliseconds', i % 3000, 'note', random || random)
    FROM (SELECT i, md5(i::text) AS random,
                 since + (now() - since) * (i::float8 / $3::float8) AS at
          FROM generate_series($1::bigint, $2::bigint - 1) AS i,
               date_trunc('month', now(), 'UTC') AS since) AS made";

async fn load(schema: &Schema, rows: u64) -> Result<()> {
    if rows == 0 {
        return Ok(());
    }
    let mut conn = schema.connect().await?;
    let all = i64::try_from(rows)?;
    for from in (0..rows).step_by(usize::try_from(PORTION)?) {
        let to = i64::try_from((from + PORTION).min(rows))?;
        sqlx::query(LOAD).bind(i64::try_from(from)?).bind(to).bind(all).execute(&mut conn).await?;
        eprintln!("  {to} of {rows} rows loaded");
    }
    let stored: i64 =
        sqlx::query_scalar("SELECT count(*) FROM user_events").fetch_one(&mut conn).await?;
    ensure!(stored == all, "{stored} rows are loaded instead of {rows}");
    // Or autovacuum would do it in the middle of a run.
    sqlx::query("VACUUM (FREEZE, ANALYZE) user_events").execute(&mut conn).await?;
    Ok(())
}

impl Growth {
    pub(crate) fn table(&self) -> Table {
        let head = ["rows in the ledger before", "partitions", "number"];
        let mut table = Table::new(
            "growth: a ledger that is large already, few and many partitions",
            &[&head, &COLUMNS[..]].concat(),
        );
        for case in &self.0 {
            let Setting { rows, partitions, events } = case.setting;
            let head = [rows, u64::from(partitions.unsigned_abs()), events];
            table.row(head.map(|number| number.to_string()).into_iter().chain(case.cells()));
        }
        table
    }
}
