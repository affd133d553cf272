#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;
use time::macros::datetime;

use super::flaw::Flaw;
use super::{Clock, Expectation, Generated, Generator, Recipe, Tally, UuidVersion};
use crate::event::{Decoded, RawRecord, Reason, Rules, Tombstones, decode};
use crate::types::{RecordOffset, TopicPartition};

const STEADY: Clock = Clock::Steady {
    start: datetime!(2026-03-01 12:00 UTC),
    step: time::Duration::microseconds(100),
};

fn generate(recipe: Recipe, count: usize) -> Vec<Generated> {
    Generator::new(recipe, STEADY).unwrap().take(count).collect()
}

fn mixed() -> Recipe {
    Recipe {
        users: 500,
        zipf: 0.8,
        duplicates: 0.1,
        malformed: 0.08,
        out_of_order: 0.05,
        tombstones: 0.02,
        sequence: 0.7,
        oversized: 5_000,
        ..Recipe::default()
    }
}

/// An attribute, wherever the binding has it.
fn attribute(record: &Generated, name: &str) -> Option<String> {
    let header = record.headers.iter().find(|header| header.name == format!("ce_{name}"));
    if let Some(header) = header {
        return String::from_utf8(header.value.clone().unwrap().into()).ok();
    }
    let value: Value = serde_json::from_slice(record.value.as_ref()?).ok()?;
    value.get(name)?.as_str().map(str::to_owned)
}

fn share(records: &[Generated], of: impl Fn(&Generated) -> bool) -> f64 {
    records.iter().filter(|record| of(record)).count() as f64 / records.len() as f64
}

fn assert_near(actual: f64, wanted: f64) {
    assert!((actual - wanted).abs() < 0.01, "{actual} is not near {wanted}");
}

#[test]
fn the_same_recipe_gives_the_same_records() {
    let first = generate(mixed(), 2_000);
    assert!(first == generate(mixed(), 2_000));
    assert!(first != generate(Recipe { seed: 1, ..mixed() }, 2_000));
}

#[test]
fn shares_are_as_asked() {
    let records = generate(mixed(), 40_000);
    let expected = |wanted| share(&records, |record| record.expected == wanted);
    assert_near(expected(Expectation::Duplicate), 0.1);
    assert_near(expected(Expectation::OutOfOrder), 0.05);
    assert_near(expected(Expectation::Tombstone), 0.02);
    assert_near(expected(Expectation::Fresh), 0.75);
    let binary = |record: &Generated| record.headers.iter().any(|h| h.name == "ce_specversion");
    assert_near(share(&records, binary), 0.2 * 0.98);
    let fresh: Vec<_> =
        records.into_iter().filter(|record| record.expected == Expectation::Fresh).collect();
    assert_near(share(&fresh, |record| attribute(record, "sequence").is_some()), 0.7);
    let profile = |record: &Generated| attribute(record, "type").unwrap().starts_with("user.");
    assert_near(share(&fresh, profile), 0.1);
}

#[test]
fn the_tally_counts_everything_once() {
    let mut tally = Tally::default();
    generate(mixed(), 3_000).iter().for_each(|record| tally.add(record.expected));
    assert_eq!(tally.total(), 3_000);
    assert_eq!(tally.of(Expectation::Malformed(Reason::TooDeep)), {
        let records = generate(mixed(), 3_000);
        let deep = |r: &&Generated| r.expected == Expectation::Malformed(Reason::TooDeep);
        records.iter().filter(deep).count() as u64
    });
    let lines = tally.to_string();
    assert!(lines.contains("malformed: not_json") && lines.ends_with("3000"), "{lines}");
}

#[test]
fn a_duplicate_repeats_an_earlier_record_and_nothing_else_does() {
    let mut seen: HashMap<_, Generated> = HashMap::new();
    for record in generate(mixed(), 20_000) {
        let Some(id) = record.event_id else { continue };
        let time = attribute(&record, "time").unwrap();
        match record.expected {
            Expectation::Duplicate => {
                let first = &seen[&(id, time)];
                assert!(Generated { expected: first.expected, ..record } == *first);
            }
            _ => assert!(seen.insert((id, time), record).is_none()),
        }
    }
}

#[test]
fn only_what_is_out_of_order_is_not_above_the_last_sequence() {
    let mut last: HashMap<Vec<u8>, i64> = HashMap::new();
    for record in generate(mixed(), 20_000) {
        let late = record.expected == Expectation::OutOfOrder;
        if !late && record.expected != Expectation::Fresh {
            continue;
        }
        let Some(sequence) = attribute(&record, "sequence") else {
            assert!(!late);
            continue;
        };
        let sequence: i64 = sequence.parse().unwrap();
        let last = last.entry(record.key).or_insert(-1);
        assert_eq!(late, sequence <= *last);
        *last = sequence.max(*last);
    }
}

