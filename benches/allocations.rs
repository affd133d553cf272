//! Allocations and bytes per event on the way from a record to a batch: the same on every machine.
#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::alloc::System;
use std::hint::black_box;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use time::OffsetDateTime;
use user_events_worker::apply::{Batch, Content, Fingerprint, Item, OffsetRange, ReadyBatch};
use user_events_worker::commands::produce::{Clock, Generator, Recipe};
use user_events_worker::event::{Decoded, Event, RawRecord, Rules, Tombstones, UserChange, decode};
use user_events_worker::types::{Epoch, Offset, RecordOffset, TopicPartition};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const EVENTS: usize = 20_000;
/// The worker's default.
const BATCH: usize = 5_000;

/// Records as the generator makes them: about 250 bytes, without a `sequence`.
fn records(binary: f64, profile: f64) -> Vec<RawRecord> {
    let recipe = Recipe { users: 100_000, sequence: 0.0, binary, profile, ..Recipe::default() };
    let generator = Generator::new(recipe, Clock::System).expect("the recipe is good");
    let source = TopicPartition::new("user-events", 0);
    let record =
        |(offset, generated): (usize, user_events_worker::commands::produce::Generated)| {
            RawRecord {
                source: source.clone(),
                offset: RecordOffset(offset as i64),
                timestamp_ms: Some(0),
                key: Some(generated.key.into()),
                value: generated.value.map(Into::into),
                headers: generated.headers,
            }
        };
    generator.take(EVENTS).enumerate().map(record).collect()
}

fn event(record: &RawRecord) -> Event {
    let rules = Rules {
        max_record_bytes: 1 << 20,
        max_future: Duration::from_secs(600),
        retention: Duration::from_secs(90 * 86_400),
        tombstones: Tombstones::DeadLetter,
    };
    match decode(record, &rules, OffsetDateTime::now_utc()) {
        Decoded::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

/// Does it with every item, keeps the results until it was counted, and says what it took.
fn count<T, U>(name: &str, items: &[T], each: impl Fn(&T) -> U) -> Vec<U> {
    let mut results = Vec::with_capacity(items.len());
    let region = Region::new(ALLOCATOR);
    results.extend(items.iter().map(|item| black_box(each(item))));
    report(name, &region.change(), items.len());
    results
}

fn report(name: &str, used: &Stats, events: usize) {
    let per_event = |number: usize| number as f64 / events as f64;
    println!(
        "| {name} | {:.1} | {:.0} |",
        per_event(used.allocations + used.reallocations),
        per_event(used.bytes_allocated),
    );
}

/// Full batches of these records, as a lane gathers them.
fn batches(records: Vec<RawRecord>) -> Vec<ReadyBatch> {
    let mut records = records.into_iter().peekable();
    let mut batches = Vec::new();
    while let Some(first) = records.peek() {
        let (source, from) = (first.source.clone(), Offset(first.offset.0));
        let item = |record: RawRecord| Item {
            range: 0,
            record: Fingerprint::of(&record),
            content: Content::Event(event(&record), record),
        };
        let items: Vec<Item> = records.by_ref().take(BATCH).map(item).collect();
        let last = items[items.len() - 1].record;
        let to = last.offset.next();
        let range = OffsetRange { source, epoch: Epoch(1), from: Some(from), to, last: Some(last) };
        batches.push(ReadyBatch::from(Batch { items, ranges: vec![range] }));
    }
    batches
}

/// Makes the statements of full batches, and says what it took per event.
fn count_prepared(name: &str, mut batches: Vec<ReadyBatch>) {
    let region = Region::new(ALLOCATOR);
    batches.iter_mut().for_each(ReadyBatch::prepare);
    let used = region.change();
    assert!(batches.iter().all(ReadyBatch::is_prepared), "nothing was prepared");
    report(name, &used, EVENTS);
}

fn main() {
    println!("| step | allocations per event | bytes allocated per event |\n|---|---|---|");
    count("decode, structured", &records(0.0, 0.1), event);
    count("decode, binary", &records(1.0, 0.1), event);
    let events = count("decode, structured, all profile", &records(0.0, 1.0), event);
    count("change of a profile event", &events, UserChange::of);
    count_prepared("fold and columns of full batches", batches(records(0.0, 0.1)));
    count_prepared("fold and columns of full batches, all profile", batches(records(0.0, 1.0)));
}
