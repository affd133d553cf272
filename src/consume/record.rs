//! From librdkafka's borrowed message to a record of our own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};

use crate::event::{Header, RawRecord};
use crate::types::{RecordOffset, TopicPartition};

/// Taken from the allocator at a time.
const CHUNK: usize = 64 << 10;

/// Memory for the records of one lane, cut from chunks: a record costs a share of an allocation
/// instead of several of its own. A chunk but the current one is given back with the last of its
/// records. A lane is done with them about in the order in which they came; with those of another
/// lane among them, a lane that waits would hold many chunks by a few records each.
pub(super) struct RecordMemory(BytesMut);

impl RecordMemory {
    pub(super) fn new() -> Self {
        Self(BytesMut::with_capacity(CHUNK))
    }

    /// Copies a message of this partition out of librdkafka's memory.
    pub(super) fn copy(
        &mut self,
        message: &BorrowedMessage<'_>,
        source: TopicPartition,
    ) -> RawRecord {
        RawRecord {
            source,
            offset: RecordOffset(message.offset()),
            timestamp_ms: message.timestamp().to_millis().filter(|ms| *ms >= 0),
            key: message.key().map(|key| self.keep(key)),
            value: message.payload().map(|value| self.keep(value)),
            headers: self.headers(message),
        }
    }

    fn headers(&mut self, message: &BorrowedMessage<'_>) -> Vec<Header> {
        let Some(headers) = message.headers() else { return Vec::new() };
        // rdkafka 0.39 panics on a header *name* that is not UTF-8 (message.rs, `try_get`). One bad
        // record must not end the poll thread: the header is kept under a name that says so, and
        // its value, which rdkafka does not hand out then, is not.
        let header = |index| match catch_unwind(AssertUnwindSafe(|| headers.get(index))) {
            Ok(header) => {
                let name = ByteString::try_from(self.keep(header.key.as_bytes()));
                // (It was text before.)
                let name = name.unwrap_or_else(|_| header.key.into());
                Header { name, value: header.value.map(|value| self.keep(value)) }
            }
            Err(_) => Header { name: ByteString::from_static("(name is not UTF-8)"), value: None },
        };
        (0..headers.count()).map(header).collect()
    }

    fn keep(&mut self, part: &[u8]) -> Bytes {
        // One that is large would leave much of a chunk unused; a chunk of its size would stay.
        if part.len() > CHUNK / 8 {
            return Bytes::copy_from_slice(part);
        }
        self.0.extend_from_slice(part);
        self.0.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_lies_in_chunks_and_stays_as_it_was() {
        let mut memory = RecordMemory::new();
        let part = |n: usize| vec![n as u8; n % 300];
        let kept: Vec<Bytes> = (0..2_000).map(|n| memory.keep(&part(n))).collect();
        assert!((0..2_000).all(|n| kept[n] == part(n)));
        // Neighbours touch, but where a chunk ends.
        let apart = kept.windows(2).filter(|two| two[0].as_ptr_range().end != two[1].as_ptr());
        let bytes: usize = kept.iter().map(Bytes::len).sum();
        assert!(apart.count() <= bytes / (CHUNK - 300) + 1);
    }

    #[test]
    fn a_large_part_is_given_back_with_its_record() {
        let mut memory = RecordMemory::new();
        let (before, large) = (memory.keep(b"before"), memory.keep(&[7; 3 * CHUNK]));
        let after = memory.keep(b"after");
        assert!(large.is_unique() && large.len() == 3 * CHUNK);
        assert_eq!(before.as_ptr_range().end, after.as_ptr(), "the chunk is used on");
    }
}
