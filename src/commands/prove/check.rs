//! Holds what Postgres has against the account of what was produced, by SQL. Neither the worker's
//! counters nor its code have a say in it.
//!
//! These queries are not checked at compile time: they need temporary tables, which exist only
//! here. The tests run every one of them, and see each find what it is for.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::events::{Content, Meant, SOURCE};
use super::expected::{Expected, Row};
use super::ledger::{Ledger, Position};

/// Rows sent to Postgres at once.
const CHUNK: usize = 10_000;
/// Culprits named; the others are counted.
const NAMED: usize = 3;

/// What became of the records: each has exactly one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Outcomes {
    /// In the ledger, and of effect.
    pub applied: i64,
    /// In the ledger; a later version of the user was there before.
    pub stale: i64,
    /// Another record with this event is in the ledger.
    pub duplicate: i64,
    /// In `dead_letters`.
    pub dead_letter: i64,
}

impl Outcomes {
    /// All of them.
    pub fn total(&self) -> i64 {
        self.applied + self.stale + self.duplicate + self.dead_letter
    }
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What became of the records.
    pub outcomes: Outcomes,
    /// All that is wrong, in words; empty when everything holds.
    pub wrong: Vec<String>,
}

/// Compares Postgres, as `conn` sees it, with the account and the ends of the log.
///
/// # Errors
/// Postgres's own.
pub async fn check(
    conn: &mut PgConnection,
    ledger: &Ledger,
    ends: &BTreeMap<i32, i64>,
) -> sqlx::Result<Checked> {
    let expected = Expected::of(ledger);
    sqlx::raw_sql(TABLES).execute(&mut *conn).await?;
    write_produced(conn, ledger, &expected).await?;
    write_expected(conn, &expected).await?;
    write_ends(conn, ends).await?;
    sqlx::raw_sql(FATES).execute(&mut *conn).await?;
    let mut wrong = Vec::new();
    for (what, sql) in QUESTIONS {
        let culprits: Vec<String> = sqlx::query_scalar(*sql).fetch_all(&mut *conn).await?;
        if !culprits.is_empty() {
            let named: Vec<_> = culprits.iter().take(NAMED).map(String::as_str).collect();
            wrong.push(format!("{what}: {} (such as {})", culprits.len(), named.join("; ")));
        }
    }
    let outcomes: Outcomes = sqlx::query_as(OUTCOMES).fetch_one(&mut *conn).await?;
    Ok(Checked { outcomes, wrong })
}

const TABLES: &str = "
    DROP TABLE IF EXISTS pg_temp.produced, pg_temp.expected, pg_temp.ends, pg_temp.fates;
    CREATE TEMP TABLE produced (
        partition int, \"offset\" bigint, reason text, value bytea, stale boolean, event_id uuid,
        occurred_at timestamptz, user_id text COLLATE \"C\", type text, sequence bigint, data jsonb,
        source text);
    CREATE TEMP TABLE expected (
        user_id text COLLATE \"C\", crosses boolean, sequence bigint, created_at timestamptz,
        updated_at timestamptz, deleted_at timestamptz, last_event_at timestamptz,
        event_count bigint, profile jsonb);
    CREATE TEMP TABLE ends (partition int, next_offset bigint);";

