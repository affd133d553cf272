//! The ledger: every event once, by id and time, in monthly partitions.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use crate::apply::batch::{Batch, Content};
use crate::apply::column::Column;
use crate::apply::prepared::Statement;
use crate::event::{Event, Sequence};
use crate::failpoint::{self, Guard};

/// Which events of a batch were not in the ledger before, by index into [`Batch::items`].
#[derive(Debug)]
pub(super) enum Fresh {
    /// All of them: the common case, which needs no set.
    All,
    /// These only; the others are duplicates.
    Only(HashSet<usize>),
}

impl Fresh {
    pub(super) fn contains(&self, index: usize) -> bool {
        match self {
            Fresh::All => true,
            Fresh::Only(indexes) => indexes.contains(&index),
        }
    }
}

/// What became of an insert of events as if none of them were there, which costs Postgres half as
/// much. Right nearly always: the fence has kept out what was applied before, so only a producer's
/// retry or an operator's rewind brings an event twice.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// They are in the ledger; none was there before.
    All,
    /// One was there already. The transaction has failed: once more, by [`insert_missing`].
    Duplicate,
}

/// The insert of all events of a batch, if it has any; `None` when one of them is there twice.
pub(super) fn insert_of_all(batch: &Batch) -> Option<Option<Statement>> {
    let rows = sorted(batch);
    // Of two equal ids one is a duplicate, whatever is there already.
    let key = |(_, event): &(usize, &Event)| (event.id, event.time);
    if rows.windows(2).any(|two| key(&two[0]) == key(&two[1])) {
        return None;
    }
    Some((!rows.is_empty()).then(|| Columns::of(batch, &rows).insert_all()))
}

/// Runs what [`insert_of_all`] prepared.
pub(super) async fn insert_all(
    conn: &mut PgConnection,
    insert: Statement,
) -> sqlx::Result<Inserted> {
    match insert.execute(conn).await {
        Ok(_) => Ok(Inserted::All),
        Err(error) if is_duplicate(&error) => Ok(Inserted::Duplicate),
        Err(error) => Err(error),
    }
}

/// Inserts those events that are not in the ledger yet.
///
/// Most of a batch may be there, after a rewind: those are looked up first, which costs less than
/// offering them. What another writer inserts meanwhile, the insert itself notices.
pub(super) async fn insert_missing(conn: &mut PgConnection, batch: &Batch) -> sqlx::Result<Fresh> {
    let mut rows = sorted(batch);
    let all = rows.len();
    let known = known(conn, &rows).await?;
    let mut known = known.into_iter().peekable();
    let mut row = 0;
    rows.retain(|_| {
        row += 1;
        known.next_if_eq(&row).is_none()
    });
    if rows.is_empty() {
        return Ok(if all == 0 { Fresh::All } else { Fresh::Only(HashSet::new()) });
    }
    let inserted = Columns::of(batch, &rows).insert_missing(conn).await?;
    Ok(fresh(batch, &rows, all, inserted))
}

/// The batch's events with their index, sorted by key, so that two writers with crossed ids wait
/// for each other in one order, and so that of two equal ids in one batch the first wins.
fn sorted(batch: &Batch) -> Vec<(usize, &Event)> {
    let mut rows: Vec<(usize, &Event)> = events(batch).collect();
    rows.sort_by_key(|(index, event)| (event.id, event.time, *index));
    rows
}

