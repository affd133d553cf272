//! Every reason with its code and what its message must mention; every rule of the contract.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use time::macros::datetime;

use super::*;
use crate::event::{Header, TraceContext};
use crate::types::{RecordOffset, TopicPartition};

pub(super) const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UUID: &str = "0192f0c1-2b3c-7def-8123-456789abcdef";

pub(super) fn rules() -> Rules {
    Rules {
        max_record_bytes: 4 << 20,
        max_future: Duration::from_secs(600),
        retention: Duration::from_secs(90 * 86_400),
        tombstones: Tombstones::DeadLetter,
    }
}

pub(super) fn record(value: Option<&[u8]>, headers: &[(&str, &[u8])]) -> RawRecord {
    let header = |&(name, value): &(&str, &[u8])| Header {
        name: name.into(),
        value: Some(value.to_vec().into()),
    };
    RawRecord {
        source: TopicPartition::new("users", 3),
        offset: RecordOffset(42),
        timestamp_ms: Some(NOW.unix_timestamp() * 1000),
        key: None,
        value: value.map(|value| value.to_vec().into()),
        headers: headers.iter().map(header).collect(),
    }
}

pub(super) fn run(record: &RawRecord) -> Result<Event, Rejection> {
    match decode(record, &rules(), NOW) {
        Decoded::Event(event) => Ok(event),
        Decoded::Rejected(rejection) => Err(rejection),
        Decoded::Skipped => panic!("skipped"),
    }
}

/// Decodes a structured record with these members instead of, or besides, good ones.
pub(super) fn with(members: &str) -> Result<Event, Rejection> {
    run(&record(Some(structured(members).as_bytes()), &[]))
}

/// Later members win, so these override.
pub(super) fn structured(members: &str) -> String {
    let good = r#""id":"1","source":"/a","type":"t","subject":"u","time":"2026-06-01T12:00:00Z""#;
    let comma = if members.is_empty() { "" } else { "," };
    format!("{{{good}{comma}{members}}}")
}

const GOOD: [(&str, &[u8]); 5] = [
    ("ce_id", b"1"),
    ("ce_source", b"/a"),
    ("ce_type", b"t"),
    ("ce_subject", b"u"),
    ("ce_time", b"2026-06-01T12:00:00Z"),
];

/// Decodes a binary record with this header before the good ones.
pub(super) fn binary_with(header: (&str, &[u8]), value: &[u8]) -> Result<Event, Rejection> {
    run(&record(Some(value), &[&[header], GOOD.as_slice()].concat()))
}

#[track_caller]
pub(super) fn assert_rejected(got: Result<Event, Rejection>, code: &str, mentions: &[&str]) {
    let rejection = got.expect_err(code);
    assert_eq!(rejection.reason.code(), code, "{rejection}");
    for mention in mentions {
        assert!(rejection.detail.contains(mention), "no {mention:?} in: {rejection}");
    }
    let sentences = rejection.detail.matches(". ").count();
    assert!(sentences == 1 && rejection.detail.ends_with('.'), "two sentences: {rejection}");
    assert!(!rejection.detail.contains("canary"), "quotes a value: {rejection}");
}