/// One row per record produced: which outcomes it has.
const FATES: &str = "
    CREATE INDEX ON produced (event_id);
    CREATE INDEX ON produced (user_id);
    ANALYZE produced;
    CREATE TEMP TABLE fates AS
    SELECT p.partition, p.\"offset\", p.reason,
           s.stored AND NOT p.stale AS applied,
           s.stored AND p.stale AS stale,
           NOT s.stored AND p.event_id IS NOT NULL AND EXISTS (
             SELECT FROM user_events e
             WHERE (e.event_id, e.occurred_at) = (p.event_id, p.occurred_at)) AS duplicate,
           EXISTS (SELECT FROM dead_letters d
                   WHERE (d.kafka_partition, d.kafka_offset) = (p.partition, p.\"offset\")) AS dead
    FROM produced p LEFT JOIN (
           SELECT DISTINCT kafka_partition AS partition, kafka_offset AS \"offset\", true AS stored
           FROM user_events) here USING (partition, \"offset\"),
         LATERAL (SELECT coalesce(here.stored, false) AS stored) s;";

const OUTCOMES: &str = "
    SELECT count(*) FILTER (WHERE applied) AS applied, count(*) FILTER (WHERE stale) AS stale,
           count(*) FILTER (WHERE duplicate) AS duplicate,
           count(*) FILTER (WHERE dead) AS dead_letter
    FROM fates";

/// What may be wrong, and the query that finds it: each answers one text per culprit.
const QUESTIONS: &[(&str, &str)] = &[
    (
        "lost: records without an outcome",
        "SELECT partition || '/' || \"offset\" FROM fates
         WHERE NOT (applied OR stale OR duplicate OR dead)",
    ),
    (
        "doubled: records with more than one outcome",
        "SELECT partition || '/' || \"offset\" FROM fates
         WHERE applied::int + stale::int + duplicate::int + dead::int > 1",
    ),
    (
        "doubled: events in the ledger more than once",
        "SELECT event_id::text FROM user_events GROUP BY event_id HAVING count(*) > 1",
    ),
    (
        "events in the ledger that nobody produced",
        "SELECT event_id::text FROM (
           SELECT event_id, occurred_at FROM user_events
           EXCEPT SELECT event_id, occurred_at FROM produced WHERE reason IS NULL) d",
    ),
    (
        "events in the ledger that differ from what was produced",
        "SELECT e.event_id::text FROM user_events e JOIN produced p USING (event_id, occurred_at)
         WHERE (e.user_id, e.type, e.sequence, e.data, e.source)
               IS DISTINCT FROM (p.user_id, p.type, p.sequence, p.data, p.source)",
    ),
    (
        "events in the ledger with another position than their first one in the partition",
        "SELECT e.event_id::text FROM user_events e WHERE NOT EXISTS (
           SELECT FROM produced p
           WHERE p.event_id = e.event_id AND p.partition = e.kafka_partition
           HAVING min(p.\"offset\") = e.kafka_offset)",
    ),
    (
        "sum of event_count in users differs from the number of different events",
        "SELECT u.total || ' instead of ' || p.total
         FROM (SELECT coalesce(sum(event_count), 0)::bigint AS total FROM users) u,
              (SELECT count(DISTINCT event_id) AS total FROM produced WHERE reason IS NULL) p
         WHERE u.total <> p.total",
    ),
    (
        "users that differ from a recomputation",
        "SELECT user_id || ': ' || coalesce(u::text, 'missing') || ' instead of '
                || coalesce(x::text, 'none')
         FROM users u FULL JOIN expected x USING (user_id)
         WHERE (u.sequence, u.updated_at, u.deleted_at, u.last_event_at, u.event_count, u.profile)
               IS DISTINCT FROM
               (x.sequence, x.updated_at, x.deleted_at, x.last_event_at, x.event_count, x.profile)
            OR CASE WHEN x.crosses
               THEN NOT EXISTS (SELECT FROM produced p
                                WHERE (p.user_id, p.occurred_at) = (u.user_id, u.created_at))
               ELSE u.created_at IS DISTINCT FROM x.created_at END",
    ),
    (
        "records that break the contract without their dead letter",
        "SELECT p.partition || '/' || p.\"offset\" || ' ' || p.reason FROM produced p
         WHERE p.reason IS NOT NULL AND NOT EXISTS (
           SELECT FROM dead_letters d
           WHERE (d.kafka_partition, d.kafka_offset, d.reason, d.value_length)
                 = (p.partition, p.\"offset\", p.reason, length(p.value))
             AND d.value = substr(p.value, 1, length(d.value)))",
    ),
    (
        "dead letters of records that keep the contract, or of none",
        "SELECT kafka_partition || '/' || kafka_offset || ' ' || reason FROM dead_letters d
         WHERE NOT EXISTS (SELECT FROM produced p
                           WHERE (p.partition, p.\"offset\") = (d.kafka_partition, d.kafka_offset)
                             AND p.reason IS NOT NULL)",
    ),
    (
        "doubled: dead letters stored more than once",
        "SELECT kafka_partition || '/' || kafka_offset FROM dead_letters
         GROUP BY kafka_partition, kafka_offset HAVING count(*) > 1 OR sum(times_seen) > 1",
    ),
    (
        "partitions whose position is not the end of the log",
        "SELECT e.partition || ': ' || coalesce(o.next_offset::text, 'nowhere') || ' instead of '
                || e.next_offset
         FROM ends e FULL JOIN source_offsets o USING (partition)
         WHERE o.next_offset IS DISTINCT FROM e.next_offset",
    ),
];

async fn write_produced(
    conn: &mut PgConnection,
    ledger: &Ledger,
    expected: &Expected,
) -> sqlx::Result<()> {
    let all: Vec<(Position, &Content)> = ledger.iter().collect();
    for some in all.chunks(CHUNK) {
        // Nonsense has no event, and an event neither reason nor a value of interest.
        let events: Vec<Option<&Meant>> = some.iter().map(|(_, content)| event(content)).collect();
        let of = |f: fn(&Meant) -> String| -> Vec<Option<String>> {
            events.iter().map(|event| event.map(f)).collect()
        };
        sqlx::query(
            "INSERT INTO produced
             SELECT p, o, r, v, l, i, t, u, k, s, d::jsonb, CASE WHEN r IS NULL THEN $12 END
             FROM UNNEST($1::int[], $2::bigint[], $3::text[], $4::bytea[], $5::bool[], $6::uuid[],
                         $7::timestamptz[], $8::text[], $9::text[], $10::bigint[], $11::text[])
               AS w(p, o, r, v, l, i, t, u, k, s, d)",
        )
        .bind(some.iter().map(|((partition, _), _)| *partition).collect::<Vec<i32>>())
        .bind(some.iter().map(|((_, offset), _)| *offset).collect::<Vec<i64>>())
        .bind(some.iter().map(|(_, content)| reason(content)).collect::<Vec<Option<&str>>>())
        .bind(some.iter().map(|(_, content)| nonsense(content)).collect::<Vec<Option<Vec<u8>>>>())
        .bind(some.iter().map(|(at, _)| expected.stale.contains(at)).collect::<Vec<bool>>())
        .bind(events.iter().map(|e| e.map(|e| e.id)).collect::<Vec<Option<Uuid>>>())
        .bind(events.iter().map(|e| e.map(|e| e.time)).collect::<Vec<Option<OffsetDateTime>>>())
        .bind(of(|event| event.user.name()))
        .bind(of(|event| event.kind.name().to_owned()))
        .bind(events.iter().map(|e| e.and_then(|e| e.sequence)).collect::<Vec<Option<i64>>>())
        .bind(of(|event| event.data().to_string()))
        .bind(SOURCE)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

fn event(content: &Content) -> Option<&Meant> {
    match content {
        Content::Event(event) => Some(event),
        Content::Nonsense(..) => None,
    }
}

fn reason(content: &Content) -> Option<&'static str> {
    match content {
        Content::Event(_) => None,
        Content::Nonsense(flaw, _) => Some(flaw.reason()),
    }
}

fn nonsense(content: &Content) -> Option<Vec<u8>> {
    reason(content).map(|_| content.record().value.into_bytes())
}

async fn write_expected(conn: &mut PgConnection, expected: &Expected) -> sqlx::Result<()> {
    // One by one: there are a few hundred.
    for (user, row) in &expected.users {
        let Row { crosses, sequence, created_at, updated_at, .. } = row;
        sqlx::query("INSERT INTO expected VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
            .bind(user)
            .bind(crosses)
            .bind(sequence)
            .bind(created_at)
            .bind(updated_at)
            .bind(row.deleted_at)
            .bind(row.last_event_at)
            .bind(row.event_count)
            .bind(Value::Object(row.profile.clone()))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn write_ends(conn: &mut PgConnection, ends: &BTreeMap<i32, i64>) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO ends SELECT * FROM UNNEST($1::int[], $2::bigint[])")
        .bind(ends.keys().copied().collect::<Vec<i32>>())
        .bind(ends.values().copied().collect::<Vec<i64>>())
        .execute(conn)
        .await
        .map(|_| ())
}