/// Which of the rows, counted from 1, are in the ledger already; in order.
async fn known(conn: &mut PgConnection, rows: &[(usize, &Event)]) -> sqlx::Result<Vec<i64>> {
    if failpoint::is_off(Guard::EventKey) {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = rows.iter().map(|(_, event)| event.id.0).collect();
    let times: Vec<OffsetDateTime> = rows.iter().map(|(_, event)| event.time).collect();
    let known = sqlx::query_scalar!(
        "SELECT array_agg(w.row ORDER BY w.row)
         FROM UNNEST($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS w(id, at, row)
         WHERE EXISTS (SELECT FROM user_events e WHERE e.event_id = w.id AND e.occurred_at = w.at)",
        Column(&ids) as _,
        Column(&times) as _,
    )
    .fetch_one(conn)
    .await?;
    Ok(known.unwrap_or_default())
}

/// The columns of an insert, of one length because they are made of the same rows.
struct Columns<'a> {
    ids: Vec<Uuid>,
    times: Vec<OffsetDateTime>,
    offsets: Vec<i64>,
    sequences: Vec<Option<i64>>,
    partitions: Vec<i32>,
    topics: Vec<&'a str>,
    sources: Vec<&'a str>,
    types: Vec<&'a str>,
    users: Vec<&'a str>,
    data: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a Batch, rows: &[(usize, &'a Event)]) -> Self {
        let source = |index: usize| &batch.ranges[batch.items[index].range].source;
        Self {
            ids: rows.iter().map(|(_, e)| e.id.0).collect(),
            times: rows.iter().map(|(_, e)| e.time).collect(),
            offsets: rows.iter().map(|(i, _)| batch.items[*i].record.offset.0).collect(),
            sequences: rows.iter().map(|(_, e)| e.sequence.map(Sequence::get)).collect(),
            partitions: rows.iter().map(|(i, _)| source(*i).partition).collect(),
            topics: rows.iter().map(|(i, _)| source(*i).topic.as_ref()).collect(),
            sources: rows.iter().map(|(_, e)| e.source.as_ref()).collect(),
            types: rows.iter().map(|(_, e)| e.kind.type_name()).collect(),
            users: rows.iter().map(|(_, e)| e.user_id.as_str()).collect(),
            data: rows.iter().map(|(_, e)| e.data.as_str()).collect(),
        }
    }

    /// UNNEST in the select list streams its rows; in FROM it would first store them all.
    fn insert_all(&self) -> Statement {
        sqlx::query!(
            r#"INSERT INTO user_events (event_id, occurred_at, kafka_offset, sequence,
                                        kafka_partition, kafka_topic, source, type, user_id, data)
               SELECT UNNEST($1::uuid[]), UNNEST($2::timestamptz[]), UNNEST($3::bigint[]),
                      UNNEST($4::bigint[]), UNNEST($5::int[]), UNNEST($6::text[]),
                      UNNEST($7::text[]), UNNEST($8::text[]), UNNEST($9::text[]),
                      UNNEST($10::text[])::jsonb"#,
            Column(&self.ids) as _,
            Column(&self.times) as _,
            Column(&self.offsets) as _,
            Column(&self.sequences) as _,
            Column(&self.partitions) as _,
            Column(&self.topics) as _,
            Column(&self.sources) as _,
            Column(&self.types) as _,
            Column(&self.users) as _,
            Column(&self.data) as _,
        )
    }

    /// Answers the positions of what was inserted, by partition.
    ///
    /// What RETURNING gives back is fresh, always (gathered into one row a partition, for
    /// thousands of rows cost the client more than the server): after a rewind the stored
    /// positions would make every redelivered record look new.
    async fn insert_missing(&self, conn: &mut PgConnection) -> sqlx::Result<Vec<Positions>> {
        sqlx::query_as!(
            Positions,
            r#"WITH fresh AS (
               INSERT INTO user_events (event_id, occurred_at, kafka_offset, sequence,
                                        kafka_partition, kafka_topic, source, type, user_id, data)
               SELECT UNNEST($1::uuid[]), UNNEST($2::timestamptz[]), UNNEST($3::bigint[]),
                      UNNEST($4::bigint[]), UNNEST($5::int[]), UNNEST($6::text[]),
                      UNNEST($7::text[]), UNNEST($8::text[]), UNNEST($9::text[]),
                      UNNEST($10::text[])::jsonb
               ON CONFLICT DO NOTHING
               RETURNING kafka_topic, kafka_partition, kafka_offset)
               SELECT kafka_topic AS "topic!", kafka_partition AS "partition!",
                      array_agg(kafka_offset) AS "offsets!"
               FROM fresh GROUP BY kafka_topic, kafka_partition"#,
            Column(&self.ids) as _,
            Column(&self.times) as _,
            Column(&self.offsets) as _,
            Column(&self.sequences) as _,
            Column(&self.partitions) as _,
            Column(&self.topics) as _,
            Column(&self.sources) as _,
            Column(&self.types) as _,
            Column(&self.users) as _,
            Column(&self.data) as _,
        )
        .fetch_all(conn)
        .await
    }
}

/// Offsets inserted of one partition.
struct Positions {
    topic: String,
    partition: i32,
    offsets: Vec<i64>,
}

/// The ledger's one unique constraint is its key. (Where somebody has added another, the second
/// attempt tells.)
fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}

/// Which rows the answer names.
fn fresh(batch: &Batch, rows: &[(usize, &Event)], all: usize, inserted: Vec<Positions>) -> Fresh {
    let count: usize = inserted.iter().map(|partition| partition.offsets.len()).sum();
    if count == all || failpoint::is_off(Guard::EventKey) {
        return Fresh::All;
    }
    let by_position: HashMap<(&str, i32, i64), usize> = rows
        .iter()
        .map(|(i, _)| {
            let source = &batch.ranges[batch.items[*i].range].source;
            let offset = batch.items[*i].record.offset.0;
            ((source.topic.as_ref(), source.partition, offset), *i)
        })
        .collect();
    let positions = inserted.iter().flat_map(|row| {
        let source = (row.topic.as_str(), row.partition);
        row.offsets.iter().map(move |offset| (source.0, source.1, *offset))
    });
    Fresh::Only(positions.filter_map(|position| by_position.get(&position).copied()).collect())
}

/// The batch's events with their index in [`Batch::items`], in arrival order.
pub(super) fn events(batch: &Batch) -> impl Iterator<Item = (usize, &Event)> {
    batch.items.iter().enumerate().filter_map(|(index, item)| match &item.content {
        Content::Event(event, _) => Some((index, event)),
        _ => None,
    })
}

/// First day of the month (UTC) an event belongs to.
pub(super) fn month_of(time: OffsetDateTime) -> Date {
    let date = time.to_offset(time::UtcOffset::UTC).date();
    date.replace_day(1).unwrap_or(date)
}

/// A month of the ledger, as `ensure_user_events_month` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Month {
    /// It is there, or has just been made.
    Ready,
    /// It was dropped for its age, and is never made again.
    Expired,
}

/// Makes sure a month exists. Runs in a transaction of its own, before the batch that needs it.
pub(super) async fn ensure_month(conn: &mut PgConnection, month: Date) -> sqlx::Result<Month> {
    let answer =
        sqlx::query_scalar!("SELECT ensure_user_events_month($1)", month).fetch_one(conn).await?;
    Ok(match answer.as_deref() {
        Some("expired") => Month::Expired,
        _ => Month::Ready,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::{date, datetime};

    #[test]
    fn an_event_belongs_to_its_month_in_utc() {
        assert_eq!(month_of(datetime!(2026-11-30 23:59:59.999999 UTC)), date!(2026 - 11 - 01));
        assert_eq!(month_of(datetime!(2026-12-01 00:30 +01:00)), date!(2026 - 11 - 01));
    }
}
