//! Gathering: records in, one batch out, bounded by count and bytes.

use std::time::Duration;

use tokio::time::Instant;

use crate::apply::{Batch, Content, Fingerprint, Item, OffsetRange, ReadyBatch};
use crate::observe::metrics::Trigger;
use crate::types::{ByPartition, Epoch, Offset, TopicPartition};

/// When a batch is ready.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records at most.
    pub max_events: usize,
    /// Bytes held at most, the last record excepted.
    pub max_bytes: usize,
    /// How long the first record may wait for others.
    pub linger: Duration,
}

/// A batch in the making.
pub(super) struct Gathering {
    limits: Limits,
    batch: ReadyBatch,
    index: ByPartition<usize>,
    bytes: usize,
    since: Option<Instant>,
}

impl Gathering {
    pub(super) fn new(limits: Limits) -> Self {
        let (batch, index) = (Batch::default().into(), ByPartition::default());
        Self { limits, batch, index, bytes: 0, since: None }
    }

    /// Adds a record to a range of this batch.
    pub(super) fn push(&mut self, range: usize, record: Fingerprint, content: Content) {
        let batch = self.batch.change();
        let entry = &mut batch.ranges[range];
        entry.to = record.offset.next();
        entry.last = Some(record);
        let item = Item { range, record, content };
        self.bytes += item.size();
        batch.items.push(item);
    }

    /// Moves a partition's end without a record.
    pub(super) fn advance(
        &mut self,
        source: &TopicPartition,
        epoch: Epoch,
        from: Option<Offset>,
        to: Offset,
    ) {
        let range = self.range(source, epoch, from);
        self.batch.change().ranges[range].to = to;
    }

    /// The range of a partition, begun if need be where `from` says: at the end of what was gathered
    /// before.
    pub(super) fn range(
        &mut self,
        source: &TopicPartition,
        epoch: Epoch,
        from: Option<Offset>,
    ) -> usize {
        self.since.get_or_insert_with(Instant::now);
        if let Some(range) = self.index.get(source) {
            return *range;
        }
        let range = self.batch.ranges.len();
        let to = from.unwrap_or(Offset(0));
        self.batch.change().ranges.push(OffsetRange {
            source: source.clone(),
            epoch,
            from,
            to,
            last: None,
        });
        self.index.insert(source.clone(), range);
        range
    }

    /// Records that still fit.
    pub(super) fn room(&self) -> usize {
        match self.full_by() {
            Some(_) => 0,
            None => self.limits.max_events - self.batch.items.len(),
        }
    }

    fn full_by(&self) -> Option<Trigger> {
        if self.batch.items.len() >= self.limits.max_events {
            Some(Trigger::Full)
        } else if self.bytes >= self.limits.max_bytes {
            Some(Trigger::Bytes)
        } else {
            None
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// When the oldest record has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.limits.linger)
    }

    /// Prepares the batch if it is full: nothing can be added to it any more.
    pub(super) fn prepare(&mut self) {
        if self.full_by().is_some() {
            self.batch.prepare();
        }
    }

    /// Takes the batch if it is ready, with the reason.
    pub(super) fn take_ready(
        &mut self,
        now: Instant,
        draining: bool,
    ) -> Option<(ReadyBatch, Trigger)> {
        let trigger = match self.full_by() {
            Some(trigger) => trigger,
            None if self.is_empty() => return None,
            None if draining => Trigger::Drain,
            None if self.due().is_some_and(|due| due <= now) => Trigger::Linger,
            None => return None,
        };
        self.bytes = 0;
        self.since = None;
        self.index.clear();
        // The next one is likely to be as large: it need not grow step by step.
        let items = Vec::with_capacity(self.batch.items.len());
        let next = Batch { items, ..Batch::default() };
        Some((std::mem::replace(&mut self.batch, next.into()), trigger))
    }

    /// Forgets a partition: revoked, or to be read again from elsewhere.
    pub(super) fn drop_partition(&mut self, source: &TopicPartition) {
        self.batch.change().drop_partition(source);
        self.bytes = self.batch.items.iter().map(Item::size).sum();
        self.index = self
            .batch
            .ranges
            .iter()
            .enumerate()
            .map(|(index, range)| (range.source.clone(), index))
            .collect();
        if self.batch.is_empty() {
            self.since = None;
        }
    }

    /// Carries on under a renewed claim.
    pub(super) fn renew(&mut self, source: &TopicPartition, epoch: Epoch) {
        self.batch.renew(source, epoch);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::RecordOffset;

    fn limits(max_events: usize, linger_ms: u64) -> Limits {
        Limits { max_events, max_bytes: 1 << 20, linger: Duration::from_millis(linger_ms) }
    }

    fn push(gathering: &mut Gathering, partition: i32, offset: i64) {
        let record = Fingerprint { offset: RecordOffset(offset), timestamp_ms: -1, checksum: 0 };
        let source = TopicPartition::new("t", partition);
        let range = gathering.range(&source, Epoch(1), Some(Offset(3)));
        gathering.push(range, record, Content::Skipped);
    }

    #[test]
    fn a_batch_is_ready_when_full_or_when_its_oldest_record_has_lingered() {
        let mut gathering = Gathering::new(limits(2, 20));
        let now = Instant::now();
        assert!(gathering.take_ready(now, false).is_none(), "nothing gathered");
        push(&mut gathering, 0, 3);
        let due = gathering.due().unwrap();
        assert!(due >= now + Duration::from_millis(20));
        let early = due - Duration::from_millis(1);
        assert!(gathering.take_ready(early, false).is_none(), "neither full nor old");
        let (batch, trigger) = gathering.take_ready(due, false).unwrap();
        assert_eq!((batch.items.len(), trigger), (1, Trigger::Linger));

        push(&mut gathering, 0, 4);
        push(&mut gathering, 1, 9);
        assert_eq!(gathering.room(), 0);
        let (batch, trigger) = gathering.take_ready(now, false).unwrap();
        assert_eq!(trigger, Trigger::Full);
        assert_eq!(batch.ranges[1].to, Offset(10));

        push(&mut gathering, 0, 5);
        assert_eq!(gathering.take_ready(now, true).unwrap().1, Trigger::Drain);
    }

    #[test]
    fn a_dropped_partition_leaves_the_others_gathering() {
        let mut gathering = Gathering::new(limits(10, 20));
        push(&mut gathering, 0, 3);
        push(&mut gathering, 1, 7);
        gathering.drop_partition(&TopicPartition::new("t", 0));
        push(&mut gathering, 1, 8);
        let (batch, _) = gathering.take_ready(Instant::now(), true).unwrap();
        assert_eq!(batch.ranges.len(), 1);
        assert_eq!((batch.items.len(), batch.ranges[0].to), (2, Offset(9)));
    }
}
