//! `prove`: the operators' own proof passes where everything holds, and is not blind.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use sqlx::Connection;
use user_events_worker::commands::prove::check::{Checked, check};
use user_events_worker::commands::prove::events::{Content, Events};
use user_events_worker::commands::prove::ledger::Ledger;
use user_events_worker::commands::prove::load::{Aborts, Load};
use user_events_worker::commands::prove::reread::Log;

use crate::support::{Scene, eventually, write_down};

/// Topics and schemas of this name.
async fn left_behind(scene: &Scene, name: &str) -> Vec<String> {
    let brokers = scene.brokers.clone();
    let topics = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(10)).unwrap();
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect::<Vec<_>>()
    });
    let schemas: Vec<(String,)> = scene.fetch_all("SELECT nspname::text FROM pg_namespace").await;
    let all = topics.await.unwrap().into_iter().chain(schemas.into_iter().map(|(name,)| name));
    all.filter(|found| found == name).collect()
}

/// What `prove` says of its own workers, held against the promise.
fn measured(report: &Value, faults: &str) {
    let back = Duration::from_secs_f64(report["recovered_after"].as_f64().unwrap());
    let peak_mib = report["peak_memory_kib"].as_u64().unwrap().div_ceil(1024);
    assert!((1..100).contains(&peak_mib), "a worker of prove took {peak_mib} MiB");
    write_down(43, faults, Some(back), Some(peak_mib), None);
}

