//! A record as the broker gave it.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use crate::types::{RecordOffset, TopicPartition};

/// A record header. Names may repeat; a value may be null and need not be UTF-8.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// Header name.
    pub name: ByteString,
    /// Header value, byte for byte; `None` for a null value.
    pub value: Option<Bytes>,
}

/// A record as the broker gave it: bytes, not yet believed. Cheap to clone, and what is decoded of
/// it shares its memory.
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
    pub key: Option<Bytes>,
    /// Record value; `None` for a tombstone.
    pub value: Option<Bytes>,
    /// Headers in their order.
    pub headers: Vec<Header>,
}

impl RawRecord {
    /// Payload bytes held: key, value and headers.
    pub fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|h| h.name.len() + length(h.value.as_ref())).sum();
        length(self.key.as_ref()) + length(self.value.as_ref()) + headers
    }

    /// Bytes held in memory besides itself.
    pub fn held(&self) -> usize {
        self.size() + self.headers.len() * size_of::<Header>()
    }

    /// A text found in this record, without copying it. (Any other text is copied.)
    pub(super) fn share(&self, text: Cow<'_, str>) -> ByteString {
        let Cow::Borrowed(text) = text else { return text.into_owned().into() };
        let within = |part: &&Bytes| {
            let (part, text) = (part.as_ptr_range(), text.as_bytes().as_ptr_range());
            part.start <= text.start && text.end <= part.end
        };
        let headers = self.headers.iter().filter_map(|header| header.value.as_ref());
        let holder = self.value.iter().chain(&self.key).chain(headers).find(within);
        let shared = holder.map(|part| part.slice_ref(text.as_bytes()));
        shared
            .and_then(|bytes| ByteString::try_from(bytes).ok())
            .unwrap_or_else(|| text.to_owned().into())
    }
}

fn length(part: Option<&Bytes>) -> usize {
    part.map_or(0, Bytes::len)
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
