//! What events cost before Postgres sees them: decoding, folding into a user's change, and making
//! the columns of a batch.
#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use time::macros::datetime;
use user_events_worker::apply::{Batch, Content, Fingerprint, Item, OffsetRange, ReadyBatch};
use user_events_worker::event::{
    Decoded, Event, Header, RawRecord, Rules, Tombstones, UserChange, decode,
};
use user_events_worker::types::{Epoch, RecordOffset, TopicPartition};

/// Of a batch: the worker's default.
const EVENTS: usize = 5_000;
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
        name: format!("ce_{name}").into(),
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

/// A batch of the worker's default size, each event of a user of its own: nothing folds.
fn batch(kind: &str) -> ReadyBatch {
    let source = TopicPartition::new("user-events", 0);
    let item = |offset: i64| {
        let value = format!(
            r#"{{"id":"0192f0c1-2b3c-7def-8123-{offset:012x}","source":"/services/accounts","type":"{kind}",
                "subject":"user-{offset:09}","time":"2026-06-01T11:59:59.123456Z","data":{DATA}}}"#
        );
        let record = RawRecord { offset: RecordOffset(offset), ..record(value, Vec::new()) };
        let content = Content::Event(run(&record), record.clone());
        Item { range: 0, record: Fingerprint::of(&record), content }
    };
    let items: Vec<Item> = (0..EVENTS as i64).map(item).collect();
    let last = items[EVENTS - 1].record;
    let to = last.offset.next();
    let range = OffsetRange { source, epoch: Epoch(1), from: None, to, last: Some(last) };
    ReadyBatch::from(Batch { items, ranges: vec![range] })
}

/// Folding, sorting and encoding a full batch: what is done while Postgres is busy with another.
fn preparing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for kind in ["page.viewed", "user.updated"] {
        let mut batch = batch(kind);
        group.bench_function(format!("fold and columns of {EVENTS} {kind}"), |bencher| {
            bencher.iter(|| {
                // To change it is to forget what was prepared.
                black_box(batch.change());
                batch.prepare();
            });
        });
        assert!(batch.is_prepared(), "nothing was prepared");
    }
    group.finish();
}

criterion_group!(decoding, benches, preparing);
criterion_main!(decoding);
