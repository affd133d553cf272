//! A record as the broker gave it.

use std::fmt;

use crate::types::{RecordOffset, TopicPartition};

/// A record header. Names may repeat; a value may be null and need not be UTF-8.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// Header name.
    pub name: String,
    /// Header value, byte for byte; `None` for a null value.
    pub value: Option<Vec<u8>>,
}

/// A record as the broker gave it: bytes, not yet believed.
///
/// `Debug` shows the position and sizes only: keys, values and headers carry personal data.
#[derive(Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// The partition it was read from.
    pub source: TopicPartition,
    /// Its offset there.
    pub offset: RecordOffset,
    /// Record timestamp in milliseconds since 1970, when the broker knows one.
    pub timestamp_ms: Option<i64>,
    /// Record key; `None` when null.
    pub key: Option<Vec<u8>>,
    /// Record value; `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers in their order.
    pub headers: Vec<Header>,
}

impl RawRecord {
    /// Payload bytes held: key, value and headers.
    pub fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|h| h.name.len() + h.value.as_ref().map_or(0, Vec::len)).sum();
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + headers
    }
}

impl fmt::Debug for RawRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawRecord")
            .field("source", &self.source)
            .field("offset", &self.offset)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}
