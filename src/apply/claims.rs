//! Who may move a partition's offset: claims by epoch, and the fence every batch passes.

use sqlx::PgConnection;

use crate::apply::batch::{Fingerprint, OffsetRange};
use crate::failpoint::{self, Guard};
use crate::types::{Epoch, Offset, RecordOffset, TopicPartition};

/// `claimed_by` of a move by the `offsets` command, or by hand, begins with this.
pub const OPERATOR: &str = "operator";

/// A partition claimed, and where its reading stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The partition.
    pub source: TopicPartition,
    /// The epoch of this claim.
    pub epoch: Epoch,
    /// Next offset to read; `None` when reading has never begun.
    pub next: Option<Offset>,
    /// The last record applied, unless the position was moved since.
    pub last: Option<Fingerprint>,
}

/// Claims partitions for this worker: fences every earlier owner for good.
///
/// Waits for an earlier owner's open transaction (the row lock), at most `lock_timeout`. The rows
/// are taken in key order, so that two workers claiming the same partitions cannot deadlock.
pub(super) async fn claim(
    conn: &mut PgConnection,
    group: &str,
    worker: &str,
    sources: &[TopicPartition],
) -> sqlx::Result<Vec<Claim>> {
    let (topics, partitions) = columns(sources);
    let rows = sqlx::query!(
        r#"INSERT INTO source_offsets AS s (consumer_group, topic, partition, claimed_by)
           SELECT $1, w.topic, w.partition, $2
           FROM UNNEST($3::text[], $4::int[]) AS w(topic, partition)
           ORDER BY w.topic, w.partition
           ON CONFLICT (consumer_group, topic, partition) DO UPDATE
           SET epoch = s.epoch + 1, claimed_by = excluded.claimed_by, claimed_at = now()
           RETURNING topic, partition, epoch, next_offset, last_next,
                     last_offset, last_timestamp, last_checksum"#,
        group,
        worker,
        &topics as _,
        &partitions,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Claim {
            source: TopicPartition::new(row.topic, row.partition),
            epoch: Epoch(row.epoch),
            next: row.next_offset.map(Offset),
            last: fingerprint(row.last_offset, row.last_timestamp, row.last_checksum)
                .filter(|_| row.last_next == row.next_offset),
        })
        .collect())
}

/// Claims again what is still ours: after a lost COMMIT answer or a spoilt session.
///
/// Waits like [`claim`] for the transaction in question to end, so that `next` tells for certain
/// whether it was committed. A partition that somebody else claimed meanwhile does not come back:
/// a worker that slept must not take a partition from its successor.
pub(super) async fn renew(
    conn: &mut PgConnection,
    group: &str,
    ranges: &[OffsetRange],
) -> sqlx::Result<Vec<(TopicPartition, Epoch, Option<Offset>)>> {
    lock(conn, group, ranges).await?;
    let columns = RangeColumns::of(ranges);
    let rows = sqlx::query!(
        r#"UPDATE source_offsets s SET epoch = s.epoch + 1, claimed_at = now()
           FROM UNNEST($2::text[], $3::int[], $4::bigint[]) AS w(topic, partition, epoch)
           WHERE s.consumer_group = $1 AND s.topic = w.topic AND s.partition = w.partition
             AND s.epoch = w.epoch
           RETURNING s.topic, s.partition, s.epoch, s.next_offset"#,
        group,
        &columns.topics as _,
        &columns.partitions,
        &columns.epochs,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let source = TopicPartition::new(row.topic, row.partition);
            (source, Epoch(row.epoch), row.next_offset.map(Offset))
        })
        .collect())
}

