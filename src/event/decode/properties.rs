//! Decoding against generated records: it never panics, and both bindings say the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use time::Duration as Span;

use super::tests::{NOW, record, rules};
use super::*;
use crate::event::Header;

/// A valid event in both bindings, before encoding.
#[derive(Clone, Debug)]
struct Sent {
    attributes: Map<String, Value>,
    data: Option<Value>,
    key: Option<String>,
}

/// Text without control characters, of `most` characters of at most 4 bytes.
fn text(most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>().prop_filter("no control", |c| !c.is_control()), 1..most)
        .prop_map(String::from_iter)
}

/// Any JSON that keeps the rules.
fn any_json() -> impl Strategy<Value = Value> {
    let string = prop::collection::vec(any::<char>().prop_filter("no NUL", |c| *c != '\0'), 0..8)
        .prop_map(String::from_iter);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        string.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(string.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

prop_compose! {
    fn sent()(
        id in prop_oneof![text(50), any::<u128>().prop_map(|n| uuid::Uuid::from_u128(n).to_string())],
        source in text(50),
        kind in prop_oneof![text(50), Just("user.created".into()), Just("user.updated".into())],
        subject in prop::option::of(text(60)),
        key in text(60),
        age in 0..80 * 86_400i64,
        nanos in 0..1_000_000_000i64,
        offset in -720..720i32,
        sequence in prop::option::of(0..=i64::MAX),
        data in prop::option::of(any_json()),
        version in any::<bool>(),
        traced in prop::option::of(1..u64::MAX),
    ) -> Sent {
        let offset = UtcOffset::from_whole_seconds(offset * 60).unwrap();
        let time = (NOW - Span::seconds(age) - Span::nanoseconds(nanos)).to_offset(offset);
        let mut attributes = Map::new();
        let mut set = |name: &str, value: String| attributes.insert(name.into(), value.into());
        set("id", id);
        set("source", source);
        set("type", kind);
        set("time", time.format(&Rfc3339).unwrap());
        subject.clone().map(|subject| set("subject", subject));
        sequence.map(|sequence| set("sequence", sequence.to_string()));
        version.then(|| set("specversion", "1.0".into()));
        traced.map(|n| set("traceparent", format!("00-{n:032x}-{n:016x}-01")));
        // Data that is no object belongs to the rejections.
        let data = data.map(|data| if data.is_object() { data } else { json!({ "data": data }) });
        let key = if subject.is_some() && age % 2 == 0 { None } else { Some(key) };
        Sent { attributes, data, key }
    }
}

impl Sent {
    fn structured(&self) -> RawRecord {
        let mut envelope = self.attributes.clone();
        envelope.extend(self.data.clone().map(|data| ("data".to_owned(), data)));
        let mut record = record(Some(Value::Object(envelope).to_string().as_bytes()), &[]);
        record.key = self.key.clone().map(Into::into);
        record
    }

    fn binary(&self) -> RawRecord {
        let value = self.data.as_ref().map_or_else(String::new, Value::to_string);
        let mut record = record(Some(value.as_bytes()), &[("content-type", b"application/json")]);
        record.key = self.key.clone().map(Into::into);
        record.headers.extend(self.attributes.iter().map(|(name, value)| Header {
            name: format!("ce_{name}").into(),
            value: value.as_str().map(|value| value.to_owned().into()),
        }));
        record
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

/// Bytes that look like JSON more often than chance would have it.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let tokens = r#"{ } [ ] , : " \ \u \ud83d \ude00 0000 "id" "data" null true -1 1e9 e . 401"#;
    let tokens: Vec<&str> = tokens.split(' ').collect();
    prop::collection::vec(prop::sample::select(tokens), 0..40)
        .prop_map(|parts| parts.concat().into_bytes())
}

/// Names and values, and not `Header`s, so that a failing case can be shown.
fn headers() -> impl Strategy<Value = Vec<(String, Option<Vec<u8>>)>> {
    let names =
        ["ce_id", "CE_TYPE", "ce_source", "ce_time", "ce_subject", "content-type", "traceparent"];
    let name = prop_oneof![prop::sample::select(names.to_vec()).prop_map(str::to_owned), text(9)];
    prop::collection::vec((name, prop::option::of(bytes())), 0..6)
}

/// Decodes under every rule for tombstones; answers one of these.
fn decode_in_all_ways(record: &RawRecord) -> Decoded {
    let decode =
        |tombstones| decode(record, &Rules { tombstones, max_record_bytes: 500, ..rules() }, NOW);
    let _ = decode(Tombstones::DeadLetter);
    let _ = decode(Tombstones::Skip);
    decode(Tombstones::Delete)
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(map) => map.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn both_bindings_say_the_same(sent in sent()) {
        let Decoded::Event(structured) = decode(&sent.structured(), &rules(), NOW) else {
            panic!("{:?}", decode(&sent.structured(), &rules(), NOW));
        };
        prop_assert_eq!(&decode(&sent.binary(), &rules(), NOW), &Decoded::Event(structured.clone()));

        prop_assert_eq!(&*structured.source, sent.attributes["source"].as_str().unwrap());
        prop_assert_eq!(structured.kind.type_name(), sent.attributes["type"].as_str().unwrap());
        let user = sent.attributes.get("subject").and_then(Value::as_str);
        prop_assert_eq!(structured.user_id.as_str(), user.or(sent.key.as_deref()).unwrap());
        prop_assert_eq!(structured.time.nanosecond() % 1000, 0);
        prop_assert_eq!(structured.data.as_str(), sent.data.map_or("{}".into(), |data| data.to_string()));
    }

    #[test]
    fn any_bytes_are_taken_without_panic(
        value in prop::option::of(prop_oneof![bytes(), nearly_json()]),
        key in prop::option::of(bytes()),
        headers in headers(),
        timestamp_ms in prop::option::of(any::<i64>()),
    ) {
        let headers = headers.into_iter().map(|(name, value)| Header { name: name.into(), value: value.map(Into::into) }).collect();
        let key = key.map(Into::into);
        let record = RawRecord { key, headers, timestamp_ms, ..record(value.as_deref(), &[]) };
        decode_in_all_ways(&record);
    }

    #[test]
    fn damaged_events_are_taken_without_panic(
        sent in sent(),
        binary in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, any::<u8>()), 1..4),
    ) {
        let mut record = if binary { sent.binary() } else { sent.structured() };
        let mut value = record.value.take().unwrap().to_vec();
        for (index, edit, byte) in edits {
            if value.is_empty() { break }
            let at = index.index(value.len());
            match edit {
                0 => value[at] = byte,
                1 => value.insert(at, byte),
                _ => { value.remove(at); }
            }
        }
        // What passes must hold what it promises: Postgres is not here to ask, `Value` is, which
        // knows the same syntax but no number above 1.8e308, whereas `jsonb` does.
        record.value = Some(value.into());
        if let Decoded::Event(event) = decode_in_all_ways(&record) {
            match serde_json::from_str::<Value>(event.data.as_str()) {
                Ok(data) => prop_assert!(data.is_object() && !has_nul(&data)),
                Err(error) => prop_assert!(error.to_string().starts_with("number out of range")),
            }
        }
    }

    #[test]
    fn data_that_passes_is_json_without_traps(text in nearly_json()) {
        let text = String::from_utf8([b"{\"a\":", text.as_slice(), b"}"].concat()).unwrap();
        let parsed = serde_json::from_str::<Map<String, Value>>(&text);
        match JsonObject::parse(&text) {
            Ok(object) => {
                prop_assert_eq!(object.as_str(), &text);
                prop_assert!(parsed.is_ok(), "{text}");
            }
            Err(rejection) => {
                // `Value` refuses half surrogate pairs too; NUL and great numbers are our own.
                let ours = matches!(rejection.reason, Reason::NulCharacter | Reason::NumberOutOfRange);
                prop_assert!(parsed.is_err() || ours, "{rejection} {text}");
            }
        }
    }
}
