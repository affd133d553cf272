//! The unit of work: records in arrival order, and the offset ranges they fill.

use crate::apply::dead_letters::DeadLetter;
use crate::event::{Event, RawRecord};
use crate::types::{Epoch, Offset, RecordOffset, TopicPartition};

/// What a record turned into. Exactly one of these is stored or counted for every record read.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events")]
pub enum Content {
    /// A valid event, with the bytes it came from: Postgres may yet refuse it.
    Event(Event, RawRecord),
    /// A record that breaks the contract.
    DeadLetter(Box<DeadLetter>),
    /// A record the configuration says to pass over.
    Skipped,
}

impl Content {
    /// Bytes held besides itself, roughly.
    fn held(&self) -> usize {
        match self {
            Content::Event(event, raw) => event.held() + raw.held(),
            Content::DeadLetter(letter) => letter.size(),
            Content::Skipped => 0,
        }
    }
}

/// One record of a batch.
#[derive(Debug)]
pub struct Item {
    /// Index of its partition in [`Batch::ranges`].
    pub range: usize,
    /// Where and what the record was.
    pub record: Fingerprint,
    /// What it turned into.
    pub content: Content,
}

impl Item {
    /// Bytes held, roughly.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.content.held()
    }
}

/// What the last record applied looked like, kept to notice a topic deleted and made again under
/// the same name: the record at that offset would then be another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Offset of the record.
    pub offset: RecordOffset,
    /// Its timestamp, milliseconds since 1970; -1 when it has none.
    pub timestamp_ms: i64,
    /// CRC-32 over key and value.
    pub checksum: u32,
}

impl Fingerprint {
    /// The fingerprint of a record.
    pub fn of(record: &RawRecord) -> Self {
        let mut crc = crc32fast::Hasher::new();
        crc.update(record.key.as_deref().unwrap_or_default());
        crc.update(record.value.as_deref().unwrap_or_default());
        Self {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms.unwrap_or(-1),
            checksum: crc.finalize(),
        }
    }
}

/// The part of one partition a batch moves over: `from` is the first offset not yet applied, `to`
/// the next to read afterwards. Offsets in between may be missing (compaction, transaction markers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// The partition.
    pub source: TopicPartition,
    /// The claim under which it was read.
    pub epoch: Epoch,
    /// `next_offset` as it must stand in Postgres; `None` before the first batch of all.
    pub from: Option<Offset>,
    /// `next_offset` after this batch.
    pub to: Offset,
    /// The last record in the range, when known. `None` leaves the stored fingerprint alone.
    pub last: Option<Fingerprint>,
}

/// Records in arrival order with the ranges they fill: applied whole or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// Records in arrival order, which keeps the order within each partition.
    pub items: Vec<Item>,
    /// One range per partition.
    pub ranges: Vec<OffsetRange>,
}

impl Batch {
    /// Nothing to do: no record and no offset to move.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Its records, in their order.
    #[cfg(test)]
    pub(super) fn positions(&self) -> Vec<(TopicPartition, RecordOffset)> {
        let of = |item: &Item| (self.ranges[item.range].source.clone(), item.record.offset);
        self.items.iter().map(of).collect()
    }

    /// Cuts the batch in two that give the same result applied one after the other.
    ///
    /// The first half ends at its own last records, and the second begins there.
    pub fn split(mut self) -> (Batch, Batch) {
        let tail = self.items.split_off(self.items.len() / 2);
        let mut first = Batch { items: self.items, ranges: Vec::new() };
        let mut second = Batch { items: tail, ranges: Vec::new() };
        let mut moved: Vec<Option<Fingerprint>> = vec![None; self.ranges.len()];
        for item in &first.items {
            moved[item.range] = Some(item.record);
        }
        let mut first_index = vec![0; self.ranges.len()];
        for (index, range) in self.ranges.into_iter().enumerate() {
            let from = match moved[index] {
                Some(last) => {
                    let to = last.offset.next();
                    first_index[index] = first.ranges.len();
                    first.ranges.push(OffsetRange { to, last: Some(last), ..range.clone() });
                    Some(to)
                }
                None => range.from,
            };
            second.ranges.push(OffsetRange { from, ..range });
        }
        for item in &mut first.items {
            item.range = first_index[item.range];
        }
        (first, second)
    }

    /// Removes a partition and its records: it is no longer ours to apply.
    pub fn drop_partition(&mut self, source: &TopicPartition) {
        let Some(gone) = self.ranges.iter().position(|range| &range.source == source) else {
            return;
        };
        self.ranges.remove(gone);
        self.items.retain_mut(|item| {
            let keep = item.range != gone;
            if item.range > gone {
                item.range -= 1;
            }
            keep
        });
    }

    /// Ends a partition's part at `at`, before the record there; without a record before it the
    /// partition is removed.
    pub fn cut(&mut self, source: &TopicPartition, at: Offset) {
        let Some(index) = self.ranges.iter().position(|range| &range.source == source) else {
            return;
        };
        self.items.retain(|item| item.range != index || Offset(item.record.offset.0) < at);
        let last = self.items.iter().rfind(|item| item.range == index).map(|item| item.record);
        match last {
            None => self.drop_partition(source),
            Some(record) => {
                let range = &mut self.ranges[index];
                (range.to, range.last) = (record.offset.next(), Some(record));
            }
        }
    }