#[test]
fn a_later_run_is_in_order_behind_an_earlier_one() {
    let highest = |records: &[Generated]| {
        let sequences = records.iter().filter_map(|record| attribute(record, "sequence"));
        sequences.map(|s| s.parse::<i64>().unwrap()).max().unwrap()
    };
    let start = datetime!(2026-03-01 12:00:10 UTC);
    let clock = Clock::Steady { start, step: time::Duration::ZERO };
    let later: Vec<_> = Generator::new(Recipe::default(), clock).unwrap().take(1).collect();
    assert!(highest(&later) > highest(&generate(Recipe::default(), 5_000)));
}

#[test]
fn events_are_well_formed_and_about_as_large_as_asked() {
    for size in [250, 2_000, 40_000] {
        let recipe = Recipe { size, profile: 0.5, ..Recipe::default() };
        let records = generate(recipe, 500);
        for record in &records {
            let value: Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
            assert!(value.is_object());
            assert_eq!(attribute(record, "id").unwrap(), record.event_id.unwrap().to_string());
            assert_eq!(attribute(record, "subject").unwrap().as_bytes(), record.key);
        }
        let bytes: usize = records.iter().map(|record| record.value.as_ref().unwrap().len()).sum();
        let mean = bytes / records.len();
        assert!(mean.abs_diff(size) < 60 + size / 10, "{mean} instead of {size}");
    }
}

#[test]
fn ids_are_of_the_version_asked_for() {
    for (uuid, version) in [(UuidVersion::V7, 7), (UuidVersion::V4, 4)] {
        let records = generate(Recipe { uuid, ..Recipe::default() }, 100);
        let versions: HashSet<_> =
            records.iter().map(|record| record.event_id.unwrap().get_version_num()).collect();
        assert_eq!(versions, HashSet::from([version]));
    }
}

#[test]
fn skew_makes_some_users_hot() {
    let of_the_hottest = |zipf| {
        let mut counts: HashMap<Vec<u8>, usize> = HashMap::new();
        for record in generate(Recipe { zipf, users: 1_000, ..Recipe::default() }, 10_000) {
            *counts.entry(record.key).or_default() += 1;
        }
        counts.into_values().max().unwrap()
    };
    assert!(of_the_hottest(0.0) < 40);
    assert!(of_the_hottest(1.2) > 1_000);
}

#[test]
fn every_flaw_occurs_and_every_reason_a_record_can_have() {
    let records = generate(Recipe { malformed: 1.0, oversized: 5_000, ..Recipe::default() }, 5_000);
    let reasons: BTreeSet<_> = records.iter().map(|record| record.expected).collect();
    let wanted: BTreeSet<_> =
        Flaw::ALL.into_iter().map(|flaw| Expectation::Malformed(flaw.reason())).collect();
    assert_eq!(reasons, wanted);
    assert_eq!(wanted.len(), 10);
    let without = generate(Recipe { malformed: 1.0, ..Recipe::default() }, 5_000);
    assert!(
        without.iter().all(|record| record.expected != Expectation::Malformed(Reason::TooLarge))
    );
}

#[test]
fn the_worker_takes_every_record_as_expected() {
    let rules = Rules {
        max_record_bytes: 5_000,
        max_future: std::time::Duration::from_secs(3_600),
        retention: std::time::Duration::from_secs(400 * 86_400),
        tombstones: Tombstones::DeadLetter,
    };
    let recipe = Recipe { malformed: 0.5, ..mixed() };
    for (offset, record) in (0..).zip(generate(recipe, 10_000)) {
        let expected = match record.expected {
            Expectation::Malformed(reason) => Some(reason),
            Expectation::Tombstone => Some(Reason::EmptyValue),
            _ => None,
        };
        let raw = RawRecord {
            source: TopicPartition::new("user-events", 0),
            offset: RecordOffset(offset),
            timestamp_ms: None,
            key: Some(record.key.into()),
            value: record.value.map(Into::into),
            headers: record.headers,
        };
        match decode(&raw, &rules, datetime!(2026-03-01 12:00 UTC)) {
            Decoded::Event(event) => {
                assert_eq!(expected, None);
                assert_eq!(Some(event.id.0), record.event_id);
            }
            Decoded::Rejected(rejection) => {
                assert_eq!(Some(rejection.reason), expected, "{}", rejection.detail);
            }
            Decoded::Skipped => panic!("nothing is skipped by these rules"),
        }
    }
}
