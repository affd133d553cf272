//! The ledger: every event once, by id and time, in monthly partitions.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use time::{Date, OffsetDateTime};

use crate::apply::batch::{Batch, Content};
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

/// Inserts the batch's events and answers which of them are fresh.
///
/// What RETURNING gives back is fresh, always (gathered into one row a partition, for thousands of
/// rows cost the client more than the server): after a rewind the stored positions would make
/// every redelivered record look new. Rows go in sorted by key, so that two writers with crossed
/// ids wait for each other in one order, and so that of two equal ids in one batch the first wins.
pub(super) async fn insert(conn: &mut PgConnection, batch: &Batch) -> sqlx::Result<Fresh> {
    let mut rows: Vec<(usize, &Event)> = events(batch).collect();
    if rows.is_empty() {
        return Ok(Fresh::All);
    }
    rows.sort_by_key(|(index, event)| (event.id, event.time, *index));
    let source = |index: usize| &batch.ranges[batch.items[index].range].source;
    let inserted = sqlx::query!(
        r#"WITH fresh AS (
           INSERT INTO user_events (event_id, occurred_at, kafka_offset, sequence,
                                    kafka_partition, kafka_topic, source, type, user_id, data)
           SELECT e.event_id, e.occurred_at, e.kafka_offset, e.sequence,
                  e.kafka_partition, e.kafka_topic, e.source, e.type, e.user_id, e.data::jsonb
           FROM UNNEST($1::uuid[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::int[],
                       $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
             AS e(event_id, occurred_at, kafka_offset, sequence, kafka_partition,
                  kafka_topic, source, type, user_id, data)
           ON CONFLICT DO NOTHING
           RETURNING kafka_topic, kafka_partition, kafka_offset)
           SELECT kafka_topic AS "topic!", kafka_partition AS "partition!",
                  array_agg(kafka_offset) AS "offsets!"
           FROM fresh GROUP BY kafka_topic, kafka_partition"#,
        &rows.iter().map(|(_, e)| e.id.0).collect::<Vec<_>>(),
        &rows.iter().map(|(_, e)| e.time).collect::<Vec<_>>(),
        &rows.iter().map(|(i, _)| batch.items[*i].record.offset.0).collect::<Vec<_>>(),
        &rows.iter().map(|(_, e)| e.sequence.map(Sequence::get)).collect::<Vec<_>>() as _,
        &rows.iter().map(|(i, _)| source(*i).partition).collect::<Vec<_>>(),
        &rows.iter().map(|(i, _)| source(*i).topic.as_ref()).collect::<Vec<&str>>() as _,
        &rows.iter().map(|(_, e)| e.source.as_ref()).collect::<Vec<&str>>() as _,
        &rows.iter().map(|(_, e)| e.kind.type_name()).collect::<Vec<&str>>() as _,
        &rows.iter().map(|(_, e)| e.user_id.as_str()).collect::<Vec<&str>>() as _,
        &rows.iter().map(|(_, e)| e.data.as_str()).collect::<Vec<&str>>() as _,
    )
    .fetch_all(conn)
    .await?;
    let fresh: usize = inserted.iter().map(|partition| partition.offsets.len()).sum();
    if fresh == rows.len() || failpoint::is_off(Guard::EventKey) {
        return Ok(Fresh::All);
    }
    let by_position: HashMap<(&str, i32, i64), usize> = rows
        .iter()
        .map(|(i, _)| {
            let source = source(*i);
            let offset = batch.items[*i].record.offset.0;
            ((source.topic.as_ref(), source.partition, offset), *i)
        })
        .collect();
    let fresh = inserted.iter().flat_map(|row| {
        let source = (row.topic.as_str(), row.partition);
        row.offsets.iter().map(move |offset| (source.0, source.1, *offset))
    });
    let fresh = fresh.filter_map(|position| by_position.get(&position).copied());
    Ok(Fresh::Only(fresh.collect()))
}

/// The batch's events with their index in [`Batch::items`], in arrival order.
pub(super) fn events(batch: &Batch) -> impl Iterator<Item = (usize, &Event)> {
    batch.items.iter().enumerate().filter_map(|(index, item)| match &item.content {
        Content::Event(event, _) => Some((index, event.as_ref())),
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
