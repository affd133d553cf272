//! The plain pair of statements that anybody would write first: what the worker's are held against.

use std::collections::BTreeMap;

use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use user_events_worker::apply::{Batch, Content};
use user_events_worker::event::{Event, ProfileChange, Touch, UserChange};

/// Events per batch.
pub(super) const BATCH: usize = 5_000;

const INSERT: &str = "INSERT INTO user_events (event_id, occurred_at, kafka_offset, sequence,
                         kafka_partition, kafka_topic, source, type, user_id, data)
     SELECT e.event_id, e.occurred_at, e.kafka_offset, e.sequence, e.kafka_partition,
            e.kafka_topic, e.source, e.type, e.user_id, e.data::jsonb
     FROM UNNEST($1::uuid[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::int[],
                 $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
       AS e(event_id, occurred_at, kafka_offset, sequence, kafka_partition,
            kafka_topic, source, type, user_id, data)
     ON CONFLICT DO NOTHING";

const UPSERT: &str =
    "INSERT INTO users AS u (user_id, sequence, created_at, last_event_at, event_count,
                         updated_at, deleted_at, profile)
     SELECT w.user_id, w.sequence, w.created_at, w.last_event_at, w.events, w.updated_at,
            w.deleted_at, w.profile::jsonb
     FROM UNNEST($1::text[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::bigint[],
                 $6::timestamptz[], $7::timestamptz[], $8::text[])
       AS w(user_id, sequence, created_at, last_event_at, events, updated_at, deleted_at, profile)
     ON CONFLICT (user_id) DO UPDATE
     SET sequence = COALESCE(excluded.sequence, u.sequence),
         last_event_at = GREATEST(u.last_event_at, excluded.last_event_at),
         event_count = u.event_count + excluded.event_count,
         updated_at = COALESCE(excluded.updated_at, u.updated_at),
         deleted_at = excluded.deleted_at,
         profile = u.profile || excluded.profile";

pub(super) async fn apply(conn: &mut PgConnection, batch: &Batch) -> sqlx::Result<()> {
    let mut transaction = conn.begin().await?;
    insert(&mut transaction, batch).await?;
    upsert(&mut transaction, batch).await?;
    transaction.commit().await
}

/// The events of a batch, in arrival order, with offset and partition.
pub(super) fn events(batch: &Batch) -> impl Iterator<Item = (&Event, i64, i32)> {
    batch.items.iter().filter_map(|item| match &item.content {
        Content::Event(event, _) => {
            let partition = batch.ranges[item.range].source.partition;
            Some((event, item.record.offset.0, partition))
        }
        Content::DeadLetter(_) | Content::Skipped => None,
    })
}

async fn insert(conn: &mut PgConnection, batch: &Batch) -> sqlx::Result<()> {
    let rows: Vec<_> = events(batch).collect();
    let topic = batch.ranges.first().map_or("", |range| &range.source.topic);
    sqlx::query(INSERT)
        .bind(rows.iter().map(|(e, ..)| e.id.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|(e, ..)| e.time).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, offset, _)| *offset).collect::<Vec<_>>())
        .bind(rows.iter().map(|(e, ..)| e.sequence.map(|s| s.get())).collect::<Vec<_>>())
        .bind(rows.iter().map(|(.., partition)| *partition).collect::<Vec<_>>())
        .bind(vec![topic; rows.len()])
        .bind(rows.iter().map(|(e, ..)| &*e.source).collect::<Vec<_>>())
        .bind(rows.iter().map(|(e, ..)| e.kind.type_name()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(e, ..)| e.user_id.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(e, ..)| e.data.as_str()).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map(drop)
}

async fn upsert(conn: &mut PgConnection, batch: &Batch) -> sqlx::Result<()> {
    // A statement cannot touch a row twice, so even the plainest folds. Sorted by user, so that
    // the comparison is not one of orders.
    let mut users: BTreeMap<&str, UserChange> = BTreeMap::new();
    for (event, ..) in events(batch) {
        let user = event.user_id.as_str();
        let change = match users.remove(user) {
            Some(before) => before.then(UserChange::of(event)),
            None => UserChange::of(event),
        };
        users.insert(user, change);
    }
    let profiles: Vec<Profile> = users.values().map(Profile::of).collect();
    sqlx::query(UPSERT)
        .bind(users.keys().copied().collect::<Vec<_>>())
        .bind(users.values().map(|c| c.sequence.map(|s| s.get())).collect::<Vec<_>>())
        .bind(users.values().map(|c| c.first_at).collect::<Vec<_>>())
        .bind(users.values().map(|c| c.last_at).collect::<Vec<_>>())
        .bind(users.values().map(|c| c.events).collect::<Vec<_>>())
        .bind(profiles.iter().map(|p| p.updated_at).collect::<Vec<_>>())
        .bind(profiles.iter().map(|p| p.deleted_at).collect::<Vec<_>>())
        .bind(profiles.into_iter().map(|p| p.members).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map(drop)
}

struct Profile {
    updated_at: Option<OffsetDateTime>,
    deleted_at: Option<OffsetDateTime>,
    members: String,
}

impl Profile {
    fn of(change: &UserChange) -> Self {
        let updated_at = match change.profile.touch() {
            Touch::Keep => None,
            Touch::IfLive(at) | Touch::Always(at) => Some(at),
        };
        let (deleted_at, members) = match &change.profile {
            ProfileChange::Keep => (None, "{}".to_owned()),
            ProfileChange::Merge { patch, .. } => (None, patch.set().to_json().into_owned()),
            ProfileChange::Replace { members, .. } => (None, members.to_json().into_owned()),
            ProfileChange::Empty { deleted_at, .. } => (Some(*deleted_at), "{}".to_owned()),
        };
        Self { updated_at, deleted_at, members }
    }
}