/// Moves the offsets of a batch, where this worker's claim is the newest and the offset stands
/// where the batch begins. Answers the partitions that did *not* move: they are fenced.
///
/// A range without a record keeps the stored fingerprint, unless the offset was moved by hand
/// since: then it belongs to the place left.
pub(super) async fn fence(
    conn: &mut PgConnection,
    group: &str,
    ranges: &[OffsetRange],
) -> sqlx::Result<Vec<TopicPartition>> {
    lock(conn, group, ranges).await?;
    let mut columns = RangeColumns::of(ranges);
    if failpoint::is_off(Guard::Epoch) || failpoint::is_off(Guard::Offset) {
        columns.agree_with(&holders(conn, group, &sources(ranges)).await?);
    }
    let moved = sqlx::query!(
        r#"UPDATE source_offsets s
           SET next_offset = w.next_to, last_next = w.next_to,
               last_offset = CASE WHEN w.last_offset IS NULL AND s.last_next = s.next_offset
                                  THEN s.last_offset ELSE w.last_offset END,
               last_timestamp = CASE WHEN w.last_offset IS NULL AND s.last_next = s.next_offset
                                     THEN s.last_timestamp ELSE w.last_timestamp END,
               last_checksum = CASE WHEN w.last_offset IS NULL AND s.last_next = s.next_offset
                                    THEN s.last_checksum ELSE w.last_checksum END
           FROM UNNEST($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[],
                       $7::bigint[], $8::bigint[], $9::bigint[])
             AS w(topic, partition, epoch, next_from, next_to, last_offset, last_timestamp, last_checksum)
           WHERE s.consumer_group = $1 AND s.topic = w.topic AND s.partition = w.partition
             AND s.epoch = w.epoch AND s.next_offset IS NOT DISTINCT FROM w.next_from
           RETURNING s.topic, s.partition"#,
        group,
        &columns.topics as _,
        &columns.partitions,
        &columns.epochs,
        &columns.from as _,
        &columns.to,
        &columns.last_offset as _,
        &columns.last_timestamp as _,
        &columns.last_checksum as _,
    )
    .fetch_all(conn)
    .await?;
    Ok(ranges
        .iter()
        .map(|range| &range.source)
        .filter(|source| {
            !moved.iter().any(|m| *m.topic == *source.topic && m.partition == source.partition)
        })
        .cloned()
        .collect())
}

fn sources(ranges: &[OffsetRange]) -> Vec<TopicPartition> {
    ranges.iter().map(|range| range.source.clone()).collect()
}

/// Locks the rows of a batch in key order: two workers with crossed partitions wait, not deadlock.
async fn lock(conn: &mut PgConnection, group: &str, ranges: &[OffsetRange]) -> sqlx::Result<()> {
    let columns = RangeColumns::of(ranges);
    sqlx::query!(
        r#"SELECT s.epoch FROM source_offsets s
           JOIN UNNEST($2::text[], $3::int[]) AS w(topic, partition)
             ON s.topic = w.topic AND s.partition = w.partition
           WHERE s.consumer_group = $1
           ORDER BY s.topic, s.partition FOR UPDATE OF s"#,
        group,
        &columns.topics as _,
        &columns.partitions,
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// Who holds a partition, as the table says now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The partition.
    pub source: TopicPartition,
    /// Its newest epoch.
    pub epoch: Epoch,
    /// Who claimed it.
    pub claimed_by: String,
    /// Next offset to read.
    pub next: Option<Offset>,
}

/// Reads who holds the given partitions.
pub(super) async fn holders(
    conn: &mut PgConnection,
    group: &str,
    sources: &[TopicPartition],
) -> sqlx::Result<Vec<Holder>> {
    let (topics, partitions) = columns(sources);
    let rows = sqlx::query!(
        r#"SELECT s.topic, s.partition, s.epoch, s.claimed_by, s.next_offset FROM source_offsets s
           JOIN UNNEST($2::text[], $3::int[]) AS w(topic, partition)
             ON s.topic = w.topic AND s.partition = w.partition
           WHERE s.consumer_group = $1"#,
        group,
        &topics as _,
        &partitions,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Holder {
            source: TopicPartition::new(row.topic, row.partition),
            epoch: Epoch(row.epoch),
            claimed_by: row.claimed_by,
            next: row.next_offset.map(Offset),
        })
        .collect())
}

/// What a fenced worker should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFence {
    /// No other worker is behind this: an operator moved the offset, or the database went back
    /// to an earlier state. Claim again and read from where the table says.
    ClaimAgain,
    /// Another worker claimed the partition: let Kafka say who owns it.
    WaitForKafka,
}

/// A partition that is no longer under our newest claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The partition.
    pub source: TopicPartition,
    /// The epoch under which we held it.
    pub epoch: Epoch,
    /// What to do.
    pub after: AfterFence,
}