#[test]
fn an_event_has_everything_it_was_sent_with() {
    let event = with(&format!(
        r#""specversion":"1.0","id":"{UUID}","type":"user.updated","time":"2026-06-01T14:00:00.123456789+02:00",
           "sequence":"7","data":{{"a":[1,{{"b":null}}]}},"traceparent":"{PARENT}","tracestate":"x=1","more":{{}}"#
    ))
    .unwrap();
    assert_eq!(event.id.to_string(), UUID);
    assert_eq!(event.time, datetime!(2026-06-01 12:00:00.123456 UTC));
    assert_eq!(event.time.offset(), UtcOffset::UTC);
    assert_eq!((&*event.source, event.kind.type_name()), ("/a", "user.updated"));
    assert_eq!((event.kind.clone(), event.user_id.as_str()), (EventKind::Updated, "u"));
    assert_eq!(event.sequence, Sequence::new(7));
    assert_eq!(event.data.as_str(), r#"{"a":[1,{"b":null}]}"#);
    assert_eq!(event.trace, TraceContext::new(PARENT, Some("x=1")));
    assert_eq!(with(r#""type":"login""#).unwrap().kind, EventKind::Activity("login".into()));
}

#[test]
fn structured_records_that_break_the_contract() {
    let cases: &[(&str, &str, &[&str])] = &[
        (r#""id":null"#, "missing_attribute", &["Attribute `id`", "1024 bytes"]),
        (r#""source":null"#, "missing_attribute", &["`source`"]),
        (r#""type":null"#, "missing_attribute", &["`type`", "255"]),
        (r#""subject":null"#, "missing_attribute", &["`subject`", "record key"]),
        (r#""time":null"#, "missing_attribute", &["`time`", "RFC 3339"]),
        (r#""specversion":"0.3""#, "invalid_attribute", &["`specversion`", "1.0"]),
        (r#""specversion":1.0"#, "invalid_attribute", &["`specversion`", "a number", "string"]),
        (r#""id":1"#, "invalid_attribute", &["`id`", "a number", "string"]),
        (r#""id":["canary"]"#, "invalid_attribute", &["`id`", "an array"]),
        (r#""id":{"a":"canary"}"#, "invalid_attribute", &["`id`", "an object"]),
        (r#""id":true"#, "invalid_attribute", &["`id`", "a boolean"]),
        (r#""id":1e999999999"#, "invalid_attribute", &["`id`", "a number"]),
        (r#""id":"""#, "invalid_attribute", &["`id`", "empty"]),
        (r#""subject":"""#, "invalid_attribute", &["`subject`", "empty", "255"]),
        (r#""type":"canary\n""#, "invalid_attribute", &["`type`", "control", "byte 6"]),
        (r#""source":"\u0085""#, "invalid_attribute", &["`source`", "control"]),
        (r#""subject":"canary\u007f""#, "invalid_attribute", &["`subject`", "control"]),
        (r#""time":"yesterday canary""#, "invalid_attribute", &["`time`", "RFC 3339"]),
        (r#""time":"2026-06-01T12:00:00""#, "invalid_attribute", &["`time`"]),
        (r#""time":"2026-13-01T12:00:00Z""#, "invalid_attribute", &["`time`"]),
        (r#""time":1780315200"#, "invalid_attribute", &["`time`", "a number"]),
        (r#""sequence":"-1""#, "invalid_attribute", &["`sequence`", "digits"]),
        (r#""sequence":-1"#, "invalid_attribute", &["`sequence`", "digits"]),
        (r#""sequence":1.5"#, "invalid_attribute", &["`sequence`", "digits"]),
        (r#""sequence":9223372036854775808"#, "invalid_attribute", &["9223372036854775807"]),
        (r#""sequence":"""#, "invalid_attribute", &["`sequence`"]),
        (r#""sequence":[]"#, "invalid_attribute", &["`sequence`", "an array"]),
        (r#""data_base64":"e30=""#, "invalid_attribute", &["`data_base64`", "`data`"]),
        (r#""time":"2026-06-01T12:10:01Z""#, "time_out_of_range", &["`time`", "10m", "ahead"]),
        (r#""time":"2026-03-03T11:59:59Z""#, "time_out_of_range", &["`time`", "older"]),
        (r#""time":"0000-01-01T00:00:00+23:59""#, "time_out_of_range", &["`time`", "90 days"]),
        (r#""time":"9999-12-31T23:59:59-23:59""#, "time_out_of_range", &["`time`", "9999"]),
        (r#""id":"canary\u0000""#, "nul_character", &["`id`", "NUL", "byte 6"]),
        (r#""subject":"\u0000""#, "nul_character", &["`subject`"]),
        (r#""data":{"a":"canary\u0000"}"#, "nul_character", &["`data`", "byte 13", "\\u0000"]),
        (r#""data":{"\u0000":1}"#, "nul_character", &["`data`", "byte 3"]),
        (r#""id":"\ud800""#, "invalid_unicode", &["`id`", "surrogate"]),
        (r#""\udc00":1"#, "invalid_unicode", &["name", "line 1"]),
        (r#""data":{"a":"\ud800x"}"#, "invalid_unicode", &["`data`", "byte 7"]),
        (r#""data":{"a":"\ud800\u0041"}"#, "invalid_unicode", &["surrogate"]),
        (r#""data":{"a":"\ud800\\udc00"}"#, "invalid_unicode", &["surrogate"]),
        (r#""data":{"a":"\uDC00\uD800"}"#, "invalid_unicode", &["surrogate"]),
        (r#""data":{"a":"\ud83d"}"#, "invalid_unicode", &["surrogate"]),
        (r#""data":{"a":"\udc00"}"#, "invalid_unicode", &["surrogate"]),
        (r#""data":{"a":1e401}"#, "number_out_of_range", &["`data`", "byte 6", "400"]),
        (r#""data":{"a":-1.5E-401}"#, "number_out_of_range", &["400", "1100"]),
        (r#""data":{"a":1e18446744073709551620}"#, "number_out_of_range", &["400"]),
        (r#""data":[]"#, "not_an_object", &["`data`", "an array", "object"]),
        (r#""data":"canary""#, "not_an_object", &["`data`", "a string"]),
        (r#""data":-1"#, "not_an_object", &["`data`", "a number"]),
    ];
    for (members, code, mentions) in cases {
        println!("{members}");
        assert_rejected(with(members), code, mentions);
    }
}

#[test]
fn values_that_are_no_envelope() {
    let cases: &[(&[u8], &str, &[&str])] = &[
        (b"", "not_json", &["value", "line 1 column 0"]),
        (b"canary", "not_json", &["line 1 column 1"]),
        (b"{\"id\":\"canary\",\n  id:1}", "not_json", &["line 2 column 3"]),
        (b"{\"id\":1", "not_json", &["EOF"]),
        (b"{} {}", "not_json", &["line 1 column 4"]),
        (b"{\"id\":\"a\nb\"}", "not_json", &["control character", "line 1 column 8"]),
        (b"{\"data\":{\"a\":01}}", "not_json", &["line 1"]),
        (b"{\"data\":{\"a\":\"\\x\"}}", "not_json", &["escape"]),
        (b"\xef\xbb\xbf{}", "not_json", &["column 1"]),
        (b"[{},", "not_json", &["EOF"]),
        (b" [{\"id\":\"canary\"}]", "not_an_object", &["an array", "one CloudEvent per record"]),
        (b"\"canary\"", "not_an_object", &["a string"]),
        (b"\"\\ud800\"", "not_an_object", &["a string"]),
        (b"null", "not_an_object", &["null"]),
        (b"17", "not_an_object", &["a number"]),
        (b"{\"id\":\"\xff\"}", "invalid_unicode", &["The value", "byte 8", "UTF-8"]),
        (b"{\"a\":\"\xed\xa0\x80\"}", "invalid_unicode", &["byte 7"]),
    ];
    for (value, code, mentions) in cases {
        println!("{}", String::from_utf8_lossy(value));
        assert_rejected(run(&record(Some(value), &[])), code, mentions);
    }
}

#[test]
fn binary_records_that_break_the_contract() {
    let missing = |absent: &str| {
        let headers: Vec<_> = GOOD.into_iter().filter(|(name, _)| *name != absent).collect();
        run(&record(Some(b"{}"), &headers))
    };
    for (name, _) in GOOD {
        assert_rejected(missing(name), "missing_attribute", &[&format!("Header `{name}`")]);
    }
    let bad: &[(&str, &[u8], &str)] = &[
        ("ce_id", b"", "invalid_attribute"),
        ("ce_specversion", b"2.0", "invalid_attribute"),
        ("ce_time", b"now", "invalid_attribute"),
        ("ce_sequence", b"x", "invalid_attribute"),
        ("ce_id", b"a\tb", "invalid_attribute"),
        ("ce_subject", b"a\0b", "nul_character"),
        ("CE_Source", b"\xff", "invalid_unicode"),
        ("ce_time", b"2036-06-01T12:00:00Z", "time_out_of_range"),
    ];
    for (name, value, code) in bad {
        let label = format!("Header `{}`", name.to_lowercase());
        assert_rejected(binary_with((name, value), b"{}"), code, &[&label]);
    }
    let ignored: (&str, &[u8]) = ("other", b"\xff\0");
    assert_rejected(binary_with(ignored, b"{"), "not_json", &["the value", "line 1 column 1"]);
    assert_rejected(binary_with(ignored, b"[]"), "not_an_object", &["`data`", "an array"]);
    assert_rejected(binary_with(ignored, b"{\"a\":\"\xff\"}"), "invalid_unicode", &["The value"]);
    assert_rejected(binary_with(ignored, br#"{"a":"\u0000"}"#), "nul_character", &["byte 7"]);
    assert!(binary_with(ignored, b"{}").is_ok());
}

#[test]
fn escapes_that_are_whole_are_taken() {
    let event =
        with(r#""i\u0064":"\ud83d\ude00\"\\","data":{"a":"\ud83d\ude00\\u0000\/\n\u00e9"}"#);
    let event = event.unwrap();
    assert_eq!(event.id, EventId::of("/a", "😀\"\\"));
    assert_eq!(event.data.as_str(), r#"{"a":"\ud83d\ude00\\u0000\/\n\u00e9"}"#);
}

#[test]
fn what_is_absent_repeated_or_unknown() {
    for empty in ["", r#""data":null"#, r#""data":{"a":1},"data":null"#, r#""data_base64":null"#] {
        assert_eq!(with(empty).unwrap().data, JsonObject::empty(), "{empty}");
    }
    for empty in [b"".as_slice(), b" null "] {
        assert_eq!(binary_with(("x", b""), empty).unwrap().data, JsonObject::empty());
    }
    // The last repeated member counts, and only that.
    let event = with(r#""id":[7],"id":"2","data":{"a":"\u0000"},"data":{"a":1,"a":2}"#).unwrap();
    assert_eq!(event.id, EventId::of("/a", "2"));
    assert_eq!(event.data.as_str(), r#"{"a":1,"a":2}"#);
    // The first repeated header counts.
    assert_eq!(binary_with(("CE_ID", b"2"), b"").unwrap().id, EventId::of("/a", "2"));
    for sequence in ["7", r#""7""#, r#""0000000000000000000000007""#] {
        let event = with(&format!(r#""sequence":{sequence}"#)).unwrap();
        assert_eq!(event.sequence, Sequence::new(7));
    }
    assert_eq!(with(r#""sequence":null"#).unwrap().sequence, None);
    assert!(with(r#""\u0000":1,"x":1e999999,"y":"\ud800","":[[]]"#).is_ok());
}

#[test]
fn the_content_type_and_the_headers_tell_the_bindings_apart() {
    let value = structured("");
    let kind = |headers: &[(&str, &[u8])]| run(&record(Some(value.as_bytes()), headers));
    for content_type in ["application/cloudevents+json", "Application/CloudEvents; charset=utf-8"] {
        let event = kind(&[("ce_id", b"other"), ("Content-Type", content_type.as_bytes())]);
        assert_eq!(event.unwrap().id, EventId::of("/a", "1"));
    }
    assert!(kind(&[("content-type", b"application/json")]).is_ok());
    assert!(kind(&[("content-type", b"\xff")]).is_ok());
    for mark in ["ce_id", "CE_SpecVersion", "ce_type", "ce_source"] {
        let headers: [(&str, &[u8]); 2] = [("content-type", b"application/json"), (mark, b"1.0")];
        assert_rejected(kind(&headers), "missing_attribute", &["Header"]);
    }
    assert!(kind(&[("ce_subject", b"x"), ("ce_time", b"x")]).is_ok());
    let mut null = record(Some(value.as_bytes()), &[("ce_id", b"")]);
    null.headers[0].value = None;
    assert_rejected(run(&null), "missing_attribute", &["Header `ce_id`"]);
}

#[test]
fn the_record_key_names_the_user_when_the_subject_does_not() {
    let keyed = |subject: &str, key: &[u8]| {
        let mut record = record(Some(structured(subject).as_bytes()), &[]);
        record.key = Some(key.to_vec().into());
        run(&record)
    };
    let absent = r#""subject":null"#;
    assert_eq!(keyed(absent, b"k").unwrap().user_id.as_str(), "k");
    assert_eq!(keyed("", b"\xff").unwrap().user_id.as_str(), "u");
    assert_rejected(keyed(absent, b""), "missing_attribute", &["`subject`", "key"]);
    assert_rejected(keyed(absent, b"\xff"), "invalid_unicode", &["key"]);
    assert_rejected(keyed(absent, b"a\0"), "nul_character", &["key"]);
    assert_rejected(keyed(absent, b"a\n"), "invalid_attribute", &["key", "control"]);
    assert_rejected(keyed(absent, &[b'x'; 256]), "invalid_attribute", &["key", "256"]);
}

#[test]
fn trace_headers_come_first_and_broken_ones_cost_nothing() {
    let other = PARENT.replace("-01", "-00");
    let members = format!(r#""traceparent":"{other}","tracestate":"b=2""#);
    let value = structured(&members);
    let traced =
        |headers: &[(&str, &[u8])]| run(&record(Some(value.as_bytes()), headers)).unwrap().trace;
    let extension = TraceContext::new(&other, Some("b=2"));
    assert!(extension.is_some());
    assert_eq!(traced(&[]), extension);
    assert_eq!(traced(&[("traceparent", b"broken"), ("tracestate", b"a=1")]), extension);
    let headers: [(&str, &[u8]); 2] = [("Traceparent", PARENT.as_bytes()), ("tracestate", b"a=1")];
    assert_eq!(traced(&headers), TraceContext::new(PARENT, Some("a=1")));
    // Never the state of one context with the parent of another.
    assert_eq!(traced(&headers[..1]), TraceContext::new(PARENT, None));

    let binary = binary_with(("ce_traceparent", PARENT.as_bytes()), b"").unwrap();
    assert_eq!(binary.trace, TraceContext::new(PARENT, None));
    assert_eq!(with(r#""traceparent":7,"tracestate":"\ud800""#).unwrap().trace, None);
}

#[test]
fn tombstones_follow_the_rules() {
    let tombstone = |edit: &dyn Fn(&mut RawRecord)| {
        let mut record = record(None, &GOOD);
        record.key = Some("u".into());
        edit(&mut record);
        record
    };
    let run =
        |tombstones, record: &RawRecord| decode(record, &Rules { tombstones, ..rules() }, NOW);
    let plain = tombstone(&|_| ());
    assert_eq!(run(Tombstones::Skip, &plain), Decoded::Skipped);
    let rejected = |tombstones, record: &RawRecord| match run(tombstones, record) {
        Decoded::Rejected(rejection) => Err(rejection),
        other => panic!("{other:?}"),
    };
    let dead = rejected(Tombstones::default(), &plain);
    assert_rejected(dead, "empty_value", &["null", "`user.deleted`"]);

    let Decoded::Event(event) = run(Tombstones::Delete, &plain) else { panic!("no event") };
    let expected = Event {
        id: EventId::of_tombstone(&plain.source, plain.offset),
        time: NOW,
        source: "kafka:users".into(),
        kind: EventKind::Deleted,
        user_id: UserId::new("u").unwrap(),
        sequence: None,
        data: JsonObject::empty(),
        trace: None,
    };
    assert_eq!(event, expected);

    type Case<'a> = (&'a dyn Fn(&mut RawRecord), &'a str, &'a [&'a str]);
    let cases: [Case<'_>; 8] = [
        (&|r| r.timestamp_ms = None, "empty_value", &["timestamp", "`user.deleted`"]),
        (&|r| r.key = None, "empty_value", &["key"]),
        (&|r| r.key = Some(vec![].into()), "empty_value", &["key"]),
        (&|r| r.key = Some(vec![0].into()), "nul_character", &["key"]),
        (&|r| r.key = Some(vec![0xff].into()), "invalid_unicode", &["key"]),
        (&|r| r.timestamp_ms = Some(0), "time_out_of_range", &["timestamp", "older"]),
        (&|r| r.timestamp_ms = Some(i64::MAX), "time_out_of_range", &["timestamp", "9999"]),
        (&|r| r.timestamp_ms = Some(i64::MIN), "time_out_of_range", &["timestamp"]),
    ];
    for (edit, code, mentions) in cases {
        assert_rejected(rejected(Tombstones::Delete, &tombstone(edit)), code, mentions);
    }
}
