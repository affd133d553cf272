//! Decodes, and holds what comes out to its promises.

use std::time::Duration;

use time::macros::datetime;
use user_events_worker::event::{Decoded, Header, RawRecord, Rules, Tombstones, decode as run};
use user_events_worker::types::{RecordOffset, TopicPartition};

pub fn decode(key: Vec<u8>, value: Vec<u8>, headers: Vec<Header>) {
    let record = RawRecord {
        source: TopicPartition::new("t", 0),
        offset: RecordOffset(0),
        timestamp_ms: Some(0),
        key: Some(key.into()),
        value: Some(value.into()),
        headers,
    };
    let rules = Rules {
        max_record_bytes: 1 << 20,
        max_future: Duration::from_secs(3_600),
        retention: Duration::from_secs(400 * 86_400),
        tombstones: Tombstones::Delete,
    };
    match run(&record, &rules, datetime!(2026-06-01 12:00 UTC)) {
        Decoded::Event(event) => {
            // `serde_json` knows the same syntax as `jsonb`, but no number above 1.8e308.
            match serde_json::from_str::<serde_json::Value>(event.data.as_str()) {
                Ok(data) => assert!(data.is_object() && !has_nul(&data)),
                Err(error) => assert!(error.to_string().starts_with("number out of range")),
            }
            assert_eq!(
                event.time.nanosecond() % 1_000,
                0,
                "whole microseconds, as Postgres keeps them"
            );
            assert!(!event.user_id.as_str().is_empty() && event.user_id.as_str().len() <= 255);
        }
        Decoded::Rejected(rejection) => assert!(!rejection.to_string().is_empty()),
        Decoded::Skipped => unreachable!("nothing is skipped under these rules"),
    }
}

fn has_nul(value: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Object, String};
    match value {
        String(text) => text.contains('\0'),
        Array(values) => values.iter().any(has_nul),
        Object(map) => map.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}
