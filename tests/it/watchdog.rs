//! The watch on progress: a stall without a reason is told, tried to mend, and then given up; an
//! outage, a lock, a halted partition or a frozen process is none.
//!
//! The stall of a whole worker is a real one. librdkafka postpones a partition's next fetch when its queue is full;
//! here it is full at a few records, and postponed for five minutes: the consumer sits still over
//! records that wait, in good health.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::recovery::{halted, ready, row};
use crate::support::{Scene, Service, Services, Worker, WorkerBuilder, event, eventually};

const ACTIONS: &str = "user_events_watchdog_actions_total";
const REBUILD: &str = "action=\"rebuild\"";
const GIVE_UP: &str = "action=\"give_up\"";

/// A worker that is impatient, and gives Postgres little time accordingly.
fn impatient(scene: &Scene) -> WorkerBuilder {
    scene
        .worker()
        .set("WATCH__PROGRESS", "4s")
        .set("POSTGRES__STATEMENT_TIMEOUT", "1500ms")
        .set("POSTGRES__LOCK_TIMEOUT", "500ms")
}

/// .. once so many records are in its queue: they come in one answer, or it might take some before
/// the others have come.
fn that_stops_fetching(worker: WorkerBuilder, at: usize) -> WorkerBuilder {
    worker
        .set("KAFKA__LIBRDKAFKA__FETCH_MIN_BYTES", &(at * 200).to_string())
        .set("KAFKA__LIBRDKAFKA__QUEUED_MIN_MESSAGES", &at.to_string())
        .set("KAFKA__LIBRDKAFKA__FETCH_QUEUE_BACKOFF_MS", "300000")
}

async fn send(scene: &Scene, from: usize, to: usize) {
    let one = |n: usize| {
        let partition = n as i32 % scene.partitions;
        event(&format!("u{partition}"), &n.to_string(), "user.visited").to(partition)
    };
    scene.send(&(from..to).map(one).collect::<Vec<_>>()).await;
}

async fn each_applied_once(scene: &Scene, events: i64) {
    scene.caught_up().await;
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, events);
    assert_eq!(scene.count("SELECT sum(event_count)::bigint FROM users").await, events);
}

/// Waits until the worker is so many seconds older.
async fn grows_older(worker: &Worker, by: u64) {
    let uptime = async || worker.status().await["uptime_seconds"].as_u64().unwrap();
    let target = uptime().await + by;
    eventually("the worker grows older", async || (uptime().await >= target).then_some(())).await;
}

