//! The checker: what an independent producer wrote, held against what Postgres holds, by SQL. The
//! worker's own counters have no say in it.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use user_events_worker::event::model::{UserRow, apply_one};
use user_events_worker::event::{Event, EventId, EventKind, JsonObject, Sequence, UserId, Verdict};
use uuid::Uuid;

use super::Scene;
use super::load::{Content, Ledger, Meant};

/// How much of the projection the load determines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// Every column: a user's events came in one partition.
    Whole,
    /// Counts, versions and latest times: events of a user crossed partitions.
    Counts,
}

impl Scene {
    /// Waits until everything is applied, then checks all of it.
    ///
    /// # Panics
    /// With every discrepancy found.
    pub async fn check(&self, ledger: &Ledger, projection: Projection) {
        self.caught_up().await;
        let found = self.discrepancies(ledger, projection).await;
        assert!(
            found.is_empty(),
            "postgres does not hold what was produced:\n{}",
            found.join("\n")
        );
        // A check of nothing would pass, too.
        assert!(!ledger.is_empty());
    }

    /// All that differs between the ledger and Postgres, in words.
    pub async fn discrepancies(&self, ledger: &Ledger, projection: Projection) -> Vec<String> {
        self.discrepancies_on(&mut self.db().await, ledger, projection).await
    }

    /// The same as one connection sees it.
    pub async fn discrepancies_on(
        &self,
        conn: &mut PgConnection,
        ledger: &Ledger,
        projection: Projection,
    ) -> Vec<String> {
        let ends = self.ends().await;
        load_sent(conn, ledger).await;
        load_expected_users(conn, ledger).await;
        load_ends(conn, &self.group, &self.topic, &ends).await;
        let users = match projection {
            Projection::Whole => WHOLE_USERS,
            Projection::Counts => USER_COUNTS,
        };
        let mut found = log_differs_from(ledger, &ends);
        for (what, sql) in QUESTIONS.iter().chain(users) {
            let rows: Vec<(String,)> = sqlx::query_as(*sql).fetch_all(&mut *conn).await.unwrap();
            if !rows.is_empty() {
                let some: Vec<_> = rows.iter().take(5).map(|(row,)| row.as_str()).collect();
                found.push(format!("{what}: {} (such as {})", rows.len(), some.join("; ")));
            }
        }
        found
    }
}

/// What is wrong, and the query that finds it: each answers one text per culprit.
const QUESTIONS: &[(&str, &str)] = &[
    (
        "valid events missing from the ledger",
        "SELECT event_id::text FROM (
           SELECT event_id, occurred_at FROM sent WHERE NOT nonsense
           EXCEPT SELECT event_id, occurred_at FROM user_events) d",
    ),
    (
        "events in the ledger that nobody produced",
        "SELECT event_id::text FROM (
           SELECT event_id, occurred_at FROM user_events
           EXCEPT SELECT event_id, occurred_at FROM sent WHERE NOT nonsense) d",
    ),
    (
        "events in the ledger more than once",
        "SELECT event_id::text FROM user_events GROUP BY event_id HAVING count(*) > 1",
    ),
    (
        "events that differ from what was produced",
        "SELECT e.event_id::text FROM user_events e
         JOIN sent s USING (event_id, occurred_at)
         WHERE (e.user_id, e.type, e.sequence, e.data, e.source)
               IS DISTINCT FROM (s.user_id, s.type, s.sequence, s.data, '/load')",
    ),
    (
        "events stored with another position than their first one in a partition",
        "SELECT e.event_id::text FROM user_events e WHERE NOT EXISTS (
           SELECT FROM sent s WHERE s.event_id = e.event_id AND s.partition = e.kafka_partition
           HAVING min(s.\"offset\") = e.kafka_offset)",
    ),
    (
        "users' counts that do not add up to the distinct events",
        "SELECT u.total || ' instead of ' || s.total
         FROM (SELECT coalesce(sum(event_count), 0)::bigint AS total FROM users) u,
              (SELECT count(DISTINCT event_id) AS total FROM sent WHERE NOT nonsense) s
         WHERE u.total <> s.total",
    ),
    (
        "malformed records without their dead letter",
        "SELECT partition || '/' || \"offset\" FROM (
           SELECT partition, \"offset\", value FROM sent WHERE nonsense
           EXCEPT SELECT kafka_partition, kafka_offset, value FROM dead_letters
                  WHERE reason = 'not_json') d",
    ),
    (
        "dead letters of well-formed records, or of none",
        "SELECT kafka_partition || '/' || kafka_offset FROM (
           SELECT kafka_partition, kafka_offset FROM dead_letters
           EXCEPT SELECT partition, \"offset\" FROM sent WHERE nonsense) d",
    ),
    (
        "dead letters applied more than once",
        "SELECT kafka_partition || '/' || kafka_offset FROM dead_letters WHERE times_seen <> 1",
    ),
    (
        "partitions that do not stand at their end",
        "SELECT e.partition || ': ' || coalesce(o.next_offset::text, 'nowhere') || ', end ' || e.next_offset
         FROM ends e LEFT JOIN source_offsets o USING (consumer_group, topic, partition)
         WHERE o.next_offset IS DISTINCT FROM e.next_offset",
    ),
];

