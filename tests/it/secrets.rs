//! Canaries: no secret and no personal data in anything that leaves the worker but its tables.

use time::OffsetDateTime;
use user_events_worker::app::session_options;
use user_events_worker::apply::verdict::Verdict;
use user_events_worker::apply::{ApplyError, Batch, Caps, Content, DeadLetter, WriterOptions};
use user_events_worker::config::Config;
use user_events_worker::event::{Decoded, Header, RawRecord, Reason, Rejection, Rules, Tombstones};
use user_events_worker::types::{RecordOffset, TopicPartition};

use crate::support::{EventBuilder, Scene, WorkerBuilder, event, eventually};

/// In every canary, and in nothing else.
const CANARY: &str = "kanarie";

#[track_caller]
fn clean(what: &str, text: &str) {
    let found = text.lines().find(|line| line.to_lowercase().contains(CANARY));
    assert_eq!(found, None, "a canary in {what}");
}

fn with_password(database_url: &str) -> String {
    let (user, rest) = database_url.split_once('@').expect("a user in DATABASE_URL");
    let user = user.rsplit_once(':').filter(|(u, _)| u.contains("//")).map_or(user, |(u, _)| u);
    format!("{user}:kanarie-database@{rest}")
}

/// Secrets wherever the configuration takes them without TLS or SASL, and everything logged.
fn secretive(scene: &Scene) -> WorkerBuilder {
    let keystore = "KAFKA__LIBRDKAFKA__SSL_KEYSTORE_PASSWORD";
    scene
        .worker()
        .set("POSTGRES__URL", &with_password(&scene.database_url))
        .set("KAFKA__SASL_USERNAME", "ann")
        .set("KAFKA__SASL_PASSWORD", "kanarie-sasl")
        .set(keystore, "kanarie-keystore")
        .set("EVENTS__MAX_RECORD_BYTES", "100KB")
        .set("LOG__LEVEL", "info,user_events_worker=trace")
}

