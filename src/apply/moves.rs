//! Positions as an operator sees and moves them, and the record of every move.

use std::ops::Range;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::apply::claims::OPERATOR;
use crate::types::{Epoch, Offset, TopicPartition};

/// Where a partition stands, and who claimed it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub source: TopicPartition,
    /// Next offset to read; `None` when reading has never begun.
    pub next: Option<Offset>,
    /// Its newest claim.
    pub epoch: Epoch,
    /// A worker's id, or an operator's name; not necessarily one that still runs.
    pub claimed_by: String,
    /// When.
    pub claimed_at: OffsetDateTime,
}

/// A row of `source_offsets`, as far as operators care.
struct Row {
    topic: String,
    partition: i32,
    next_offset: Option<i64>,
    epoch: i64,
    claimed_by: String,
    claimed_at: OffsetDateTime,
}

impl From<Row> for Position {
    fn from(row: Row) -> Self {
        Self {
            source: TopicPartition::new(row.topic, row.partition),
            next: row.next_offset.map(Offset),
            epoch: Epoch(row.epoch),
            claimed_by: row.claimed_by,
            claimed_at: row.claimed_at,
        }
    }
}

/// Every position of the group, by topic and partition. Takes no lock.
///
/// # Errors
/// Postgres's own.
pub async fn positions(conn: &mut PgConnection, group: &str) -> sqlx::Result<Vec<Position>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT topic, partition, next_offset, epoch, claimed_by, claimed_at FROM source_offsets
         WHERE consumer_group = $1 ORDER BY topic, partition",
        group,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Position::from).collect())
}

/// What a move does, in offsets: markers and compaction make the records fewer, never more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Will never be read.
    pub skipped: i64,
    /// Will be read again.
    pub repeated: i64,
}

impl Effect {
    /// The effect of moving from `from` to `to`, which lies within `log`.
    ///
    /// Where it is not known what of the log was read (nothing yet, or a position beyond its end,
    /// which belongs to another log), all before `to` counts as skipped.
    pub fn of(from: Option<Offset>, to: Offset, log: &Range<Offset>) -> Self {
        match from {
            None => Self { skipped: to.0 - log.start.0, repeated: 0 },
            Some(from) if from > log.end => {
                Self { skipped: to.0 - log.start.0, repeated: log.end.0 - to.0 }
            }
            Some(from) => {
                Self { skipped: (to.0 - from.0).max(0), repeated: (from.0 - to.0).max(0) }
            }
        }
    }
}

/// One partition to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The partition.
    pub source: TopicPartition,
    /// Its epoch when the operator looked; `None` when there was no row.
    pub viewed: Option<Epoch>,
    /// Where it stood then.
    pub from: Option<Offset>,
    /// The next offset to read.
    pub to: Offset,
    /// The log's ends when the operator looked.
    pub log: Range<Offset>,
}

/// What an operator wants, and why.
#[derive(Clone, Debug)]
pub struct Order {
    /// The consumer group.
    pub group: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Each partition once, in key order.
    pub steps: Vec<Step>,
}

/// A partition that was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// As ordered, but `from` is where it stood in the end: a worker may have gone on since.
    pub step: Step,
    /// What that did.
    pub effect: Effect,
    /// The epoch that fences whoever held it before.
    pub epoch: Epoch,
}

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// Somebody claimed or moved a partition after the operator looked.
    #[error(
        "{source_partition} was claimed or moved meanwhile (epoch {} when looked at, {} now{}): nothing was moved; \
         look again with `user-events-worker offsets`, then repeat",
        epoch(*.viewed), epoch(*.found), .by.as_ref().map(|by| format!(", {by}")).unwrap_or_default()
    )]
    Stale {
        /// The partition.
        source_partition: TopicPartition,
        /// The epoch the operator saw.
        viewed: Option<Epoch>,
        /// The epoch now.
        found: Option<Epoch>,
        /// Who has it now.
        by: Option<String>,
    },
    /// Postgres's own.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

fn epoch(epoch: Option<Epoch>) -> String {
    epoch.map_or("none".to_owned(), |epoch| epoch.to_string())
}

