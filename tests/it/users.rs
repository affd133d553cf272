//! What each event does to a user: in one batch, in many, and as the model says.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::support::{EventBuilder, Scene, ago, event};

/// What must stand in `users`; times in minutes after the scene began.
#[derive(Clone, Debug)]
struct Expected {
    profile: Value,
    sequence: Option<i64>,
    created: i64,
    updated: Option<i64>,
    deleted: Option<i64>,
    last: i64,
    count: i64,
}

/// Kind, minute of `time`, `sequence`, `data`.
type Step = (&'static str, i64, Option<i64>, &'static str);

const C: &str = "user.created";
const U: &str = "user.updated";
const D: &str = "user.deleted";
const A: &str = "login";

/// A live user of so many events, created and updated at minute 1, last seen at the last.
fn live(profile: Value, count: i64) -> Expected {
    let updated = Some(1);
    Expected { profile, sequence: None, created: 1, updated, deleted: None, last: count, count }
}

fn scenarios() -> Vec<(&'static str, Vec<Step>, Expected)> {
    let gone = |deleted, count| Expected { deleted: Some(deleted), ..live(json!({}), count) };
    let with = |sequence, expected| Expected { sequence: Some(sequence), ..expected };
    let updated = |updated, expected| Expected { updated, ..expected };
    vec![
        (
            "a creation becomes the profile, without nulls",
            vec![(C, 1, None, r#"{"a":1,"b":null,"c":{"d":null}}"#)],
            live(json!({"a": 1, "c": {"d": null}}), 1),
        ),
        (
            "a second creation replaces it whole and keeps created_at",
            vec![(C, 1, None, r#"{"a":1}"#), (C, 2, None, r#"{"b":2}"#)],
            updated(Some(2), live(json!({"b": 2}), 2)),
        ),
        (
            "an update replaces top-level members, null removes",
            vec![
                (C, 1, None, r#"{"a":1,"b":1,"c":1}"#),
                (U, 2, None, r#"{"a":null,"b":2,"x":null}"#),
            ],
            updated(Some(2), live(json!({"b": 2, "c": 1}), 2)),
        ),
        (
            "an update is never recursive",
            vec![(C, 1, None, r#"{"p":{"x":1,"y":2}}"#), (U, 2, None, r#"{"p":{"x":null}}"#)],
            updated(Some(2), live(json!({"p": {"x": null}}), 2)),
        ),
        (
            "removed and set again, set and removed again",
            vec![
                (C, 1, None, r#"{"a":1,"b":1}"#),
                (U, 2, None, r#"{"a":null,"b":2}"#),
                (U, 3, None, r#"{"a":3,"b":null}"#),
            ],
            updated(Some(3), live(json!({"a": 3}), 3)),
        ),
        (
            "an update of an unknown user begins a profile, without nulls",
            vec![(U, 1, None, r#"{"a":1,"b":null}"#)],
            live(json!({"a": 1}), 1),
        ),
        (
            "updates of an unknown user",
            vec![(U, 1, None, r#"{"a":1,"b":1}"#), (U, 2, None, r#"{"b":null,"c":3}"#)],
            updated(Some(2), live(json!({"a": 1, "c": 3}), 2)),
        ),
        (
            "activity counts and leaves the profile alone",
            vec![(C, 1, None, r#"{"a":1}"#), (A, 2, None, r#"{"a":2}"#)],
            live(json!({"a": 1}), 2),
        ),
        (
            "activity of an unknown user begins a row that was never updated",
            vec![(A, 1, None, r#"{"a":2}"#), (A, 2, None, "{}")],
            updated(None, live(json!({}), 2)),
        ),
        (
            "activity first, then a creation",
            vec![(A, 1, None, "{}"), (C, 2, None, r#"{"a":1}"#)],
            updated(Some(2), live(json!({"a": 1}), 2)),
        ),
        (
            "events out of order of time: last_event_at is the greatest, the rest as they come",
            vec![(C, 9, None, r#"{"a":1}"#), (U, 3, None, r#"{"a":2}"#), (A, 5, None, "{}")],
            Expected { created: 9, last: 9, ..updated(Some(3), live(json!({"a": 2}), 3)) },
        ),
        (
            "a deletion empties and keeps the rest",
            vec![(C, 1, Some(4), r#"{"a":1}"#), (A, 2, None, "{}"), (D, 3, None, r#"{"a":2}"#)],
            with(4, gone(3, 3)),
        ),
        ("a deletion of an unknown user", vec![(D, 1, None, "{}")], updated(None, gone(1, 1))),
        (
            "a second deletion moves deleted_at",
            vec![(C, 1, None, r#"{"a":1}"#), (D, 2, None, "{}"), (D, 3, None, "{}")],
            gone(3, 3),
        ),
        (
            "an update before the deletion shows in updated_at",
            vec![(C, 1, None, "{}"), (U, 2, None, r#"{"a":1}"#), (D, 3, None, "{}")],
            updated(Some(2), gone(3, 3)),
        ),
        (
            "neither update nor activity brings a deleted user back",
            vec![
                (C, 1, Some(1), r#"{"a":1}"#),
                (D, 2, Some(2), "{}"),
                (U, 3, Some(3), r#"{"a":3}"#),
                (A, 4, Some(4), "{}"),
            ],
            with(4, gone(2, 4)),
        ),
        (
            "a creation brings a deleted user back, with the first created_at",
            vec![(C, 1, None, r#"{"a":1}"#), (D, 2, None, "{}"), (C, 3, None, r#"{"b":3}"#)],
            updated(Some(3), live(json!({"b": 3}), 3)),
        ),
        (
            "deleted, updated, deleted again: the update left no trace",
            vec![(C, 1, None, "{}"), (D, 2, None, "{}"), (U, 3, None, "{}"), (D, 4, None, "{}")],
            gone(4, 4),
        ),
        (
            "a sequence at the last or below it is stale: it only counts",
            vec![
                (C, 1, Some(5), r#"{"a":1}"#),
                (U, 2, Some(5), r#"{"a":2}"#),
                (D, 3, Some(4), "{}"),
                (C, 4, Some(0), r#"{"b":4}"#),
            ],
            with(5, live(json!({"a": 1}), 4)),
        ),
        (
            "a sequence above the last moves it, gap or not",
            vec![(C, 1, Some(0), r#"{"a":1}"#), (U, 2, Some(i64::MAX), r#"{"a":2}"#)],
            with(i64::MAX, updated(Some(2), live(json!({"a": 2}), 2))),
        ),
        (
            "without a sequence an event takes effect and the sequence stays",
            vec![
                (C, 1, Some(5), r#"{"a":1}"#),
                (U, 2, None, r#"{"a":2}"#),
                (U, 3, Some(5), r#"{"a":3}"#),
            ],
            Expected { last: 3, ..with(5, updated(Some(2), live(json!({"a": 2}), 3))) },
        ),
        (
            "a stale creation does not bring a deleted user back",
            vec![(C, 1, Some(1), r#"{"a":1}"#), (D, 2, Some(5), "{}"), (C, 3, Some(3), "{}")],
            with(5, gone(2, 3)),
        ),
        (
            "the first of a user may be without sequence, and zero is above none",
            vec![(A, 1, None, "{}"), (U, 2, Some(0), r#"{"a":1}"#), (U, 3, Some(0), r#"{"a":2}"#)],
            with(0, updated(Some(2), live(json!({"a": 1}), 3))),
        ),
        (
            "activity moves the sequence, too",
            vec![(C, 1, Some(1), r#"{"a":1}"#), (A, 2, Some(9), "{}"), (U, 3, Some(8), "{}")],
            with(9, live(json!({"a": 1}), 3)),
        ),
    ]
}

/// A user's events, at minutes after `base`.
fn events(user: usize, steps: &[Step], base: OffsetDateTime) -> Vec<EventBuilder> {
    let build = |(n, (kind, minute, sequence, data)): (usize, &Step)| {
        let event = event(&format!("u{user}"), &format!("{user}/{n}"), kind)
            .at(base + Duration::minutes(*minute))
            .data(data);
        match sequence {
            Some(sequence) => event.sequence(*sequence),
            None => event,
        }
    };
    steps.iter().enumerate().map(build).collect()
}

async fn check(scene: &Scene, base: OffsetDateTime) {
    let at = |minute: i64| base + Duration::minutes(minute);
    for (n, (name, steps, expected)) in scenarios().into_iter().enumerate() {
        type Row = (
            Value,
            Option<i64>,
            OffsetDateTime,
            Option<OffsetDateTime>,
            Option<OffsetDateTime>,
            OffsetDateTime,
            i64,
        );
        let row: Row = scene
            .fetch_one(&format!(
                "SELECT profile, sequence, created_at, updated_at, deleted_at, last_event_at,
                        event_count FROM users WHERE user_id = 'u{n}'"
            ))
            .await;
        let e = expected;
        let expected = (
            e.profile,
            e.sequence,
            at(e.created),
            e.updated.map(at),
            e.deleted.map(at),
            at(e.last),
            e.count,
        );
        assert_eq!(row, expected, "{name}");
        // Stale or not, every event is recorded.
        let ledger = format!("SELECT count(*) FROM user_events WHERE user_id = 'u{n}'");
        assert_eq!(scene.count(&ledger).await, steps.len() as i64, "{name}");
    }
    assert_eq!(scene.count("SELECT count(*) FROM dead_letters").await, 0);
}

#[tokio::test]
async fn every_rule_of_the_users_table_holds_within_one_batch() {
    let (scene, base) = (Scene::new(1).await, ago(Duration::hours(2)));
    let all: Vec<_> = scenarios()
        .iter()
        .enumerate()
        .flat_map(|(user, (_, steps, _))| events(user, steps, base))
        .collect();
    scene.send(&all).await;
    let worker = scene.worker().set("BATCH__LINGER", "3s").start().await;
    scene.caught_up().await;
    let transactions = "SELECT count(DISTINCT received_at) FROM user_events";
    assert_eq!(scene.count(transactions).await, 1, "it was one batch");
    check(&scene, base).await;
    worker.counted("stale", 7).await;
    worker.counted("applied", all.len() - 7).await;
}

#[tokio::test]
async fn every_rule_of_the_users_table_holds_across_batches() {
    let (scene, base) = (Scene::new(1).await, ago(Duration::hours(2)));
    let worker = scene.worker().start().await;
    let users: Vec<_> = scenarios()
        .iter()
        .enumerate()
        .map(|(user, (_, steps, _))| events(user, steps, base))
        .collect();
    for step in 0..4 {
        let events: Vec<_> = users.iter().filter_map(|events| events.get(step)).cloned().collect();
        scene.send(&events).await;
        scene.caught_up().await;
    }
    check(&scene, base).await;
    worker.counted("stale", 7).await;
}

#[tokio::test]
async fn events_of_one_user_take_effect_in_their_order_in_the_partition() {
    const USERS: usize = 10;
    let scene = Scene::new(3).await;
    let at = ago(Duration::minutes(1));
    // Times and ids say nothing about the order: all the same, and random.
    let events: Vec<_> = (0..1000)
        .map(|n| {
            let (user, before) = (n % USERS, n.checked_sub(USERS));
            let before = before.map_or(String::new(), |before| format!(r#","m{before}":null"#));
            event(&format!("u{user}"), &uuid::Uuid::from_u128(rand::random()).to_string(), U)
                .at(at)
                .data(&format!(r#"{{"last":{n},"m{n}":1{before}}}"#))
        })
        .collect();
    scene.send(&events).await;
    let _worker = scene.worker().set("BATCH__MAX_EVENTS", "17").start().await;
    scene.caught_up().await;
    let users: Vec<(String, Value, i64)> =
        scene.fetch_all("SELECT user_id, profile, event_count FROM users ORDER BY user_id").await;
    let expected: Vec<_> = (0..USERS)
        .map(|user| {
            let last = 990 + user;
            (format!("u{user}"), json!({"last": last, format!("m{last}"): 1}), 100)
        })
        .collect();
    assert_eq!(users, expected);
}

#[tokio::test]
async fn a_sequence_holds_across_partitions() {
    let scene = Scene::new(2).await;
    let worker = scene.worker().start().await;
    let update = |id: &str, sequence, partition| {
        event("ann", id, U)
            .sequence(sequence)
            .data(&format!(r#"{{"from":{partition}}}"#))
            .to(partition)
    };
    for event in [
        update("1", 5, 0),
        update("2", 5, 1),
        update("3", 4, 1),
        update("4", 6, 1),
        update("5", 6, 0),
    ] {
        scene.send(&[event]).await;
        scene.caught_up().await;
    }
    let user: (Value, i64, i64) =
        scene.fetch_one("SELECT profile, sequence, event_count FROM users").await;
    assert_eq!(user, (json!({"from": 1}), 6, 5));
    worker.counted("stale", 3).await;
    worker.counted("applied", 2).await;
}

#[tokio::test]
async fn lanes_that_race_for_the_same_users_let_the_greatest_sequence_win() {
    const USERS: i64 = 40;
    const VERSIONS: i64 = 24;
    let scene = Scene::new(4).await;
    let mut events = Vec::new();
    for version in 0..VERSIONS {
        for user in 0..USERS {
            // Each partition holds every fourth version, and goes through the users its own way.
            let partition = version % 4;
            let user = if partition % 2 == 0 { user } else { USERS - 1 - user };
            let event = event(&format!("u{user}"), &format!("{user}/{version}"), C);
            let event = event.sequence((version * 7) % VERSIONS);
            let data = format!(r#"{{"v":{}}}"#, (version * 7) % VERSIONS);
            events.push(event.data(&data).to(partition as i32));
        }
    }
    scene.send(&events).await;
    let worker =
        scene.worker().set("BATCH__LANES", "4").set("BATCH__MAX_EVENTS", "11").start().await;
    scene.caught_up().await;
    let users: Vec<(Value, i64, i64)> =
        scene.fetch_all("SELECT profile, sequence, event_count FROM users").await;
    let last = VERSIONS - 1;
    assert_eq!(users, vec![(json!({"v": last}), last, VERSIONS); USERS as usize]);
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, USERS * VERSIONS);
    drop(worker);
}

#[tokio::test]
async fn a_lane_waits_for_another_before_it_judges_a_sequence() {
    let scene = Scene::new(2).await;
    let worker = scene.worker().set("BATCH__LANES", "2").set("POSTGRES__LOCK_TIMEOUT", "25s");
    let _worker = worker.start().await;
    let version = |user: &str, version: i64, partition| {
        let event = event(user, &format!("{user}/{version}"), C).sequence(version);
        event.data(&format!(r#"{{"v":{version}}}"#)).to(partition)
    };
    scene.send(&[version("known", 5, 0)]).await;
    scene.caught_up().await;
    let known = "SELECT FROM users WHERE user_id = 'known' FOR UPDATE";
    let unknown = "INSERT INTO users (user_id, created_at, last_event_at, event_count)
                   VALUES ('unknown', now(), now(), 0)";
    for (user, hold) in [("known", known), ("unknown", unknown)] {
        // Both lanes come to a user whose row is held, the greater version first.
        let mut conn = scene.db().await;
        let mut held = sqlx::Connection::begin(&mut conn).await.unwrap();
        sqlx::query(hold).execute(&mut *held).await.unwrap();
        scene.send(&[version(user, 10, 0)]).await;
        scene.waiting_for("users", 1).await;
        scene.send(&[version(user, 9, 1)]).await;
        scene.waiting_for("users", 2).await;
        held.rollback().await.unwrap();
        scene.caught_up().await;
        let sql = format!("SELECT profile, sequence FROM users WHERE user_id = '{user}'");
        assert_eq!(scene.fetch_one::<(Value, i64)>(&sql).await, (json!({"v": 10}), 10), "{user}");
    }
}