/// An event full of personal data.
fn personal(id: &str) -> EventBuilder {
    event("kanarie-user", id, "user.created")
        .data(r#"{"email":"kanarie@example.org","age":"kanarie"}"#)
        .header("x-token", Some(b"kanarie-header"))
        .with("kanarieext", "kanarie-extension")
}

/// Records that break the contract in every way decoding may complain about.
fn malformed() -> Vec<EventBuilder> {
    let bad = |value: &[u8]| personal("bad").raw(Some(value));
    vec![
        bad(b"kanarie"),
        bad(b"\"kanarie\""),
        bad(b"{\"kanarie\":\"\xff\"}"),
        bad(br#"{"kanarie":"kanarie"}"#),
        personal("bad").raw(None),
        personal("bad").without("type").with("kanarie", "kanarie"),
        personal("bad").time("kanarie"),
        personal("bad").time("1999-01-01T00:00:00Z"),
        personal("bad").with("sequence", "kanarie"),
        personal("bad").with("specversion", "kanarie"),
        personal("bad").with("id", ""),
        personal("bad").with("subject", "kanarie".repeat(100)),
        personal("bad").data(r#"["kanarie"]"#),
        personal("bad").data(r#"{"kanarie":"\u0000"}"#),
        personal("bad").data(r#"{"kanarie":"\ud800"}"#),
        personal("bad").data(r#"{"kanarie":1e999999}"#),
        personal("bad").data(&format!("{}1{}", "{\"kanarie\":".repeat(300), "}".repeat(300))),
        personal("bad").data(&format!("{{\"a\":\"{}\"}}", "kanarie".repeat(20_000))),
        personal("bad").binary().with("time", "kanarie"),
        personal("bad").binary().data("kanarie"),
        personal("bad").without("source").binary().header("ce_source", Some(b"\xffkanarie")),
    ]
}

#[tokio::test]
async fn what_records_and_secrets_hold_shows_up_nowhere() {
    let scene = Scene::new(1).await;
    scene.migrate().await;
    // Refusals whose DETAIL, and of the cast even the message, would show the row.
    scene
        .execute(
            "ALTER TABLE users ADD CONSTRAINT refused CHECK (user_id NOT LIKE '%refused');
             CREATE INDEX ON users (((profile->>'number')::int));",
        )
        .await;
    let worker = secretive(&scene).start().await;
    scene.send(&[personal("good"), personal("binary").binary()]).await;
    let malformed = malformed();
    scene.send(&malformed).await;
    scene
        .send(&[
            personal("check").with("subject", "kanarie-refused"),
            personal("cast").data(r#"{"number":"kanarie"}"#),
        ])
        .await;
    scene.caught_up().await;
    let letters: Vec<(String, String)> =
        scene.fetch_all("SELECT reason, detail FROM dead_letters ORDER BY kafka_offset").await;
    assert_eq!(letters.len(), malformed.len() + 2, "{letters:#?}");
    for (reason, detail) in &letters {
        clean(&format!("the detail of {reason}"), detail);
    }
    assert_eq!(letters.iter().filter(|(r, _)| r == "rejected_by_database").count(), 2);

    // An error that holds the batch, and is reported loudly.
    scene
        .execute(
            "CREATE UNIQUE INDEX one_mail ON users ((profile->>'email'));
             DROP INDEX users_int4_idx",
        )
        .await;
    scene.send(&[personal("twice").with("subject", "kanarie-other")]).await;
    let status = eventually("the batch is held", async || {
        let (_, status) = worker.get("/status").await;
        status.contains("one_mail").then_some(status)
    })
    .await;
    clean("/status", &status);
    let (_, page) = worker.get("/metrics").await;
    clean("/metrics", &page);
    clean("/readyz", &worker.get("/readyz").await.1);
    scene.execute("DROP INDEX one_mail").await;
    scene.caught_up().await;

    let log = worker.log();
    assert!(log.contains("[redacted]"), "the configuration is logged: {log}");
    assert!(log.contains("unique constraint"), "the refusal is logged: {log}");
    clean("the log", &log);
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    let (code, log) = worker.exited_with_log().await;
    assert_eq!(code, Some(0));
    clean("the log at the end", &log);
}

#[tokio::test]
async fn commands_and_failed_starts_show_no_secret() {
    let scene = Scene::new(1).await;
    let away = with_password("postgres://ann@127.0.0.1:1/none");
    let refused = || {
        let secret = "KAFKA__LIBRDKAFKA__SASL_OAUTHBEARER_CLIENT_SECRET";
        secretive(&scene).set(secret, "kanarie-oauth")
    };
    let builders = [
        ("check", secretive(&scene).command(&["check"])),
        ("migrate", secretive(&scene).command(&["migrate"])),
        ("check of a ready schema", secretive(&scene).command(&["check"])),
        ("offsets", secretive(&scene).command(&["offsets"])),
        (
            "offsets without postgres",
            secretive(&scene).set("POSTGRES__URL", &away).command(&["offsets"]),
        ),
        (
            "check without postgres",
            secretive(&scene).set("POSTGRES__URL", &away).command(&["check"]),
        ),
        (
            "migrate without postgres",
            secretive(&scene).set("POSTGRES__URL", &away).command(&["migrate"]),
        ),
        (
            "a url that is none",
            secretive(&scene).set("POSTGRES__URL", "kanarie://kanarie:kanarie@h/d"),
        ),
        (
            "a password with an @",
            secretive(&scene)
                .set("POSTGRES__URL", "postgres://ann:1/kan@kanarie@h/d")
                .command(&["check"]),
        ),
        (
            "a schema that is none",
            secretive(&scene).set("POSTGRES__SCHEMA", "No").command(&["run"]),
        ),
        (
            "a passphrase without tls",
            secretive(&scene).set("KAFKA__SSL_KEY_PASSWORD", "kanarie-key"),
        ),
        ("a secret librdkafka refuses", refused().command(&["check"])),
        ("a secret misspelt", secretive(&scene).set("KAFKA__SASL_PASWORD", "kanarie-misspelt")),
        ("a secret file that is none", secretive(&scene).set("POSTGRES__URL_FILE", "/kanarie")),
        (
            "a tls key that is none",
            secretive(&scene)
                .set("KAFKA__SECURITY_PROTOCOL", "sasl_ssl")
                .set("KAFKA__SASL_MECHANISM", "PLAIN")
                .set("KAFKA__LIBRDKAFKA__SSL_KEY_PEM", "kanarie-pem")
                .set("KAFKA__LIBRDKAFKA__SSL_CERTIFICATE_PEM", "kanarie-pem")
                .set("KAFKA__SSL_KEY_PASSWORD", "kanarie-key")
                .command(&["check"]),
        ),
        (
            "a proof without postgres",
            secretive(&scene).set("POSTGRES__URL", &away).command(&["prove"]),
        ),
        ("a proof with a secret librdkafka refuses", refused().command(&["prove"])),
        ("produce with a secret librdkafka refuses", refused().command(&["produce"])),
        (
            "a topic with a secret librdkafka refuses",
            refused().command(&["produce", "--create-topic", "1"]),
        ),
    ];
    for (what, builder) in builders {
        let (_, stdout, stderr) = builder.output().await;
        assert!(!(stdout.is_empty() && stderr.is_empty()), "{what} says something");
        clean(what, &stdout);
        clean(what, &stderr);
    }
}

#[test]
fn debug_output_shows_neither_secrets_nor_records() {
    let variables = [
        ("WORKER_POSTGRES__URL", "postgres://ann:kanarie@127.0.0.1/d"),
        ("WORKER_KAFKA__SASL_PASSWORD", "kanarie"),
        ("WORKER_KAFKA__LIBRDKAFKA__SSL_KEYSTORE_PASSWORD", "kanarie"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(None, variables.into_iter()).unwrap();
    clean("the configuration", &format!("{config:?} {config} {}", config.redacted_dump()));
    let session = session_options(&config.postgres).unwrap();
    clean("session options", &format!("{session:?}"));
    let caps = Caps { key: 10, value: 10, headers: 10 };
    let writer = WriterOptions { session, group: "g".into(), worker: "w".into(), caps };
    clean("writer options", &format!("{writer:?}"));

    let record = |event: EventBuilder| RawRecord {
        source: TopicPartition::new("t", 0),
        offset: RecordOffset(0),
        timestamp_ms: None,
        key: event.key.clone().map(Into::into),
        value: event.value().map(Into::into),
        headers: vec![Header { name: "kanarie".into(), value: Some("kanarie".into()) }],
    };
    let rules = Rules {
        max_record_bytes: 100_000,
        max_future: std::time::Duration::from_secs(3600),
        retention: std::time::Duration::from_secs(86_400),
        tombstones: Tombstones::DeadLetter,
    };
    let mut batch = Batch::default();
    for event in [vec![personal("good")], malformed()].concat() {
        let raw = record(event);
        clean("a raw record", &format!("{raw:?}"));
        let decoded = user_events_worker::event::decode(&raw, &rules, OffsetDateTime::now_utc());
        clean("a decoded record", &format!("{decoded:?}"));
        let content = match decoded {
            Decoded::Event(event) => Content::Event(event, raw),
            Decoded::Rejected(rejection) => {
                clean("a rejection", &rejection.to_string());
                Content::DeadLetter(Box::new(DeadLetter::new(raw, rejection, caps)))
            }
            Decoded::Skipped => Content::Skipped,
        };
        let record = user_events_worker::apply::Fingerprint {
            offset: RecordOffset(0),
            timestamp_ms: -1,
            checksum: 0,
        };
        batch.items.push(user_events_worker::apply::Item { range: 0, record, content });
    }
    clean("a batch", &format!("{batch:?}"));
    let rejection = Rejection::new(Reason::TooLarge, "");
    let letter = DeadLetter::new(record(personal("x")), rejection, caps);
    clean("a dead letter", &format!("{letter:?}"));
}

#[tokio::test]
async fn an_error_of_postgres_shows_no_row_however_it_is_printed() {
    let scene = Scene::new(1).await;
    let mut conn = scene.db().await;
    let sql =
        "CREATE TEMP TABLE t (a text CHECK (a <> 'kanarie')); INSERT INTO t VALUES ('kanarie')";
    let source = sqlx::raw_sql(sql).execute(&mut conn).await.unwrap_err();
    assert!(format!("{source:?}").contains(CANARY), "sqlx itself would show it");
    let error = ApplyError { verdict: Verdict::Data, step: "users", source };
    clean("an error", &format!("{error} {error:?}"));
    clean("a chain of errors", &format!("{:#}", anyhow::Error::from(error)));
}