#[tokio::test]
async fn a_consumer_that_stops_fetching_is_renewed_and_reads_on() {
    let scene = Scene::new(1).await;
    let worker = that_stops_fetching(impatient(&scene), 100).start().await;
    worker.holds(1).await;
    let fault = scene.fault(11, "a consumer that stops fetching, until it is renewed");
    send(&scene, 0, 500).await;
    scene.progresses(1).await;
    // The new consumer will find fewer than would stop it, too.
    send(&scene, 500, 550).await;
    eventually("the consumer is made anew", async || {
        assert_eq!(worker.get("/livez").await.0, 200, "that must do");
        (worker.metric(ACTIONS, REBUILD).await >= 1.0).then_some(())
    })
    .await;
    fault.ends(&scene).await;
    each_applied_once(&scene, 550).await;
    worker.holds(1).await;
    assert_eq!(worker.metric(ACTIONS, GIVE_UP).await, 0.0);
    assert!(worker.metric("user_events_rebalances_total", "event=\"assigned\"").await >= 2.0);

    let log = worker.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("nothing is applied")).collect();
    assert_eq!(told.len() as f64, worker.metric(ACTIONS, REBUILD).await, "once each");
    let dump: serde_json::Value = serde_json::from_str(told[0]).unwrap();
    let status: serde_json::Value = serde_json::from_str(dump["status"].as_str().unwrap()).unwrap();
    let row = &status["partitions"][0];
    assert_eq!((&dump["level"], &row["state"]), (&"ERROR".into(), &"reading".into()));
    assert!(row["lag_records"].as_i64().is_some_and(|lag| lag >= 50), "{dump}");
    assert!(dump["queues"].as_str().is_some_and(|queues| queues.contains("(0, 0)")), "{dump}");
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_stall_that_rejoining_does_not_end_fails_livez_until_a_restart() {
    let scene = Scene::new(4).await;
    send(&scene, 0, 4).await;
    let worker = scene.worker().start().await;
    each_applied_once(&scene, 4).await;
    assert_eq!(worker.stop().await, Some(0));
    for round in 1..20 {
        send(&scene, 4 * round, 4 * (round + 1)).await;
    }
    // One of those to a fetch: every new consumer gets the last records applied, to be compared
    // and passed over, and is full.
    let worker = that_stops_fetching(impatient(&scene), 1)
        .set("KAFKA__LIBRDKAFKA__FETCH_MESSAGE_MAX_BYTES", "1")
        .start()
        .await;
    let fault = scene.fault(11, "a consumer that stops fetching again and again");
    let reason = eventually("liveness fails", async || {
        let (code, reason) = worker.get("/livez").await;
        (code == 503).then_some(reason)
    })
    .await;
    assert!(reason.contains("nothing is applied") && reason.contains("did not help"), "{reason}");
    assert!(worker.metric(ACTIONS, REBUILD).await >= 1.0, "not before that was tried");
    assert!(worker.metric(ACTIONS, GIVE_UP).await >= 1.0);

    // What an orchestrator does then.
    worker.kill().await;
    let worker = fault.ends_with(&scene.worker(), &scene).await;
    each_applied_once(&scene, 80).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn neither_a_lock_nor_a_halted_partition_is_a_stall() {
    let scene = Scene::new(2).await;
    let worker = impatient(&scene).set("DEAD_LETTERS__BREAKER_CONSECUTIVE", "1").start().await;
    worker.holds(2).await;
    scene.send(&[event("u", "x", "x").raw(Some(b"no json")).to(0)]).await;
    halted(&worker, &scene, 0).await;
    grows_older(&worker, 9).await;
    assert_eq!(worker.metric("user_events_lag_records", "partition=\"0\"").await, 1.0);
    assert_eq!(worker.metric(ACTIONS, "").await, 0.0, "halted");

    let users = scene.hold("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
    scene.send(&[event("u", "1", "user.visited").to(1)]).await;
    eventually("the batch loses against the lock", async || {
        (worker.metric("user_events_apply_errors_total", "kind=\"retry\"").await >= 1.0)
            .then_some(())
    })
    .await;
    grows_older(&worker, 9).await;
    assert_eq!(worker.metric("user_events_lag_records", "partition=\"1\"").await, 1.0);
    assert_eq!(worker.metric(ACTIONS, "").await, 0.0, "locked out");
    assert_eq!(worker.get("/livez").await.0, 200);
    users.release().await;
    eventually("the batch goes through", async || {
        (scene.positions().await?.get(&1) == Some(&1)).then_some(())
    })
    .await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_an_outage_of_postgres_is_no_stall() {
    let services = Services::start(&[Service::Postgres]).await;
    let brokers = std::env::var("KAFKA_BOOTSTRAP_SERVERS").unwrap();
    let scene = Scene::on(&brokers, services.database_url(), 1).await;
    let worker = impatient(&scene).start().await;
    send(&scene, 0, 10).await;
    each_applied_once(&scene, 10).await;
    services.stop_postgres_immediate().await;
    send(&scene, 10, 20).await;
    eventually("records wait", async || {
        (worker.metric("user_events_lag_records", "").await == 10.0).then_some(())
    })
    .await;
    grows_older(&worker, 9).await;
    assert_eq!(worker.metric(ACTIONS, "").await, 0.0);
    assert_eq!(worker.get("/livez").await.0, 200);
    services.start_postgres().await;
    each_applied_once(&scene, 20).await;
    ready(&worker).await;
    assert_eq!(worker.stop().await, Some(0));
}

/// How long a partition has stood, as the worker tells.
async fn standing(worker: &Worker, scene: &Scene, partition: i32) -> Option<u64> {
    row(worker, &scene.topic, partition).await?["standing_seconds"].as_u64()
}

#[tokio::test]
async fn one_partition_that_stands_while_the_others_flow_is_named_and_given_up() {
    let scene = Scene::new(4).await;
    let worker = impatient(&scene)
        .set("WATCH__PROGRESS", "8s")
        .failpoint("lost-delivery=return")
        .start()
        .await;
    worker.holds(4).await;
    send(&scene, 0, 4).await;
    let mut rounds = 1;
    let mut others_flow = async || {
        send(&scene, 4 * rounds + 1, 4 * rounds + 4).await;
        rounds += 1;
    };
    eventually("the status tells who stands", async || {
        others_flow().await;
        let stands = standing(&worker, &scene, 0).await.filter(|stands| *stands >= 4)?;
        for partition in 1..4 {
            let other = standing(&worker, &scene, partition).await?;
            assert!(other < stands, "partition {partition} stands for {other} s");
        }
        Some(())
    })
    .await;
    eventually("the group is joined anew", async || {
        others_flow().await;
        assert_eq!(worker.get("/livez").await.0, 200, "not before that was tried");
        (worker.metric(ACTIONS, REBUILD).await >= 1.0).then_some(())
    })
    .await;
    let reason = eventually("liveness fails", async || {
        others_flow().await;
        let (code, reason) = worker.get("/livez").await;
        (code == 503).then_some(reason)
    })
    .await;
    let name = format!("{}[0]", scene.topic);
    assert!(reason.starts_with(&format!("{name}: records wait")), "only this one: {reason}");
    assert_eq!(worker.metric(ACTIONS, REBUILD).await, 1.0);
    assert_eq!(worker.metric(ACTIONS, GIVE_UP).await, 1.0);
    let log = worker.log();
    for told in ["nothing is applied", "did not help"] {
        let line = log.lines().find(|line| line.contains(told)).unwrap();
        let dump: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(dump["standing"], name.as_str(), "{told}");
    }

    worker.kill().await;
    let worker = scene.worker().start().await;
    each_applied_once(&scene, 4 + 3 * (rounds as i64 - 1)).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_worker_frozen_for_longer_than_its_patience_was_not_waiting_meanwhile() {
    let scene = Scene::new(1).await;
    let worker = that_stops_fetching(impatient(&scene), 100)
        .set("WATCH__PROGRESS", "8s")
        // The group is not to notice.
        .set("KAFKA__SESSION_TIMEOUT", "30s")
        .start()
        .await;
    worker.holds(1).await;
    send(&scene, 0, 500).await;
    scene.progresses(1).await;
    send(&scene, 500, 550).await;
    eventually("records wait", async || {
        standing(&worker, &scene, 0).await.filter(|stands| *stands >= 2)
    })
    .await;
    worker.signal(Signal::SIGSTOP);
    // This is the fault itself.
    tokio::time::sleep(Duration::from_secs(10)).await;
    worker.signal(Signal::SIGCONT);
    grows_older(&worker, 2).await;
    assert_eq!(worker.metric(ACTIONS, "").await, 0.0, "it had no time to read");
    assert!(!worker.log().contains("rejoining"));
    each_applied_once(&scene, 550).await;
    assert_eq!(worker.get("/livez").await.0, 200);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_an_outage_of_kafka_is_no_stall() {
    let services = Services::start(&[Service::Kafka]).await;
    let database_url = std::env::var("DATABASE_URL").unwrap();
    let scene = Scene::on(services.brokers(), &database_url, 2).await;
    for round in 0..100 {
        send(&scene, 100 * round, 100 * (round + 1)).await;
    }
    scene.migrate().await;
    scene
        .execute(
            "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_sleep(0.1); RETURN NULL; END $$;
             CREATE TRIGGER nap BEFORE INSERT ON users
             FOR EACH STATEMENT EXECUTE FUNCTION nap()",
        )
        .await;
    // What is fetched ahead is soon applied; the rest waits in the log. The worker stays in the
    // group meanwhile: what it no longer has cannot stand.
    let worker = impatient(&scene)
        .set("KAFKA__SESSION_TIMEOUT", "60s")
        .set("BATCH__LANES", "1")
        .set("BATCH__MAX_EVENTS", "100")
        .set("KAFKA__LIBRDKAFKA__FETCH_MESSAGE_MAX_BYTES", "1")
        .set("KAFKA__LIBRDKAFKA__QUEUED_MIN_MESSAGES", "1")
        .start()
        .await;
    scene.progresses(100).await;
    services.kill_kafka().await;
    eventually("all that was fetched is applied", async || {
        let before = scene.progress().await;
        grows_older(&worker, 1).await;
        (scene.progress().await == before).then_some(())
    })
    .await;
    grows_older(&worker, 9).await;
    for partition in 0..2 {
        let row = row(&worker, &scene.topic, partition).await.unwrap();
        assert_eq!(row["state"], "reading", "it should be moving: {row}");
    }
    assert!(worker.metric("user_events_lag_records", "").await > 0.0);
    assert_eq!(worker.metric(ACTIONS, "").await, 0.0);
    assert_eq!(worker.get("/livez").await.0, 200);
    services.start_kafka().await;
    scene.execute("DROP TRIGGER nap ON users").await;
    each_applied_once(&scene, 10_000).await;
    assert_eq!(worker.get("/livez").await.0, 200);
    assert_eq!(worker.metric(ACTIONS, "").await, 0.0);
    assert_eq!(worker.stop().await, Some(0));
}