/// Moves and records, in the transaction that is open on `conn`: all of it or, after an error,
/// nothing (the caller rolls back).
///
/// Waits for the batch under way, at most `lock_timeout`.
///
/// # Errors
/// A stale view, or Postgres's own.
pub async fn execute(conn: &mut PgConnection, order: &Order) -> Result<Vec<Moved>, MoveError> {
    let held = lock(conn, order).await?;
    let mut moved = Vec::with_capacity(order.steps.len());
    for step in &order.steps {
        let row = held.iter().find(|position| position.source == step.source);
        let stale = |now: Option<&Position>| MoveError::Stale {
            source_partition: step.source.clone(),
            viewed: step.viewed,
            found: now.map(|now| now.epoch),
            by: now.map(|now| now.claimed_by.clone()),
        };
        if row.map(|row| row.epoch) != step.viewed {
            return Err(stale(row));
        }
        let from = row.and_then(|row| row.next);
        let step = Step { from, log: log_now(step, from), ..step.clone() };
        let epoch = match row {
            Some(_) => Some(advance(conn, order, &step).await?),
            // Without a row there is nothing to lock: whoever inserts first wins.
            None => insert(conn, order, &step).await?,
        };
        let Some(epoch) = epoch else {
            // The winner has committed, so that it can be seen now.
            let now = lock(conn, order).await?;
            return Err(stale(now.iter().find(|position| position.source == step.source)));
        };
        let effect = Effect::of(from, step.to, &step.log);
        let done = Moved { step, effect, epoch };
        record(conn, order, &done).await?;
        moved.push(done);
    }
    Ok(moved)
}

/// A worker that went on since the operator looked shows how far the log reaches now.
fn log_now(step: &Step, from: Option<Offset>) -> Range<Offset> {
    let end = match from {
        Some(from) if step.from != Some(from) => step.log.end.max(from),
        _ => step.log.end,
    };
    step.log.start..end
}

/// Locks the rows in key order, as batches do.
async fn lock(conn: &mut PgConnection, order: &Order) -> sqlx::Result<Vec<Position>> {
    let topics: Vec<&str> = order.steps.iter().map(|step| step.source.topic.as_ref()).collect();
    let partitions: Vec<i32> = order.steps.iter().map(|step| step.source.partition).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT s.topic, s.partition, s.next_offset, s.epoch, s.claimed_by, s.claimed_at
           FROM source_offsets s
           JOIN UNNEST($2::text[], $3::int[]) AS w(topic, partition)
             ON s.topic = w.topic AND s.partition = w.partition
           WHERE s.consumer_group = $1
           ORDER BY s.topic, s.partition FOR UPDATE OF s"#,
        order.group,
        &topics as _,
        &partitions,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Position::from).collect())
}

/// The fingerprint of the last record applied goes: it belongs to the place left, and would come
/// back into force with the first advance over a gap.
async fn advance(conn: &mut PgConnection, order: &Order, step: &Step) -> sqlx::Result<Epoch> {
    sqlx::query_scalar!(
        "UPDATE source_offsets
         SET next_offset = $4, epoch = epoch + 1, claimed_by = $5, claimed_at = now(),
             last_offset = NULL, last_timestamp = NULL, last_checksum = NULL, last_next = NULL
         WHERE consumer_group = $1 AND topic = $2 AND partition = $3
         RETURNING epoch",
        order.group,
        &*step.source.topic,
        step.source.partition,
        step.to.0,
        claimed_by(order),
    )
    .fetch_one(conn)
    .await
    .map(Epoch)
}

async fn insert(
    conn: &mut PgConnection,
    order: &Order,
    step: &Step,
) -> sqlx::Result<Option<Epoch>> {
    let epoch = sqlx::query_scalar!(
        "INSERT INTO source_offsets (consumer_group, topic, partition, next_offset, claimed_by)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING epoch",
        order.group,
        &*step.source.topic,
        step.source.partition,
        step.to.0,
        claimed_by(order),
    )
    .fetch_optional(conn)
    .await?;
    Ok(epoch.map(Epoch))
}

