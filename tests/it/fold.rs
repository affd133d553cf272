//! However a stream of events is cut into batches, Postgres ends with what the model says of them
//! one at a time.

use std::collections::{BTreeMap, HashSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use time::{Duration, OffsetDateTime};
use user_events_worker::event::model::{UserRow, apply_one};
use user_events_worker::event::{
    Decoded, Event, RawRecord, Rules, SequenceGate, Tombstones, Verdict, decode,
};
use user_events_worker::types::{RecordOffset, TopicPartition};

use crate::support::{EventBuilder, Scene, ago, event};

const EVENTS: usize = 300;
const USERS: usize = 6;
const PARTITIONS: i32 = 2;

/// Random events of a few users, some of them repeated: many of each kind in any order.
fn random_events(seed: u64) -> Vec<EventBuilder> {
    let mut rng = StdRng::seed_from_u64(seed);
    let base = ago(Duration::days(1));
    let mut events: Vec<EventBuilder> = Vec::new();
    for n in 0..EVENTS {
        if n > 10 && rng.random_ratio(1, 12) {
            let repeated = events[rng.random_range(0..events.len())].clone();
            events.push(repeated);
            continue;
        }
        let user = rng.random_range(0..USERS);
        let kind = ["user.created", "user.updated", "user.updated", "user.deleted", "login"];
        let kind = kind[rng.random_range(0..kind.len())];
        let members: Vec<String> = ('a'..='e')
            .filter_map(|name| match rng.random_range(0..6) {
                0 | 1 => Some(format!(r#""{name}":{n}"#)),
                2 => Some(format!(r#""{name}":null"#)),
                3 => Some(format!(r#""{name}":{{"n":[{n},null]}}"#)),
                _ => None,
            })
            .collect();
        let at = base + Duration::seconds(rng.random_range(0..1000));
        let mut event = event(&format!("u{user}"), &n.to_string(), kind)
            .at(at)
            .data(&format!("{{{}}}", members.join(",")))
            .to(user as i32 % PARTITIONS);
        if rng.random_ratio(1, 2) {
            let drift: i64 = rng.random_range(-8..8);
            event = event.sequence((n as i64 + drift).max(0));
        }
        events.push(if rng.random_ratio(1, 3) { event.binary() } else { event });
    }
    events
}

fn decoded(builder: &EventBuilder) -> Event {
    use rdkafka::message::Headers;
    let headers = builder.kafka_headers();
    let record = RawRecord {
        source: TopicPartition::new("t", 0),
        offset: RecordOffset(0),
        timestamp_ms: None,
        key: builder.key.clone().map(Into::into),
        value: builder.value().map(Into::into),
        headers: headers
            .iter()
            .map(|h| user_events_worker::event::Header {
                name: h.key.into(),
                value: h.value.map(|value| value.to_vec().into()),
            })
            .collect(),
    };
    let rules = Rules {
        max_record_bytes: 1 << 20,
        max_future: std::time::Duration::from_secs(3600),
        retention: std::time::Duration::from_secs(400 * 86_400),
        tombstones: Tombstones::DeadLetter,
    };
    match decode(&record, &rules, OffsetDateTime::now_utc()) {
        Decoded::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

/// A row of `users` in words.
type Row = (
    Value,
    Option<i64>,
    OffsetDateTime,
    Option<OffsetDateTime>,
    Option<OffsetDateTime>,
    OffsetDateTime,
    i64,
);

/// One event at a time; also how many were duplicates and stale. (A user is in one partition, so
/// the order of sending is the order of each user.)
fn model(events: &[EventBuilder]) -> (BTreeMap<String, Row>, usize, usize) {
    let mut rows: BTreeMap<String, UserRow> = BTreeMap::new();
    let (mut seen, mut duplicates, mut stale) = (HashSet::new(), 0, 0);
    for event in events.iter().map(decoded) {
        if !seen.insert((event.id, event.time)) {
            duplicates += 1;
            continue;
        }
        let user = event.user_id.as_str().to_owned();
        let row = rows.remove(&user);
        let last = row.as_ref().and_then(|row| row.sequence);
        let verdict = SequenceGate::new(last).admit(event.sequence);
        stale += usize::from(verdict == Verdict::Stale);
        rows.insert(user, apply_one(row, &event, verdict));
    }
    let told = |row: UserRow| {
        let profile = serde_json::from_str(&row.profile.to_json()).unwrap();
        (
            profile,
            row.sequence.map(|sequence| sequence.get()),
            row.created_at,
            row.updated_at,
            row.deleted_at,
            row.last_event_at,
            row.event_count,
        )
    };
    (rows.into_iter().map(|(user, row)| (user, told(row))).collect(), duplicates, stale)
}

/// What Postgres holds after a worker with such batches.
async fn through_postgres(
    events: &[EventBuilder],
    max_events: &str,
) -> (Scene, BTreeMap<String, Row>) {
    let scene = Scene::new(PARTITIONS).await;
    scene.send(events).await;
    let worker = scene
        .worker()
        .set("BATCH__MAX_EVENTS", max_events)
        .set("BATCH__LINGER", "500ms")
        .start()
        .await;
    scene.caught_up().await;
    let (_, duplicates, stale) = model(events);
    worker.counted("duplicate", duplicates).await;
    worker.counted("stale", stale).await;
    let users: Vec<(String,)> = scene.fetch_all("SELECT user_id FROM users").await;
    let mut rows = BTreeMap::new();
    for (user,) in users {
        let row = scene
            .fetch_one(&format!(
                "SELECT profile, sequence, created_at, updated_at, deleted_at, last_event_at,
                        event_count FROM users WHERE user_id = '{user}'"
            ))
            .await;
        rows.insert(user, row);
    }
    assert_eq!(worker.stop().await, Some(0));
    (scene, rows)
}

#[tokio::test]
async fn any_split_into_batches_equals_one_event_at_a_time() {
    let seed = rand::random();
    println!("seed {seed}");
    for seed in [1, seed] {
        let events = random_events(seed);
        let (expected, duplicates, stale) = model(&events);
        assert!(duplicates > 5 && stale > 5, "{duplicates} duplicates, {stale} stale");
        let (ones, sevens, whole) = tokio::join!(
            through_postgres(&events, "1"),
            through_postgres(&events, "7"),
            through_postgres(&events, "10000"),
        );
        let mut transactions = Vec::new();
        for (name, (scene, rows)) in [("1", ones), ("7", sevens), ("10000", whole)] {
            assert_eq!(rows, expected, "batches of {name}, seed {seed}");
            let ledger = scene.count("SELECT count(*) FROM user_events").await;
            assert_eq!(ledger as usize, events.len() - duplicates);
            // Not received_at: two lanes may begin within a microsecond.
            let sql = "SELECT count(DISTINCT xmin::text) FROM user_events";
            transactions.push(scene.count(sql).await as usize);
        }
        assert_eq!(transactions[0], events.len() - duplicates, "one event, one transaction");
        assert!(transactions[1] >= (events.len() - duplicates) / 7, "{transactions:?}");
        assert!(transactions[2] <= 6, "few transactions: {transactions:?}");
    }
}
