//! The contract's two bindings, and what each attribute becomes.

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::support::{EventBuilder, Scene, ago, event};

/// The documented namespace of derived ids. Never to change: stored ledgers depend on it.
const NAMESPACE: Uuid = Uuid::from_u128(0x5f13_f573_4ebe_4eaf_b05f_0049_425f_616b);

fn derived(source: &str, id: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("{source}\n{id}").as_bytes())
}

/// Applies the events with a worker of its own.
async fn apply(events: &[EventBuilder]) -> Scene {
    let scene = Scene::new(1).await;
    scene.send(events).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
    scene
}

#[tokio::test]
async fn both_bindings_however_marked_end_as_equal_rows() {
    let at = ago(Duration::hours(1));
    let json: &[u8] = b"application/cloudevents+json; charset=utf-8";
    let one = |id: &str| {
        event("ann", id, "user.updated")
            .at(at)
            .sequence(7)
            .data(r#"{"b":[1.50,"\u00e4"],"a":null}"#)
    };
    let ways = [
        ("structured", one("0")),
        ("structured, typed", one("1").header("content-type", Some(json))),
        ("structured, no version", one("2").without("specversion")),
        ("structured, number as sequence", one("3").with("sequence", 7)),
        (
            "structured by its type, though marked as binary",
            one("4").header("Content-Type", Some(json)).header("ce_id", Some(b"other")),
        ),
        ("binary", one("5").binary()),
        ("binary, typed", one("6").binary().header("content-type", Some(b"application/json"))),
        ("binary, no version", one("7").binary().without("specversion")),
        ("structured, unknown attributes", one("8").with("partitionkey", "x").with("n", 1)),
        ("binary, unknown attributes", one("9").binary().with("partitionkey", "x")),
    ];
    let scene = apply(&ways.clone().map(|(_, event)| event)).await;

    type Row = (Uuid, OffsetDateTime, String, String, String, Option<i64>, String, i64);
    let rows: Vec<Row> = scene
        .fetch_all(
            "SELECT event_id, occurred_at, source, type, user_id, sequence, data::text, kafka_offset
             FROM user_events ORDER BY kafka_offset",
        )
        .await;
    assert_eq!(rows.len(), ways.len());
    for ((offset, row), (way, _)) in (0..).zip(rows).zip(ways) {
        let expected = (
            derived("test", &offset.to_string()),
            at,
            "test".to_owned(),
            "user.updated".to_owned(),
            "ann".to_owned(),
            Some(7),
            r#"{"a": null, "b": [1.50, "ä"]}"#.to_owned(),
            offset,
        );
        assert_eq!(row, expected, "{way}");
    }
}

#[tokio::test]
async fn without_a_subject_the_record_key_names_the_user() {
    let scene = apply(&[
        event("-", "1", "login").without("subject").key(Some(b"ann")),
        event("-", "2", "login").without("subject").key(Some(b"ann")).binary(),
        event("ann", "3", "login").key(Some(b"other")),
        event("ann", "4", "login").key(None),
        event("ann", "5", "login").key(Some(b"\xff")).binary(),
        event("-", "6", "login")
            .without("subject")
            .header("ce_subject", None)
            .key(Some(b"ann"))
            .binary(),
    ])
    .await;
    let users: Vec<(String, i64)> = scene.fetch_all("SELECT user_id, event_count FROM users").await;
    assert_eq!(users, [("ann".to_owned(), 6)]);
}

#[tokio::test]
async fn an_unknown_type_is_something_the_user_did() {
    let scene = apply(&[
        event("ann", "1", "user.created").data(r#"{"name":"Ann"}"#),
        event("ann", "2", "user.Deleted").data(r#"{"name":"Bob"}"#),
        event("ann", "3", "com.example.cart/checked-out ü").data(r#"{"total":1}"#),
        event("ann", "4", "user.loggedin").raw(Some(b"")).binary(),
    ])
    .await;
    let types: Vec<(String, String)> =
        scene.fetch_all("SELECT type, data::text FROM user_events ORDER BY kafka_offset").await;
    let types: Vec<_> = types.iter().map(|(kind, data)| (kind.as_str(), data.as_str())).collect();
    assert_eq!(
        types,
        [
            ("user.created", r#"{"name": "Ann"}"#),
            ("user.Deleted", r#"{"name": "Bob"}"#),
            ("com.example.cart/checked-out ü", r#"{"total": 1}"#),
            ("user.loggedin", "{}"),
        ]
    );
    let user: (serde_json::Value, bool, i64) =
        scene.fetch_one("SELECT profile, deleted_at IS NULL, event_count FROM users").await;
    assert_eq!(user, (serde_json::json!({"name": "Ann"}), true, 4));
}

#[tokio::test]
async fn a_uuid_is_kept_as_event_id_and_any_other_id_is_derived_with_its_source() {
    let uuid = Uuid::now_v7();
    let at = ago(Duration::minutes(1));
    let from = |source: &str, id: &str| event("ann", id, "login").with("source", source).at(at);
    let scene = apply(&[
        from("/a", &uuid.to_string()),
        from("/b", &uuid.to_string().to_uppercase()), // a UUID is unique by itself: the same event
        from("/b", &uuid.urn().to_string()),
        from("/a", "order-1"),
        from("/b", "order-1"), // the same id of another source: another event
        from("/b", "order-1").binary(),
    ])
    .await;
    let rows: Vec<(Uuid, String)> =
        scene.fetch_all("SELECT event_id, source FROM user_events ORDER BY kafka_offset").await;
    let (a, b) = ("/a".to_owned(), "/b".to_owned());
    let expected =
        [(uuid, a.clone()), (derived("/a", "order-1"), a), (derived("/b", "order-1"), b)];
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn time_is_cut_to_microseconds_and_told_in_utc() {
    let day = ago(Duration::days(2)).date();
    let at = |time: &str, id: &str| event("ann", id, "login").time(&format!("{day}T{time}"));
    let scene = apply(&[
        at("12:00:00.123456999Z", "1"),
        at("12:00:00.123456001Z", "1"), // the same microsecond: the same event
        at("14:00:00.123456+02:00", "1"), // the same instant, told elsewhere
        at("12:00:00.1234569+02:00", "2").binary(),
        at("12:00:00Z", "3"),
    ])
    .await;
    let rows: Vec<(String, i64)> = scene
        .fetch_all(
            "SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), kafka_offset
             FROM user_events ORDER BY kafka_offset",
        )
        .await;
    // Of the same event the first counts, although its nanoseconds are the greatest.
    let expected = [("12:00:00.123456", 0), ("10:00:00.123456", 3), ("12:00:00.000000", 4)];
    assert_eq!(rows, expected.map(|(time, offset)| (format!("{day} {time}"), offset)));
}

#[tokio::test]
async fn headers_may_repeat_be_null_or_be_no_text() {
    let bytes = Some(b"\xff\x00\xfe".as_slice());
    let scene = apply(&[
        // The first of a name counts, in any case.
        event("ann", "1", "login").binary().header("CE_ID", Some(b"9")).header("ce_time", bytes),
        // Headers that mean nothing here may be anything.
        event("ann", "2", "login").header("x", bytes).header("x", None).header("", Some(b"")),
        event("ann", "3", "login").binary().header("x", bytes).header("content-type", bytes),
        event("ann", "4", "login").header("content-type", None).header("traceparent", bytes),
        // A null attribute is absent.
        event("ann", "5", "login").binary().header("ce_sequence", None),
        // Attributes that do not mark a record as binary leave it structured.
        event("ann", "6", "login").header("ce_time", Some(b"x")).header("ce_subject", bytes),
    ])
    .await;
    let ids: Vec<(Uuid,)> =
        scene.fetch_all("SELECT event_id FROM user_events ORDER BY kafka_offset").await;
    let expected: Vec<_> = (1..=6).map(|id| (derived("test", &id.to_string()),)).collect();
    assert_eq!(ids, expected);
    assert_eq!(scene.count("SELECT count(*) FROM dead_letters").await, 0);
}