/// A name by which a fenced worker knows that it may claim again at once.
fn claimed_by(order: &Order) -> String {
    format!("{OPERATOR}: {}", order.by)
}

async fn record(conn: &mut PgConnection, order: &Order, moved: &Moved) -> sqlx::Result<()> {
    let Moved { step, effect, epoch } = moved;
    sqlx::query!(
        "INSERT INTO offset_moves
           (moved_by, reason, consumer_group, topic, partition, from_offset, to_offset,
            skipped, repeated, old_epoch, new_epoch, log_start, log_end)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        order.by,
        order.reason,
        order.group,
        &*step.source.topic,
        step.source.partition,
        step.from.map(|from| from.0),
        step.to.0,
        effect.skipped,
        effect.repeated,
        step.viewed.map(|epoch| epoch.0),
        epoch.0,
        step.log.start.0,
        step.log.end.0,
    )
    .execute(conn)
    .await
    .map(drop)
}

/// A move that was made, as recorded.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Recorded {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub moved_at: OffsetDateTime,
    /// Who, as they said.
    pub moved_by: String,
    /// The role Postgres knew them by.
    pub database_user: String,
    /// Why.
    pub reason: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Where it stood; none if it was never read.
    pub from_offset: Option<i64>,
    /// Where it was moved to.
    pub to_offset: i64,
    /// Offsets skipped: at most so many records.
    pub skipped: i64,
    /// Offsets read again: at most so many records.
    pub repeated: i64,
    /// The epoch before; none if there was no row.
    pub old_epoch: Option<i64>,
    /// The epoch of the move.
    pub new_epoch: i64,
    /// Where the log began.
    pub log_start: i64,
    /// Where the log ended.
    pub log_end: i64,
}

/// The newest moves of the group, newest first; of one topic if given.
///
/// # Errors
/// Postgres's own.
pub async fn history(
    conn: &mut PgConnection,
    group: &str,
    topic: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<Recorded>> {
    sqlx::query_as!(
        Recorded,
        "SELECT moved_at, moved_by, database_user, reason, topic, partition, from_offset, to_offset,
                skipped, repeated, old_epoch, new_epoch, log_start, log_end
         FROM offset_moves
         WHERE consumer_group = $1 AND ($2::text IS NULL OR topic = $2)
         ORDER BY id DESC LIMIT $3",
        group,
        topic,
        limit,
    )
    .fetch_all(conn)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(from: Option<i64>, to: i64) -> (i64, i64) {
        let effect = Effect::of(from.map(Offset), Offset(to), &(Offset(10)..Offset(40)));
        (effect.skipped, effect.repeated)
    }

    #[test]
    fn what_a_move_skips_and_repeats() {
        assert_eq!(effect(Some(20), 35), (15, 0), "forward");
        assert_eq!(effect(Some(20), 10), (0, 10), "back");
        assert_eq!(effect(Some(20), 20), (0, 0), "where it stands");
        assert_eq!(effect(Some(4), 10), (6, 0), "what expired unread is skipped");
    }

    #[test]
    fn a_position_that_went_on_is_of_this_log_and_one_that_did_not_is_not() {
        let step = Step {
            source: TopicPartition::new("t", 0),
            viewed: Some(Epoch(1)),
            from: Some(Offset(50)),
            to: Offset(10),
            log: Offset(10)..Offset(40),
        };
        assert_eq!(log_now(&step, Some(Offset(50))), Offset(10)..Offset(40));
        assert_eq!(log_now(&step, Some(Offset(51))), Offset(10)..Offset(51));
    }

    #[test]
    fn where_nothing_is_known_to_be_read_all_before_the_target_is_skipped() {
        assert_eq!(effect(None, 10), (0, 0));
        assert_eq!(effect(None, 15), (5, 0));
        assert_eq!(effect(Some(50), 10), (0, 30), "another log: all of it is read");
        assert_eq!(effect(Some(50), 40), (30, 0), "another log: none of it is read");
    }
}
