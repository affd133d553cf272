//! The watch on progress: a stall without a reason is told, tried to mend, and then given up; an
//! outage, a lock or a halted partition is none.
//!
//! The stall is a real one. librdkafka postpones a partition's next fetch when its queue is full;
//! here it is full at a few records, and postponed for five minutes: the consumer sits still over
//! records that wait, in good health.

use crate::recovery::{halted, ready};
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

/// .. once so many records are in its queue.
fn that_stops_fetching(worker: WorkerBuilder, at: usize) -> WorkerBuilder {
    worker
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
    send(&scene, 0, 500).await;
    scene.progresses(1).await;
    // The new consumer will find fewer than would stop it, too.
    send(&scene, 500, 550).await;
    eventually("the consumer is made anew", async || {
        assert_eq!(worker.get("/livez").await.0, 200, "that must do");
        (worker.metric(ACTIONS, REBUILD).await >= 1.0).then_some(())
    })
    .await;
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
    let worker = scene.worker().start().await;
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