const WHOLE_USERS: &[(&str, &str)] = &[(
    "users that differ from a recomputation",
    "SELECT coalesce(u.user_id, x.user_id) || ': ' || coalesce(u::text, 'missing') || ' instead of '
            || coalesce(x::text, 'none')
     FROM (SELECT user_id, sequence, created_at, updated_at, deleted_at, last_event_at, event_count,
                  profile FROM users) u
     FULL JOIN expected_users x USING (user_id)
     WHERE u IS DISTINCT FROM x",
)];

const USER_COUNTS: &[(&str, &str)] = &[(
    "users whose count, version or latest time differs from a recomputation",
    "SELECT coalesce(u.user_id, x.user_id)
     FROM users u FULL JOIN expected_users x USING (user_id)
     WHERE (u.event_count, u.sequence, u.last_event_at)
           IS DISTINCT FROM (x.event_count, x.sequence, x.last_event_at)",
)];

/// Proves that the ledger is about this topic, and that nothing else was written there.
fn log_differs_from(ledger: &Ledger, ends: &BTreeMap<i32, i64>) -> Vec<String> {
    let mut found = Vec::new();
    for (partition, end) in ends {
        let written = ledger.range((*partition, 0)..=(*partition, i64::MAX)).count();
        if i64::try_from(written).unwrap() != *end {
            found.push(format!(
                "partition {partition} holds {end} records, {written} were acknowledged"
            ));
        }
    }
    found
}

async fn run(conn: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(conn).await.unwrap();
}

async fn load_sent(conn: &mut PgConnection, ledger: &Ledger) {
    run(
        conn,
        "CREATE TEMP TABLE sent (partition int, \"offset\" bigint, nonsense bool, event_id uuid,
           occurred_at timestamptz, user_id text COLLATE \"C\", type text, sequence bigint,
           data jsonb, value bytea)",
    )
    .await;
    let all: Vec<_> = ledger.iter().collect();
    for some in all.chunks(10_000) {
        let event = |content: &Content| match content {
            Content::Event(event) => Some(event.clone()),
            Content::Nonsense(_) => None,
        };
        let events: Vec<_> = some.iter().map(|(_, content)| event(content)).collect();
        let value = |content: &Content| match content {
            Content::Event(_) => None,
            Content::Nonsense(value) => Some(value.clone()),
        };
        sqlx::query(
            "INSERT INTO sent
             SELECT p, o, i IS NULL, i, t, u, k, s, d::jsonb, v
             FROM UNNEST($1::int[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::text[],
                         $6::text[], $7::bigint[], $8::text[], $9::bytea[])
               AS w(p, o, i, t, u, k, s, d, v)",
        )
        .bind(some.iter().map(|((partition, _), _)| *partition).collect::<Vec<i32>>())
        .bind(some.iter().map(|((_, offset), _)| *offset).collect::<Vec<i64>>())
        .bind(events.iter().map(|e| e.as_ref().map(|e| e.id)).collect::<Vec<Option<Uuid>>>())
        .bind(
            events
                .iter()
                .map(|e| e.as_ref().map(|e| e.time))
                .collect::<Vec<Option<OffsetDateTime>>>(),
        )
        .bind(
            events
                .iter()
                .map(|e| e.as_ref().map(|e| e.user.clone()))
                .collect::<Vec<Option<String>>>(),
        )
        .bind(
            events
                .iter()
                .map(|e| e.as_ref().map(|e| e.kind.to_owned()))
                .collect::<Vec<Option<String>>>(),
        )
        .bind(
            events
                .iter()
                .map(|e| e.as_ref().and_then(|e| e.sequence))
                .collect::<Vec<Option<i64>>>(),
        )
        .bind(
            events
                .iter()
                .map(|e| e.as_ref().map(|e| e.data.to_string()))
                .collect::<Vec<Option<String>>>(),
        )
        .bind(some.iter().map(|(_, content)| value(content)).collect::<Vec<Option<Vec<u8>>>>())
        .execute(&mut *conn)
        .await
        .unwrap();
    }
    run(conn, "CREATE INDEX ON sent (event_id); ANALYZE sent").await;
}

