//! A partition's log, and what becomes of its records.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::apply::{Batch, Content};
use crate::batch::breaker::Mark;
use crate::event::RawRecord;
use crate::types::RecordOffset;

use super::source;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    Good,
    Malformed,
    Tombstone,
    /// An event that Postgres will not take.
    Refused,
}

/// Records with gaps between them, and where the log ends.
#[derive(Default)]
pub(super) struct Log {
    pub(super) records: BTreeMap<i64, (Nature, RawRecord)>,
    pub(super) end: i64,
}

impl Log {
    pub(super) fn produce(&mut self, partition: usize, gap: i64, nature: Nature) {
        let offset = self.end + gap;
        let record = RawRecord {
            source: source(partition as i32),
            offset: RecordOffset(offset),
            timestamp_ms: Some(offset),
            key: Some("u".into()),
            value: nature.value().map(Bytes::copy_from_slice),
            headers: Vec::new(),
        };
        self.records.insert(offset, (nature, record));
        self.end = offset + 1;
    }

    /// Where an operator would go on after a bad run that begins at `from`.
    pub(super) fn past_bad(&self, from: i64) -> i64 {
        let good = self.records.range(from..).find(|(_, (nature, _))| *nature == Nature::Good);
        good.map_or(self.end, |(offset, _)| *offset)
    }
}

impl Nature {
    fn value(self) -> Option<&'static [u8]> {
        match self {
            Nature::Good => Some(GOOD),
            Nature::Malformed => Some(b"?"),
            Nature::Tombstone => None,
            Nature::Refused => Some(REFUSED),
        }
    }

    /// What the breaker is to think of it in the end.
    pub(super) fn mark(self) -> Mark {
        match self {
            Nature::Good => Mark::Good,
            Nature::Malformed | Nature::Refused => Mark::Bad,
            Nature::Tombstone => Mark::Neither,
        }
    }

    /// Whether it may be written as this.
    fn may_be(self, content: &Content) -> bool {
        match self {
            Nature::Good => matches!(content, Content::Event(..)),
            Nature::Malformed | Nature::Tombstone => matches!(content, Content::DeadLetter(_)),
            Nature::Refused => !matches!(content, Content::Skipped),
        }
    }
}

/// Whether Postgres has something against a record of this batch.
pub(super) fn is_refused(batch: &Batch) -> bool {
    let refused = |content: &Content| match content {
        Content::Event(_, raw) => raw.value.as_deref() == Some(REFUSED),
        Content::DeadLetter(_) | Content::Skipped => false,
    };
    batch.items.iter().any(|item| refused(&item.content))
}

/// A batch must hold exactly the records its ranges pass over, as what they are: whatever is
/// missing would be lost.
pub(super) fn is_complete(batch: &Batch, logs: &[Log]) {
    for (index, range) in batch.ranges.iter().enumerate() {
        let items: Vec<_> = batch.items.iter().filter(|item| item.range == index).collect();
        let from = range.from.map_or(0, |from| from.0);
        assert!(from <= range.to.0, "backwards: {range:?}");
        let log = &logs[range.source.partition as usize];
        let there: Vec<_> = log.records.range(from..range.to.0).collect();
        let held = items.iter().map(|item| item.record.offset.0);
        assert!(held.eq(there.iter().map(|(at, _)| **at)), "{range:?}: {items:?} for {there:?}");
        for (item, (_, (nature, _))) in items.iter().zip(there) {
            assert!(nature.may_be(&item.content), "{nature:?} as {item:?}");
        }
    }
}

const GOOD: &[u8] = br#"{"specversion":"1.0","id":"0190b4f7-1f6e-7c3a-8a5e-3c1d2b4a5f60",
"source":"/s","type":"page.viewed","subject":"u","time":"2026-01-01T00:00:00Z"}"#;

const REFUSED: &[u8] = br#"{"specversion":"1.0","id":"0190b4f7-1f6e-7c3a-8a5e-3c1d2b4a5f60",
"source":"/s","type":"page.refused","subject":"u","time":"2026-01-01T00:00:00Z"}"#;