    /// Moves the epoch of a partition: it was claimed again and stands where this batch begins.
    pub fn renew(&mut self, source: &TopicPartition, epoch: Epoch) {
        for range in self.ranges.iter_mut().filter(|range| &range.source == source) {
            range.epoch = epoch;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::time::Duration;

    use super::*;
    use crate::event::{Decoded, Header, Rules, Tombstones, decode};
    use proptest::prelude::*;
    use time::OffsetDateTime;

    fn batch_of(partitions: &[usize]) -> Batch {
        let mut next = [10i64, 20, 30];
        let from = next;
        let items: Vec<Item> = partitions
            .iter()
            .map(|&p| {
                next[p] += 2;
                Item {
                    range: p,
                    record: Fingerprint {
                        offset: RecordOffset(next[p]),
                        timestamp_ms: -1,
                        checksum: 0,
                    },
                    content: Content::Skipped,
                }
            })
            .collect();
        let ranges = (0..3)
            .map(|p| OffsetRange {
                source: TopicPartition::new("t", p as i32),
                epoch: Epoch(1),
                from: Some(Offset(from[p])),
                to: Offset(next[p] + 5),
                last: None,
            })
            .collect();
        Batch { items, ranges }
    }

    #[test]
    fn an_item_counts_itself_and_its_record_with_its_headers() {
        let mut batch = batch_of(&[0]);
        assert_eq!(batch.items[0].size(), size_of::<Item>());
        let header = Header { name: "name".into(), value: Some("value".into()) };
        let raw = RawRecord {
            source: TopicPartition::new("t", 0),
            offset: RecordOffset(0),
            timestamp_ms: None,
            key: Some("u".into()),
            value: Some(
                r#"{"id":"1","source":"/s","type":"t","time":"1970-01-01T00:00:00Z"}"#.into(),
            ),
            headers: vec![header; 3],
        };
        let rules = Rules {
            max_record_bytes: 1 << 20,
            max_future: Duration::ZERO,
            retention: Duration::ZERO,
            tombstones: Tombstones::Skip,
        };
        let Decoded::Event(event) = decode(&raw, &rules, OffsetDateTime::UNIX_EPOCH) else {
            panic!("the record keeps the contract")
        };
        let held = raw.size() + 3 * size_of::<Header>();
        batch.items[0].content = Content::Event(event, raw);
        assert_eq!(batch.items[0].size(), size_of::<Item>() + held);
    }

    proptest! {
        #[test]
        fn halves_chain_and_end_where_the_whole_ends(partitions in prop::collection::vec(0usize..3, 2..40)) {
            let whole = batch_of(&partitions);
            let ends: Vec<_> = whole.ranges.iter().map(|r| (r.source.clone(), r.to)).collect();
            let starts: Vec<_> = whole.ranges.iter().map(|r| (r.source.clone(), r.from)).collect();
            let order: Vec<_> = whole.items.iter().map(|i| (whole.ranges[i.range].source.clone(), i.record.offset)).collect();
            let (first, second) = whole.split();

            let seen: Vec<_> = first.items.iter().map(|i| (first.ranges[i.range].source.clone(), i.record.offset))
                .chain(second.items.iter().map(|i| (second.ranges[i.range].source.clone(), i.record.offset)))
                .collect();
            prop_assert_eq!(seen, order);
            for (source, to) in ends {
                let last = second.ranges.iter().find(|r| r.source == source).unwrap();
                prop_assert_eq!(last.to, to);
            }
            for (source, from) in starts {
                let one = first.ranges.iter().find(|r| r.source == source);
                let two = second.ranges.iter().find(|r| r.source == source).unwrap();
                match one {
                    Some(one) => {
                        prop_assert_eq!(one.from, from);
                        prop_assert_eq!(two.from, Some(one.to));
                    }
                    None => prop_assert_eq!(two.from, from),
                }
            }
        }

        #[test]
        fn a_cut_ends_one_partition_before_the_record_and_leaves_the_others(partitions in prop::collection::vec(0usize..3, 1..40), at in 0usize..40) {
            let mut batch = batch_of(&partitions);
            let cut = &batch.items[at % partitions.len()];
            let (source, at) = (batch.ranges[cut.range].source.clone(), Offset(cut.record.offset.0));
            let name = |batch: &Batch, i: &Item| (batch.ranges[i.range].source.clone(), i.record.offset);
            let expected: Vec<_> = batch.items.iter().map(|i| name(&batch, i))
                .filter(|(of, offset)| *of != source || Offset(offset.0) < at).collect();
            let others: Vec<_> = batch.ranges.iter().filter(|r| r.source != source).cloned().collect();
            batch.cut(&source, at);
            let left: Vec<_> = batch.items.iter().map(|i| name(&batch, i)).collect();
            prop_assert_eq!(left, expected);
            prop_assert_eq!(batch.ranges.iter().filter(|r| r.source != source).cloned().collect::<Vec<_>>(), others);
            let last = batch.items.iter().rfind(|i| batch.ranges[i.range].source == source).map(|i| i.record);
            let range = batch.ranges.iter().find(|r| r.source == source);
            prop_assert_eq!(range.map(|r| (r.to, r.last)), last.map(|l| (l.offset.next(), Some(l))));
        }

        #[test]
        fn a_dropped_partition_takes_its_records_and_no_others(partitions in prop::collection::vec(0usize..3, 0..40), gone in 0usize..3) {
            let mut batch = batch_of(&partitions);
            let source = TopicPartition::new("t", gone as i32);
            let expected: Vec<_> = batch.items.iter().filter(|i| i.range != gone)
                .map(|i| (batch.ranges[i.range].source.clone(), i.record.offset)).collect();
            batch.drop_partition(&source);
            let left: Vec<_> = batch.items.iter().map(|i| (batch.ranges[i.range].source.clone(), i.record.offset)).collect();
            prop_assert_eq!(left, expected);
            prop_assert!(batch.ranges.iter().all(|r| r.source != source));
        }
    }
}