#[tokio::test]
async fn chaos_prove_passes_on_real_services_with_every_fault_and_removes_what_it_made() {
    let scene = Scene::new(1).await;
    // Another worker on this server, in the middle of something.
    scene.migrate().await;
    let mut bystander = scene.db().await;
    let begin = "SET application_name = 'user-events-worker'; BEGIN; LOCK TABLE users";
    sqlx::raw_sql(begin).execute(&mut bystander).await.unwrap();

    let json = tempfile::NamedTempFile::new().unwrap();
    let path = json.path().to_str().unwrap();
    let faults = "kill,stop,storm,disconnect,deadlock";
    let prove = scene.worker().command(&[
        "prove",
        "--seconds",
        "5",
        "--seed",
        "3",
        "--faults",
        faults,
        "--json",
        path,
    ]);
    let (code, out, log) = prove.output_within(Duration::from_secs(200)).await;
    assert_eq!(code, Some(0), "{out}\n{log}");
    assert!(out.contains("seed 3") && out.contains("PROVEN"), "{out}");
    for evidence in [
        "ended by signal 9",
        "in state T for",
        "waves of 2 workers came",
        "pg_terminate_backend answered true",
        "deadlocks in pg_stat_database",
        "caught up",
    ] {
        assert!(out.contains(evidence), "{evidence}: {out}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((&report["verdict"], &report["seed"]), (&"proven".into(), &3.into()));
    assert_eq!(report["faults"].as_array().unwrap().len(), 5);
    let outcomes = report["outcomes"].as_object().unwrap();
    assert!(outcomes.values().all(|records| records.as_i64().unwrap() > 0), "{report}");
    let sum: i64 = outcomes.values().map(|records| records.as_i64().unwrap()).sum();
    assert_eq!(report["produced"].as_i64(), Some(sum));
    assert!(report["aborted"].as_i64() > Some(0));
    measured(&report, "a random mix: kill, stop, storm, disconnect, deadlock");
    sqlx::raw_sql("COMMIT").execute(&mut bystander).await.expect("others are left alone");
    let name = out.lines().find_map(|line| line.strip_prefix("topic, group and schema: ")).unwrap();
    let name = name.split(';').next().unwrap();
    assert!(name.starts_with("user_events_prove_"), "{name}");
    eventually("topic and schema are gone", async || {
        left_behind(&scene, name).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn chaos_prove_crashes_a_database_of_its_own() {
    let scene = Scene::new(1).await;
    let args = ["prove", "--seconds", "1", "--own-database", "--faults", "database"];
    let (code, out, log) =
        scene.worker().command(&args).output_within(Duration::from_secs(120)).await;
    assert_eq!(code, Some(0), "{out}\n{log}");
    assert!(out.contains("pg_postmaster_start_time"), "{out}");
}

#[tokio::test]
async fn a_proof_that_cannot_be_carried_out_is_inconclusive_and_says_why() {
    let scene = Scene::new(1).await;
    for (args, said) in [
        (&["prove", "--faults", "database"][..], "--own-database"),
        (&["prove", "--workers", "9"], "--partitions"),
    ] {
        let (code, _, log) = scene.worker().command(args).output().await;
        assert_eq!(code, Some(3), "{log}");
        assert!(log.contains(said), "{log}");
    }
    let away = scene.worker().set("POSTGRES__URL", "postgres://nobody@127.0.0.1:1/none");
    let (code, _, log) = away.command(&["prove"]).output().await;
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("inconclusive: connecting to"), "{log}");
}

/// What a proof begins with, on a scene that a test can tamper with.
struct Written {
    scene: Scene,
    ledger: Ledger,
    ends: BTreeMap<i32, i64>,
}

impl Written {
    async fn by_a_worker() -> Self {
        let scene = Scene::new(3).await;
        let brokers = BTreeMap::from([("bootstrap.servers".to_owned(), scene.brokers.clone())]);
        let (user, _) = tokio::sync::mpsc::channel(1);
        let load =
            Load::start(&brokers, &scene.topic, Events::new(1, 3), 2_000, user.clone()).unwrap();
        let aborts = Aborts::start(&brokers, &scene.topic, Events::new(2, 3), user).unwrap();
        let worker = scene.worker().start().await;
        let acknowledged = load.acknowledged();
        eventually("there is something to check", async || {
            (acknowledged.load(std::sync::atomic::Ordering::Relaxed) >= 4_000).then_some(())
        })
        .await;
        let ledger = load.stop().await.unwrap();
        assert!(aborts.stop().await.unwrap() > 0);
        scene.caught_up().await;
        assert_eq!(worker.stop().await, Some(0));
        let ends = scene.ends().await;
        Self { scene, ledger, ends }
    }

    /// What the checker says when the database has been changed like this.
    async fn checked(&self, tampering: &str) -> Checked {
        // Rolled back: the next tampering starts from what is right.
        let mut conn = self.scene.db().await;
        let begin = sqlx::AssertSqlSafe(format!("BEGIN; {tampering}"));
        sqlx::raw_sql(begin).execute(&mut conn).await.unwrap();
        let checked = check(&mut conn, &self.ledger, &self.ends).await.unwrap();
        conn.close().await.unwrap();
        checked
    }

    /// What the reader of the topic says about this account of it.
    async fn differences(&self, ledger: Ledger) -> Vec<String> {
        let properties = BTreeMap::from([
            ("bootstrap.servers".to_owned(), self.scene.brokers.clone()),
            ("group.id".to_owned(), self.scene.group.clone()),
        ]);
        let log = Log::new(&properties, &self.scene.topic, 3).unwrap();
        tokio::task::spawn_blocking(move || log.differences(&ledger).unwrap()).await.unwrap()
    }
}

/// A row of the ledger, the same each time.
const ONE: &str = "event_id = (SELECT min(event_id::text)::uuid FROM user_events)";
const COLUMNS: &str = "received_at, kafka_offset, sequence, kafka_partition, kafka_topic, source, \
                       type, user_id, data FROM user_events WHERE ";
const LETTER: &str = "(kafka_partition, kafka_offset) = \
                      (SELECT kafka_partition, kafka_offset FROM dead_letters ORDER BY 1, 2 LIMIT 1)";

#[tokio::test]
async fn prove_names_whatever_was_tampered_with_in_postgres() {
    let written = Written::by_a_worker().await;
    let checked = written.checked("SELECT").await;
    assert_eq!(checked.wrong, Vec::<String>::new());
    let produced = i64::try_from(written.ledger.len()).unwrap();
    assert_eq!(checked.outcomes.total(), produced);
    for (tampering, named) in [
        (format!("DELETE FROM user_events WHERE {ONE}"), "lost: records without an outcome"),
        (
            format!("INSERT INTO user_events SELECT gen_random_uuid(), occurred_at, {COLUMNS}{ONE}"),
            "nobody produced",
        ),
        (
            format!(
                "INSERT INTO user_events SELECT event_id, occurred_at + interval '1 us', {COLUMNS}{ONE}"
            ),
            "doubled: events in the ledger more than once",
        ),
        (
            format!("UPDATE user_events SET data = '{{\"n\": -1}}' WHERE {ONE}"),
            "differ from what was produced",
        ),
        (
            format!("UPDATE user_events SET kafka_offset = kafka_offset + 1 WHERE {ONE}"),
            "another position",
        ),
        (
            "UPDATE users SET event_count = event_count + 1 WHERE user_id = 'home-0001'".to_owned(),
            "sum of event_count",
        ),
        (
            "UPDATE users SET event_count = event_count + CASE user_id WHEN 'home-0001' THEN 1 ELSE -1 END
             WHERE user_id IN ('home-0001', 'home-0002')"
                .to_owned(),
            "users that differ",
        ),
        (
            "UPDATE users SET profile = profile || '{\"z\": 1}' WHERE user_id = 'home-0001'".to_owned(),
            "users that differ",
        ),
        (
            "UPDATE users SET created_at = created_at - interval '1 us' WHERE user_id = 'a-crossing-0'"
                .to_owned(),
            "users that differ",
        ),
        ("DELETE FROM users WHERE user_id = 'home-0001'".to_owned(), "users that differ"),
        (format!("DELETE FROM dead_letters WHERE {LETTER}"), "lost: records without an outcome"),
        (format!("DELETE FROM dead_letters WHERE {LETTER}"), "without their dead letter"),
        (
            format!("UPDATE dead_letters SET reason = 'too_deep' WHERE {LETTER}"),
            "without their dead letter",
        ),
        (
            format!("UPDATE dead_letters SET kafka_offset = 1000000 WHERE {LETTER}"),
            "keep the contract, or of none",
        ),
        (
            format!(
                "UPDATE dead_letters SET (kafka_partition, kafka_offset) =
                   (SELECT kafka_partition, kafka_offset FROM user_events WHERE {ONE}) WHERE {LETTER}"
            ),
            "doubled: records with more than one outcome",
        ),
        (
            format!("UPDATE dead_letters SET times_seen = 2 WHERE {LETTER}"),
            "doubled: dead letters stored more than once",
        ),
        (
            "UPDATE source_offsets SET next_offset = next_offset - 1 WHERE partition = 1".to_owned(),
            "not the end of the log",
        ),
    ] {
        let wrong = written.checked(&tampering).await.wrong;
        assert!(wrong.iter().any(|line| line.contains(named)), "{tampering}\n{wrong:?}");
    }
}

#[tokio::test]
async fn prove_names_whatever_the_topic_lacks_or_has_too_much() {
    let written = Written::by_a_worker().await;
    assert_eq!(written.differences(written.ledger.clone()).await, Vec::<String>::new());
    let (first, content) = written.ledger.iter().next().unwrap();
    let content: Content = content.clone();
    let other = written.ledger.iter().nth(1).unwrap().1.clone();

    let mut more = written.ledger.clone();
    more.note((first.0, 1_000_000), content).unwrap();
    let found = written.differences(more).await;
    assert!(found[0].starts_with("acknowledged records missing from Kafka: 1 "), "{found:?}");

    let mut less = written.ledger.clone();
    less.forget(first).unwrap();
    let found = written.differences(less.clone()).await;
    assert!(found[0].starts_with("records in Kafka that nobody acknowledged: 1 "), "{found:?}");

    less.note(first, other).unwrap();
    let found = written.differences(less).await;
    assert!(found[0].starts_with("records in Kafka that differ"), "{found:?}");
}
