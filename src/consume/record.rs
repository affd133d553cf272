//! From librdkafka's borrowed message to a record of our own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};

use crate::event::{Header, RawRecord};
use crate::types::{RecordOffset, TopicPartition};

/// Copies a message out of librdkafka's memory.
pub(super) fn copy(message: &BorrowedMessage<'_>, topic: &Arc<str>) -> RawRecord {
    RawRecord {
        source: TopicPartition::new(topic.clone(), message.partition()),
        offset: RecordOffset(message.offset()),
        timestamp_ms: message.timestamp().to_millis().filter(|ms| *ms >= 0),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
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
            Header { name: header.key.to_owned(), value: header.value.map(<[u8]>::to_vec) }
        }))
        .unwrap_or_else(|_| Header { name: "(name is not UTF-8)".to_owned(), value: None })
    };
    (0..headers.count()).map(header).collect()
}
