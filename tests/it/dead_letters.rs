//! Records that break the contract: each is kept with its reason, and nothing waits for it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use crate::support::{EventBuilder, Fault, Scene, Worker, ago, event};

/// A record that breaks the contract, its reason, and what the producer must be told.
type Case = (&'static str, EventBuilder, &'static str, &'static [&'static str]);

fn cases() -> Vec<Case> {
    let e = |id: &str| event("bad", id, "user.updated");
    let raw = |value: &[u8]| e("r").raw(Some(value));
    let day = Duration::days(1);
    let (open, close) = ("[".repeat(128), "]".repeat(128));
    let too_deep = format!(r#"{{"a":{open}{close}}}"#);
    let long = "x".repeat(9000);
    let too_large = format!(r#"{{"a":"{long}"}}"#);
    vec![
        ("a tombstone", e("1").raw(None), "empty_value", &["null", "user.deleted"]),
        ("no bytes", raw(b""), "not_json", &["value", "JSON"]),
        ("text", raw(b"hello"), "not_json", &["line 1 column 1", "JSON object"]),
        ("half an object", raw(b"{\"id\":"), "not_json", &["EOF"]),
        ("an array", raw(b"[{}]"), "not_an_object", &["array", "one CloudEvent per record"]),
        ("null", raw(b"null"), "not_an_object", &["null"]),
        ("data no object", e("2").data("[1]"), "not_an_object", &["`data`", "array"]),
        ("binary, data no object", e("3").data("7").binary(), "not_an_object", &["number"]),
        ("no id", e("").without("id"), "missing_attribute", &["Attribute `id`", "1024"]),
        ("no source", e("4").without("source"), "missing_attribute", &["`source`"]),
        ("no type", e("5").without("type"), "missing_attribute", &["`type`"]),
        ("no time", e("6").without("time"), "missing_attribute", &["`time`", "RFC 3339"]),
        (
            "neither subject nor key",
            e("7").without("subject").key(None),
            "missing_attribute",
            &["`subject`", "record key"],
        ),
        ("binary, no id", e("8").without("id").binary(), "missing_attribute", &["Header `ce_id`"]),
        ("id a number", e("9").with("id", 9), "invalid_attribute", &["`id`", "number", "string"]),
        ("empty subject", e("10").with("subject", ""), "invalid_attribute", &["`subject`", "255"]),
        ("long type", e("11").with("type", "x".repeat(256)), "invalid_attribute", &["256", "255"]),
        ("control", e("12").with("source", "a\nb"), "invalid_attribute", &["control", "byte 1"]),
        ("version", e("13").with("specversion", "0.3"), "invalid_attribute", &["CloudEvents 1.0"]),
        ("time", e("14").time("yesterday"), "invalid_attribute", &["`time`", "RFC 3339"]),
        ("negative sequence", e("15").sequence(-1), "invalid_attribute", &["`sequence`", "digits"]),
        ("data_base64", e("16").with("data_base64", "e30="), "invalid_attribute", &["`data`"]),
        ("too old", e("17").at(ago(day * 401)), "time_out_of_range", &["older", "400 days"]),
        ("ahead", e("18").at(ago(-day)), "time_out_of_range", &["1h", "ahead", "clock"]),
        ("NUL in id", e("a\0b"), "nul_character", &["`id`", "NUL", "byte 1"]),
        ("NUL in data", e("19").data(r#"{"a":"\u0000"}"#), "nul_character", &["`data`", "byte 7"]),
        ("NUL in a name", e("20").data(r#"{"\u0000":1}"#), "nul_character", &["`data`", "byte 3"]),
        (
            "NUL in a header",
            e("21").without("source").header("ce_source", Some(b"a\0")).binary(),
            "nul_character",
            &["Header `ce_source`"],
        ),
        (
            "NUL in the key",
            e("22").without("subject").key(Some(b"\0")),
            "nul_character",
            &["record key"],
        ),
        ("half a pair", e("23").data(r#"{"a":"\ud83d"}"#), "invalid_unicode", &["surrogate"]),
        ("half a pair in id", raw(br#"{"id":"\udc00"}"#), "invalid_unicode", &["`id`", "UTF-8"]),
        ("bad UTF-8", raw(b"{\"a\":\"\xff\"}"), "invalid_unicode", &["byte 7", "UTF-8"]),
        (
            "bad UTF-8 in a header",
            e("24").without("type").header("ce_type", Some(b"\xff")).binary(),
            "invalid_unicode",
            &["Header `ce_type`"],
        ),
        ("big number", e("25").data(r#"{"a":1e401}"#), "number_out_of_range", &["exponent", "400"]),
        ("deep", e("26").data(&too_deep), "too_deep", &["`data`", "128 levels"]),
        ("large", e("27").data(&too_large), "too_large", &["bytes", "8192"]),
        ("large header", e("28").header("h", Some(long.as_bytes())), "too_large", &["8192"]),
        ("large tombstone", e("29").raw(None).key(Some(long.as_bytes())), "too_large", &["8192"]),
    ]
}

/// Headers that only bytes can hold, added to every case.
fn decorated(event: EventBuilder) -> EventBuilder {
    let nothing = event.header("h", None).header("h", Some(b"")).header("H", Some(b"\xff\x00"));
    nothing.header("h", Some("ü".as_bytes()))
}

fn good(n: usize) -> EventBuilder {
    event("good", &format!("good-{n}"), "login")
}

/// The headers as `dead_letters.headers` must tell them.
fn headers_of(event: &EventBuilder) -> Value {
    use rdkafka::message::Headers;
    let headers = event.kafka_headers();
    let header = |h: rdkafka::message::Header<'_, &[u8]>| json!({"name": h.key, "value": h.value.map(|v| BASE64.encode(v))});
    headers.iter().map(header).collect()
}

#[tokio::test]
async fn every_reason_is_told_and_the_record_kept_byte_for_byte() {
    let scene = Scene::new(1).await;
    let cases = cases();
    let mut events = vec![good(0)];
    for (n, (_, event, ..)) in cases.iter().enumerate() {
        events.extend([decorated(event.clone()), good(n + 1)]);
    }
    let before = ago(Duration::seconds(1));
    scene.send(&events).await;
    let faults = [
        (35, "NUL, lone surrogates, bad UTF-8"),
        (36, "extreme numbers and times"),
        (37, "128 levels of nesting"),
        (40, "a wrong version, attributes and headers that are missing"),
    ];
    let faults = faults.map(|(row, name)| scene.fault(row, name));
    let worker = scene.worker().set("EVENTS__MAX_RECORD_BYTES", "8KiB").start().await;
    scene.caught_up().await;

    // The good ones around them are all applied, and one batch more or less makes no difference.
    let goods: Vec<(i64,)> =
        scene.fetch_all("SELECT kafka_offset FROM user_events ORDER BY kafka_offset").await;
    assert_eq!(goods, (0..=cases.len() as i64).map(|n| (2 * n,)).collect::<Vec<_>>());
    let users: Vec<(String, i64)> = scene.fetch_all("SELECT user_id, event_count FROM users").await;
    assert_eq!(users, [("good".to_owned(), cases.len() as i64 + 1)]);

    assert_eq!(scene.count("SELECT count(*) FROM dead_letters").await, cases.len() as i64);
    for (n, (name, event, reason, mentions)) in cases.iter().enumerate() {
        let (offset, event) = (2 * n + 1, decorated(event.clone()));
        let (found, detail, sqlstate): (String, String, Option<String>) = scene
            .fetch_one(&format!(
                "SELECT reason, detail, sqlstate FROM dead_letters
                 WHERE kafka_partition = 0 AND kafka_offset = {offset}"
            ))
            .await;
        assert_eq!((found.as_str(), sqlstate), (*reason, None), "{name}: {detail}");
        for mention in *mentions {
            assert!(detail.contains(mention), "{name}: {mention:?} is missing in: {detail}");
        }
        kept(&scene, offset, &event, name).await;
    }
    let odd = "SELECT count(*) FROM dead_letters WHERE times_seen <> 1 OR resolution IS NOT NULL
               OR key_sha256 IS NOT NULL OR value_sha256 IS NOT NULL OR headers_sha256 IS NOT NULL";
    assert_eq!(scene.count(odd).await, 1, "only a key of 9,000 bytes is above its cap");
    let (stamp,): (OffsetDateTime,) =
        scene.fetch_one("SELECT min(record_timestamp) FROM dead_letters").await;
    assert!(stamp >= before && stamp <= OffsetDateTime::now_utc(), "{stamp}");

    worker.counted("dead_lettered", cases.len()).await;
    worker.counted("applied", cases.len() + 1).await;
    let reasons: Vec<(String, i64)> =
        scene.fetch_all("SELECT reason, count(*) FROM dead_letters GROUP BY 1").await;
    assert_eq!(reasons.len(), 11, "all but rejected_by_database");
    for (reason, records) in reasons {
        let counted =
            worker.metric("user_events_dead_letters_total", &format!("reason=\"{reason}\"")).await;
        assert_eq!(counted, records as f64, "{reason}");
    }
    faults.into_iter().for_each(Fault::over);
}

/// The record at this offset is kept as it was sent.
async fn kept(scene: &Scene, offset: usize, event: &EventBuilder, name: &str) {
    type Kept = (Option<Vec<u8>>, i32, Option<Vec<u8>>, i32, Value);
    let (key, key_length, value, value_length, headers): Kept = scene
        .fetch_one(&format!(
            "SELECT key, key_length, value, value_length, headers FROM dead_letters
             WHERE kafka_offset = {offset}"
        ))
        .await;
    let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len) as i32;
    let head = |bytes: Option<Vec<u8>>| bytes.map(|bytes| bytes[..bytes.len().min(4096)].to_vec());
    assert_eq!(key_length, length(&event.key), "{name}: key");
    assert_eq!(value_length, length(&event.value()), "{name}: value");
    assert_eq!(key, head(event.key.clone()), "{name}: key");
    assert_eq!(value, event.value(), "{name}: value");
    assert_eq!(headers, headers_of(event), "{name}: headers");
}

#[tokio::test]
async fn above_its_cap_a_part_is_kept_as_head_length_and_hash() {
    let scene = Scene::new(1).await;
    let bad = event("-", "1", "login")
        .raw(Some(b"0123456789-value"))
        .key(Some(b"0123456789-key"))
        .header("a", Some(b"0123"))
        .header("b", Some(b"0123456789"))
        .header("c", None);
    let within = bad.clone().raw(Some(b"01234567")).key(Some(b"01234567"));
    scene.send(&[bad, EventBuilder { headers: vec![], ..within }]).await;
    let caps = ["KEY", "VALUE", "HEADER"];
    let worker = caps.iter().fold(scene.worker(), |worker, part| {
        worker.set(&format!("DEAD_LETTERS__MAX_{part}_BYTES"), "8")
    });
    let _worker = worker.start().await;
    scene.caught_up().await;

    type Part = (Option<Vec<u8>>, i32, Option<Vec<u8>>);
    let part = async |name: &str, offset: i64| {
        let columns = format!("{name}, {name}_length, {name}_sha256");
        let sql = format!("SELECT {columns} FROM dead_letters WHERE kafka_offset = {offset}");
        scene.fetch_one::<Part>(&sql).await
    };
    let whole = |bytes: &[u8]| Some(Sha256::digest(bytes).to_vec());
    let head = Some(b"01234567".to_vec());
    assert_eq!(part("key", 0).await, (head.clone(), 14, whole(b"0123456789-key")));
    assert_eq!(part("value", 0).await, (head.clone(), 16, whole(b"0123456789-value")));
    assert_eq!(part("key", 1).await, (head.clone(), 8, None), "at the cap it is whole");
    assert_eq!(part("value", 1).await, (head, 8, None), "at the cap it is whole");

    let (headers, length, hashed): (Value, i32, bool) = scene
        .fetch_one("SELECT headers, headers_length, headers_sha256 IS NOT NULL FROM dead_letters WHERE kafka_offset = 0")
        .await;
    assert_eq!(headers, json!([{"name": "a", "value": BASE64.encode("0123")}]));
    assert_eq!((length, hashed), (17, true));
}

#[tokio::test]
async fn a_dead_letter_read_again_counts_a_sighting_and_adds_no_row() {
    let scene = Scene::new(1).await;
    scene.send(&[good(1), event("-", "1", "login").raw(Some(b"{")), good(2)]).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    let kept = "SELECT d.reason, d.detail, d.value, d.first_seen_at, d.times_seen,
                       d.last_seen_at > d.first_seen_at FROM dead_letters d";
    type Row = (String, String, Vec<u8>, OffsetDateTime, i32, bool);
    let before: Vec<Row> = scene.fetch_all(kept).await;
    assert_eq!((before.len(), before[0].4, before[0].5), (1, 1, false));
    for sightings in 2..=3 {
        scene.rewind().await;
        scene.caught_up().await;
        let mut expected = before.clone();
        (expected[0].4, expected[0].5) = (sightings, true);
        assert_eq!(scene.fetch_all::<Row>(kept).await, expected);
    }
    worker.counted("dead_lettered", 3).await;
}

/// A worker over 400 good events with six that `refuse` (SQL, run once migrated) makes Postgres
/// refuse: exactly those are dead letters, with this SQLSTATE and mention.
async fn refused(refuse: &str, sqlstate: &str, mention: &str) -> (Scene, Worker) {
    let guilty = [0, 1, 77, 200, 201, 405];
    let scene = Scene::new(1).await;
    scene.migrate().await;
    scene.execute(refuse).await;
    let events: Vec<EventBuilder> = (0..406)
        .map(|n| {
            // The guilty have users of their own: later events of the same batch would mend theirs.
            let user = if guilty.contains(&n) { n } else { n % 10 + 1000 };
            let event = event(&format!("u{user}"), &n.to_string(), "user.updated");
            decorated(event.data(&format!(r#"{{"guilty":{}}}"#, guilty.contains(&n))))
        })
        .collect();
    scene.send(&events).await;
    // Were more blamed than are guilty, this is to show it, and no circuit breaker to hide it.
    let worker = scene
        .worker()
        .set("BATCH__LINGER", "1s")
        .set("DEAD_LETTERS__BREAKER_CONSECUTIVE", "0")
        .set("DEAD_LETTERS__BREAKER_RATIO", "0")
        .start()
        .await;
    scene.caught_up().await;
    let letters: Vec<(i64, String, String, Option<String>)> = scene
        .fetch_all(
            "SELECT kafka_offset, reason, detail, sqlstate FROM dead_letters ORDER BY kafka_offset",
        )
        .await;
    let offsets: Vec<i64> = letters.iter().map(|letter| letter.0).collect();
    assert_eq!(offsets, guilty.map(|n| n as i64));
    for (_, reason, detail, state) in &letters {
        assert_eq!((reason.as_str(), state.as_deref()), ("rejected_by_database", Some(sqlstate)));
        assert!(detail.contains(mention) && detail.contains(sqlstate), "{detail}");
    }
    for n in guilty {
        kept(&scene, n, &events[n], "refused").await;
    }
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, 400);
    assert_eq!(scene.count("SELECT sum(event_count)::bigint FROM users").await, 400);
    worker.counted("applied", 400).await;
    worker.counted("dead_lettered", 6).await;
    (scene, worker)
}

#[tokio::test]
async fn exactly_the_events_a_check_of_the_ledger_refuses_are_dead_letters() {
    let check = "ALTER TABLE user_events ADD CONSTRAINT innocent CHECK (data->>'guilty' = 'false')";
    refused(check, "23514", "innocent").await;
}

#[tokio::test]
async fn exactly_the_events_a_trigger_refuses_are_dead_letters() {
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.data->>'guilty' = 'true' THEN
                RAISE 'this one not' USING ERRCODE = '22023', DETAIL = 'canary';
            END IF;
            RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON user_events FOR EACH ROW EXECUTE FUNCTION refuse()";
    let (scene, worker) = refused(trigger, "22023", "this one not").await;
    // The server's DETAIL quotes rows.
    let canary = "SELECT count(*) FROM dead_letters WHERE detail LIKE '%canary%'";
    assert_eq!(scene.count(canary).await, 0);
    assert!(!worker.log().contains("canary"));
}

#[tokio::test]
async fn exactly_the_events_a_check_of_the_users_refuses_are_dead_letters() {
    let check = "ALTER TABLE users ADD CONSTRAINT innocent CHECK (profile->>'guilty' = 'false')";
    refused(check, "23514", "innocent").await;
}

/// A user, then a tombstone under that user's key, then another user.
async fn tombstone(mode: &str) -> (Scene, Worker) {
    let scene = Scene::new(1).await;
    let ann = event("ann", "1", "user.created").data(r#"{"n":1}"#);
    let tombstone = event("ann", "2", "-").raw(None).header("h", Some(b"v"));
    scene.send(&[ann, tombstone, event("bob", "3", "user.created")]).await;
    let worker = scene.worker().set("EVENTS__TOMBSTONES", mode).start().await;
    scene.caught_up().await;
    assert_eq!(scene.count("SELECT count(*) FROM users WHERE user_id = 'bob'").await, 1);
    (scene, worker)
}

const ANN: &str = "SELECT profile, deleted_at, event_count FROM users WHERE user_id = 'ann'";
type Ann = (Value, Option<OffsetDateTime>, i64);

#[tokio::test]
async fn a_tombstone_is_a_dead_letter_unless_configured_otherwise() {
    let (scene, worker) = tombstone("dead_letter").await;
    assert_eq!(scene.fetch_one::<Ann>(ANN).await, (json!({"n": 1}), None, 1));
    let letters: Vec<(i64, String)> =
        scene.fetch_all("SELECT kafka_offset, reason FROM dead_letters WHERE value IS NULL").await;
    assert_eq!(letters, [(1, "empty_value".to_owned())]);
    worker.counted("dead_lettered", 1).await;
}

#[tokio::test]
async fn a_tombstone_may_be_skipped_and_counts_as_that() {
    let (scene, worker) = tombstone("skip").await;
    assert_eq!(scene.fetch_one::<Ann>(ANN).await, (json!({"n": 1}), None, 1));
    assert_eq!(scene.count("SELECT count(*) FROM dead_letters").await, 0);
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, 2);
    worker.counted("skipped", 1).await;
    worker.counted("applied", 2).await;
}

#[tokio::test]
async fn a_tombstone_may_delete_the_user_once_at_the_records_time() {
    let (scene, worker) = tombstone("delete").await;
    let rows: Vec<(String, String, String, OffsetDateTime)> = scene
        .fetch_all(
            "SELECT user_id, type, source, occurred_at FROM user_events WHERE kafka_offset = 1",
        )
        .await;
    let [(user, kind, source, at)] = rows.as_slice() else { panic!("{rows:?}") };
    let expected = ("ann", "user.deleted", format!("kafka:{}", scene.topic));
    assert_eq!((user.as_str(), kind.as_str(), source.clone()), expected);
    assert_eq!((at.microsecond() % 1000, ago(Duration::minutes(2)) < *at), (0, true));
    let deleted = (json!({}), Some(*at), 2);
    assert_eq!(scene.fetch_one::<Ann>(ANN).await, deleted);

    // Its id and time come from its position: read again, it is the same deletion.
    scene.rewind().await;
    scene.caught_up().await;
    assert_eq!(scene.fetch_one::<Ann>(ANN).await, deleted);
    worker.counted("duplicate", 3).await;
    assert_eq!(scene.count("SELECT count(*) FROM dead_letters").await, 0);
}