/// Judges a fence, given the epoch this worker holds.
///
/// | the row says | meaning | then |
/// |---|---|---|
/// | no row, or an epoch not above ours | the database was restored or failed over | claim again |
/// | claimed by `operator..` | the position was moved by an operator | claim again |
/// | a higher epoch, still under our name | moved by SQL without a name | claim again |
/// | a higher epoch, another worker's name | our assignment is out of date | wait for Kafka |
pub(crate) fn judge_fence(ours: Epoch, worker: &str, holder: Option<&Holder>) -> AfterFence {
    match holder {
        Some(holder)
            if holder.epoch > ours
                && holder.claimed_by != worker
                && !holder.claimed_by.starts_with(OPERATOR) =>
        {
            AfterFence::WaitForKafka
        }
        _ => AfterFence::ClaimAgain,
    }
}

fn fingerprint(
    offset: Option<i64>,
    timestamp: Option<i64>,
    crc: Option<i64>,
) -> Option<Fingerprint> {
    Some(Fingerprint {
        offset: RecordOffset(offset?),
        timestamp_ms: timestamp?,
        checksum: u32::try_from(crc?).ok()?,
    })
}

fn columns(sources: &[TopicPartition]) -> (Vec<&str>, Vec<i32>) {
    sources.iter().map(|source| (source.topic.as_ref(), source.partition)).unzip()
}

/// The columns of a batch's ranges: made from one list, so they cannot differ in length.
struct RangeColumns<'a> {
    topics: Vec<&'a str>,
    partitions: Vec<i32>,
    epochs: Vec<i64>,
    from: Vec<Option<i64>>,
    to: Vec<i64>,
    last_offset: Vec<Option<i64>>,
    last_timestamp: Vec<Option<i64>>,
    last_checksum: Vec<Option<i64>>,
}

impl<'a> RangeColumns<'a> {
    fn of(ranges: &'a [OffsetRange]) -> Self {
        let last = |field: fn(Fingerprint) -> i64| {
            ranges.iter().map(|r| r.last.map(field)).collect::<Vec<_>>()
        };
        Self {
            topics: ranges.iter().map(|r| r.source.topic.as_ref()).collect(),
            partitions: ranges.iter().map(|r| r.source.partition).collect(),
            epochs: ranges.iter().map(|r| r.epoch.0).collect(),
            from: ranges.iter().map(|r| r.from.map(|o| o.0)).collect(),
            to: ranges.iter().map(|r| r.to.0).collect(),
            last_offset: last(|l| l.offset.0),
            last_timestamp: last(|l| l.timestamp_ms),
            last_checksum: last(|l| i64::from(l.checksum)),
        }
    }

    /// A guard switched off takes what stands in the table for what it expects there.
    fn agree_with(&mut self, holders: &[Holder]) {
        for index in 0..self.topics.len() {
            let Some(holder) = holders.iter().find(|holder| {
                *holder.source.topic == *self.topics[index]
                    && holder.source.partition == self.partitions[index]
            }) else {
                continue;
            };
            if failpoint::is_off(Guard::Epoch) {
                self.epochs[index] = holder.epoch.0;
            }
            if failpoint::is_off(Guard::Offset) {
                self.from[index] = holder.next.map(|offset| offset.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(epoch: i64, claimed_by: &str) -> Holder {
        Holder {
            source: TopicPartition::new("t", 0),
            epoch: Epoch(epoch),
            claimed_by: claimed_by.into(),
            next: None,
        }
    }

    #[test]
    fn only_another_workers_newer_claim_makes_a_fenced_worker_wait() {
        use AfterFence::*;
        let ours = Epoch(5);
        assert_eq!(judge_fence(ours, "me", None), ClaimAgain);
        assert_eq!(judge_fence(ours, "me", Some(&holder(4, "other"))), ClaimAgain);
        assert_eq!(judge_fence(ours, "me", Some(&holder(5, "other"))), ClaimAgain);
        assert_eq!(judge_fence(ours, "me", Some(&holder(6, "me"))), ClaimAgain);
        assert_eq!(judge_fence(ours, "me", Some(&holder(6, "operator: ann"))), ClaimAgain);
        assert_eq!(judge_fence(ours, "me", Some(&holder(6, "other"))), WaitForKafka);
    }
}
