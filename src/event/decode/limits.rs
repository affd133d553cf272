//! Limits hold to the byte, and no size of input hurts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::tests::{NOW, assert_rejected, binary_with, record, rules, run, structured, with};
use super::*;

#[test]
fn limits_hold_to_the_byte() {
    let attribute =
        |name: &str, length: usize| with(&format!(r#""{name}":"{}""#, "x".repeat(length)));
    for (name, limit) in [("id", 1024), ("source", 1024), ("type", 255), ("subject", 255)] {
        assert!(attribute(name, limit).is_ok(), "{name}");
        let mentions = [name, &format!("{} bytes", limit + 1), &format!("{limit}")];
        assert_rejected(attribute(name, limit + 1), "invalid_attribute", &mentions);
    }
    let deep = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        with(&format!(r#""data":{{"a":{open}{close}}}"#))
    };
    assert!(deep(128).is_ok());
    assert_rejected(deep(129), "too_deep", &["`data`", "128 levels"]);
    // Wide is not deep.
    assert!(with(&format!(r#""data":{{"a":[{}[]]}}"#, "[],{},".repeat(500))).is_ok());
    let number = |digits: usize| with(&format!(r#""data":{{"a":{}}}"#, "9".repeat(digits)));
    assert!(number(1100).is_ok());
    assert_rejected(number(1101), "number_out_of_range", &["1100"]);
    for good in ["1e400", "1E-400", "-0.5e+0000400", "0", "-0"] {
        assert!(with(&format!(r#""data":{{"a":{good}}}"#)).is_ok(), "{good}");
    }
    for good in ["2026-06-01T12:10:00Z", "2026-06-01T12:10:00.0000009Z", "2026-03-03T12:00:00Z"] {
        assert!(with(&format!(r#""time":"{good}""#)).is_ok(), "{good}");
    }
    let rules = Rules { max_record_bytes: 300, ..rules() };
    let sized = |size: usize| {
        let value = structured("");
        let padding = " ".repeat(size - value.len() - 5);
        let mut record = record(Some((value + &padding).as_bytes()), &[("h", b"v")]);
        record.key = Some(b"key".as_slice().into());
        assert_eq!(record.size(), size);
        decode(&record, &rules, NOW)
    };
    assert!(matches!(sized(300), Decoded::Event(_)));
    let Decoded::Rejected(rejection) = sized(301) else { panic!("decoded") };
    assert_rejected(Err(rejection), "too_large", &["301", "300"]);
    let data = |size: usize| JsonObject::parse(&format!(r#"{{"a":"{}"}}"#, "x".repeat(size - 8)));
    assert!(data(32 << 20).is_ok());
    assert_eq!(data((32 << 20) + 1).unwrap_err().reason, Reason::TooLarge);
}

#[test]
fn extreme_rules_do_not_overflow() {
    let rules = Rules { max_future: Duration::MAX, retention: Duration::MAX, ..rules() };
    for time in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z"] {
        let value = structured(&format!(r#""time":"{time}""#));
        let decoded = decode(&record(Some(value.as_bytes()), &[]), &rules, NOW);
        assert!(matches!(decoded, Decoded::Event(_)), "{decoded:?}");
    }
}

#[test]
fn bombs_are_defused_quickly() {
    let started = std::time::Instant::now();
    let (open, close) = ("[".repeat(1_000_000), "]".repeat(1_000_000));
    let nested = format!("{open}{close}");
    assert_rejected(with(&format!(r#""data":{{"a":{nested}}}"#)), "too_deep", &["128"]);
    assert_rejected(with(&format!(r#""data":{nested}"#)), "not_an_object", &[]);
    assert_rejected(with(&format!(r#""id":{nested}"#)), "invalid_attribute", &["`id`"]);
    assert!(with(&format!(r#""unknown":{nested}"#)).is_ok());
    let value = |text: &str| run(&record(Some(text.as_bytes()), &[]));
    assert_rejected(value(&nested), "not_an_object", &["an array"]);
    assert_rejected(value(&open), "not_json", &["EOF"]);
    assert_rejected(value(&r#"{"data":"#.repeat(400_000)), "not_json", &["EOF"]);
    assert_rejected(binary_with(("x", b""), nested.as_bytes()), "not_an_object", &[]);
    let digits = "9".repeat(1 << 20);
    let long = with(&format!(r#""data":{{"a":{digits}}}"#));
    assert_rejected(long, "number_out_of_range", &["1100"]);
    assert_rejected(with(&format!(r#""sequence":{digits}"#)), "invalid_attribute", &[]);
    let exponent = with(&format!(r#""data":{{"a":1e{digits}}}"#));
    assert_rejected(exponent, "number_out_of_range", &["400"]);
    assert_rejected(with(&format!(r#""time":"{digits}""#)), "invalid_attribute", &["`time`"]);
    let escapes = r"\u0041".repeat(200_000);
    assert!(with(&format!(r#""data":{{"a":"{escapes}"}}"#)).is_ok());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
