//! From librdkafka's borrowed message to a record of our own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};

use crate::event::{Header, RawRecord};
use crate::types::{RecordOffset, TopicPartition};

/// Copies a message of this partition out of librdkafka's memory: key and value into one buffer.
pub(super) fn copy(message: &BorrowedMessage<'_>, source: TopicPartition) -> RawRecord {
    let (key, value) = (message.key(), message.payload());
    let bytes = Bytes::from([key.unwrap_or_default(), value.unwrap_or_default()].concat());
    let middle = key.map_or(0, <[u8]>::len);
    RawRecord {
        source,
        offset: RecordOffset(message.offset()),
        timestamp_ms: message.timestamp().to_millis().filter(|ms| *ms >= 0),
        key: key.map(|_| bytes.slice(..middle)),
        value: value.map(|_| bytes.slice(middle..)),
        headers: headers(message),
    }
}

fn headers(message: &BorrowedMessage<'_>) -> Vec<Header> {
    let Some(headers) = message.headers() else { return Vec::new() };
    // rdkafka 0.39 panics on a header *name* that is not UTF-8 (message.rs, `try_get`). One bad
    // record must not end the poll thread: the header is kept under a name that says so, and its
    // value, which rdkafka does not hand out then, is not.
    let header = |index| {
        catch_unwind(AssertUnwindSafe(|| {
            let header = headers.get(index);
            Header { name: header.key.to_owned(), value: header.value.map(Bytes::copy_from_slice) }
        }))
        .unwrap_or_else(|_| Header { name: "(name is not UTF-8)".to_owned(), value: None })
    };
    (0..headers.count()).map(header).collect()
}