async fn load_ends(conn: &mut PgConnection, group: &str, topic: &str, ends: &BTreeMap<i32, i64>) {
    run(
        conn,
        "CREATE TEMP TABLE ends (consumer_group text, topic text, partition int, next_offset bigint)",
    )
    .await;
    sqlx::query("INSERT INTO ends SELECT $1, $2, * FROM UNNEST($3::int[], $4::bigint[])")
        .bind(group)
        .bind(topic)
        .bind(ends.keys().copied().collect::<Vec<i32>>())
        .bind(ends.values().copied().collect::<Vec<i64>>())
        .execute(conn)
        .await
        .unwrap();
}

async fn load_expected_users(conn: &mut PgConnection, ledger: &Ledger) {
    run(
        conn,
        "CREATE TEMP TABLE expected_users (user_id text COLLATE \"C\", sequence bigint,
           created_at timestamptz, updated_at timestamptz, deleted_at timestamptz,
           last_event_at timestamptz, event_count bigint, profile jsonb)",
    )
    .await;
    for (user, row) in expected_users(ledger) {
        let profile: Value = serde_json::from_str(&row.profile.to_json()).unwrap();
        sqlx::query("INSERT INTO expected_users VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(user)
            .bind(row.sequence.map(Sequence::get))
            .bind(row.created_at)
            .bind(row.updated_at)
            .bind(row.deleted_at)
            .bind(row.last_event_at)
            .bind(row.event_count)
            .bind(profile)
            .execute(&mut *conn)
            .await
            .unwrap();
    }
}

/// One event at a time, in the order of each partition, the first of equal ids only.
fn expected_users(ledger: &Ledger) -> BTreeMap<String, UserRow> {
    let mut users: BTreeMap<String, UserRow> = BTreeMap::new();
    let mut seen: HashMap<Uuid, ()> = HashMap::new();
    for content in ledger.values() {
        let Content::Event(meant) = content else { continue };
        if seen.insert(meant.id, ()).is_some() {
            continue;
        }
        let before = users.remove(&meant.user);
        let last = before.as_ref().and_then(|row| row.sequence).map(Sequence::get);
        let stale =
            meant.sequence.is_some_and(|sequence| last.is_some_and(|last| sequence <= last));
        let verdict = if stale { Verdict::Stale } else { Verdict::Fresh };
        users.insert(meant.user.clone(), apply_one(before, &event(meant), verdict));
    }
    users
}

fn event(meant: &Meant) -> Event {
    Event {
        id: EventId(meant.id),
        time: meant.time,
        source: "/load".into(),
        kind: EventKind::from_type(meant.kind.to_owned().into()),
        user_id: UserId::new(meant.user.clone()).unwrap(),
        sequence: meant.sequence.map(|number| Sequence::new(number).unwrap()),
        data: JsonObject::parse(&meant.data.to_string()).unwrap(),
        trace: None,
    }
}
