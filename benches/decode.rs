//! What one event costs before Postgres sees it: decoding, and folding into a user's change.
#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use time::macros::datetime;
use user_events_worker::event::{
    Decoded, Event, Header, RawRecord, Rules, Tombstones, UserChange, decode,
};
use user_events_worker::types::{RecordOffset, TopicPartition};

const DATA: &str = r#"{"name":"Ada Lovelace","city":"London","visits":17,"vip":true}"#;
const ATTRIBUTES: [(&str, &str); 5] = [
    ("id", "0192f0c1-2b3c-7def-8123-456789abcdef"),
    ("source", "/services/accounts"),
    ("type", "user.updated"),
    ("subject", "user-000123456"),
    ("time", "2026-06-01T11:59:59.123456Z"),
];

fn record(value: String, headers: Vec<Header>) -> RawRecord {
    RawRecord {
        source: TopicPartition::new("user-events", 0),
        offset: RecordOffset(1),
        timestamp_ms: Some(0),
        key: Some("user-000123456".into()),
        value: Some(value.into()),
        headers,
    }
}

fn structured() -> RawRecord {
    let members: Vec<_> =
        ATTRIBUTES.iter().map(|(name, value)| format!(r#""{name}":"{value}""#)).collect();
    let value = format!(r#"{{"specversion":"1.0",{},"data":{DATA}}}"#, members.join(","));
    record(value, Vec::new())
}

fn binary() -> RawRecord {
    let header = |(name, value): &(&str, &str)| Header {
        name: format!("ce_{name}"),
        value: Some(value.to_string().into()),
    };
    record(DATA.to_owned(), ATTRIBUTES.iter().map(header).collect())
}

fn run(record: &RawRecord) -> Event {
    let rules = Rules {
        max_record_bytes: 1 << 20,
        max_future: Duration::from_secs(600),
        retention: Duration::from_secs(90 * 86_400),
        tombstones: Tombstones::DeadLetter,
    };
    match decode(record, &rules, datetime!(2026-06-01 12:00 UTC)) {
        Decoded::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("event");
    group.throughput(Throughput::Elements(1));
    for (name, record) in [("structured", structured()), ("binary", binary())] {
        group.bench_function(format!("decode {name}, {} bytes", record.size()), |bencher| {
            bencher.iter(|| run(black_box(&record)));
        });
    }
    let event = run(&structured());
    group.bench_function("change of one update", |bencher| {
        bencher.iter(|| UserChange::of(black_box(&event)));
    });
    let change = UserChange::of(&event);
    group.bench_function("fold of an update into another", |bencher| {
        bencher.iter_batched(
            || (change.clone(), change.clone()),
            |(first, second)| first.then(second),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(decoding, benches);
criterion_main!(decoding);
