//! Postgres crashes, is away at the wrong moment, or loses its connections.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::load::{Ledger, Load, applied_at_least};
use super::{no_lag, ready, shared_brokers, shared_postgres, unready, url_with};
use crate::support::{Scene, Service, Services, event, eventually, unique};

const OUTAGES: (&str, &str) = ("user_events_apply_errors_total", r#"kind="outage""#);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_postgres_crash_under_load_is_told_and_overcome() {
    let services = Services::start(&[Service::Postgres]).await;
    let scene = Arc::new(Scene::on(&shared_brokers(), services.database_url(), 4).await);
    let worker = scene.worker().start().await;
    let load = Load::start(&scene);
    worker.holds(4).await;
    applied_at_least(&scene, 200).await;
    let rebalances = worker.metric("user_events_rebalances_total", "").await;

    let fault = scene.fault(26, "postgres crash under load");
    services.stop_postgres_immediate().await;
    assert!(unready(&worker).await.contains("Postgres"), "readiness says what is missing");
    let status = worker.status().await;
    let down = status["postgres"].as_array().unwrap().iter().find(|lane| lane["up"] == false);
    assert_ne!(down.expect("a lane is down")["reason"], "", "and so does the status");
    assert_eq!(worker.metric("user_events_postgres_up", "").await, 0.0);
    // Long enough for the waits to have reached their maximum.
    let errors = worker.metric(OUTAGES.0, OUTAGES.1).await;
    eventually("it keeps trying", async || {
        (worker.metric(OUTAGES.0, OUTAGES.1).await >= errors + 10.0).then_some(())
    })
    .await;
    assert_eq!(worker.get("/livez").await.0, 200, "restarting it would not help");
    assert_eq!(worker.assigned().await, 4, "its partitions are still its own");

    services.start_postgres().await;
    fault.ends(&scene).await;
    load.goes_on(100).await;
    let sent = load.stop().await;
    sent.is_applied(&scene).await;
    sent.is_in_order(&scene).await;
    ready(&worker).await;
    no_lag(&worker, 4).await;
    let after = worker.metric("user_events_rebalances_total", "").await;
    assert_eq!(after, rebalances, "the group noticed nothing");
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_the_group_does_not_wait_for_a_postgres_that_is_away() {
    let services = Services::start(&[Service::Postgres]).await;
    let scene = Arc::new(Scene::on(&shared_brokers(), services.database_url(), 4).await);
    let worker = scene.worker().start().await;
    let mut sent = Ledger::default();
    sent.send(&scene, 200).await;
    worker.holds(4).await;
    sent.is_applied(&scene).await;

    let fault = scene.fault(26, "postgres away while members come and go");
    services.stop_postgres_immediate().await;
    unready(&worker).await;
    // A member comes, goes and comes again: the last can be answered only by a worker that took
    // back, without Postgres, what the first left behind.
    for _ in 0..2 {
        let other = Member::join(&scene).await;
        other.holds(2).await;
        drop(other);
        eventually("the worker has all partitions again", async || {
            (worker.assigned().await == 4).then_some(())
        })
        .await;
    }
    assert_eq!(worker.get("/readyz").await.0, 503, "it holds what it has not claimed");
    assert_eq!(worker.get("/livez").await.0, 200);
    sent.send(&scene, 200).await;

    services.start_postgres().await;
    fault.ends(&scene).await;
    worker.holds(4).await;
    sent.is_applied(&scene).await;
    sent.is_in_order(&scene).await;
    no_lag(&worker, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_partitions_taken_over_while_postgres_is_away_are_claimed_when_it_is_back() {
    let services = Services::start(&[Service::Postgres]).await;
    let scene = Arc::new(Scene::on(&shared_brokers(), services.database_url(), 4).await);
    let first = scene.worker().set("SHUTDOWN__GRACE", "2s").start().await;
    let load = Load::start(&scene);
    first.holds(4).await;
    let second = scene.worker().start().await;
    first.holds(2).await;
    second.holds(2).await;
    applied_at_least(&scene, 200).await;

    let fault = scene.fault(26, "partitions taken over while postgres is away");
    services.stop_postgres_immediate().await;
    unready(&first).await;
    load.goes_on(100).await;
    assert_eq!(first.stop().await, Some(1), "it cannot finish what it has read, and says so");
    eventually("the other one has all partitions", async || {
        (second.assigned().await == 4).then_some(())
    })
    .await;
    load.goes_on(100).await;
    assert_eq!(second.get("/livez").await.0, 200);
    assert_eq!(second.get("/readyz").await.0, 503);

    services.start_postgres().await;
    fault.ends(&scene).await;
    second.holds(4).await;
    let sent = load.stop().await;
    sent.is_applied(&scene).await;
    sent.is_in_order(&scene).await;
    no_lag(&second, 4).await;
    assert_eq!(second.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_a_worker_that_finds_no_postgres_waits_for_it() {
    let services = Services::start(&[Service::Postgres]).await;
    let scene = Scene::on(&shared_brokers(), services.database_url(), 2).await;
    let mut sent = Ledger::default();
    sent.send(&scene, 50).await;
    services.stop_postgres_immediate().await;

    let worker = scene.worker().start().await;
    let fault = scene.fault(26, "no postgres at the start");
    let reason = eventually("the status says what it waits for", async || {
        let status = worker.status().await;
        let reason = status["postgres"][0]["reason"].as_str()?.to_owned();
        (reason != "not connected yet").then_some(reason)
    })
    .await;
    assert!(reason.to_lowercase().contains("refused"), "{reason}");
    assert!(worker.get("/readyz").await.1.contains("refused"), "readiness says it, too");
    assert_eq!(worker.get("/livez").await.0, 200);
    // Tries are two seconds apart, lines ten.
    let told = || worker.log().matches("postgres is not ready, waiting for it").count();
    eventually("it is told again, but not at each try", async || (told() > 1).then_some(())).await;
    let log = worker.log();
    let again = log.lines().rfind(|line| line.contains("postgres is not ready")).unwrap();
    let again: serde_json::Value = serde_json::from_str(again).unwrap();
    assert!(again["suppressed"].as_u64().unwrap() >= 2, "{again}");

    services.start_postgres().await;
    fault.ends(&scene).await;
    sent.is_applied(&scene).await;
    ready(&worker).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_a_worker_that_waits_for_postgres_ends_when_told_to() {
    let services = Services::start(&[Service::Postgres]).await;
    let scene = Scene::on(&shared_brokers(), services.database_url(), 1).await;
    services.stop_postgres_immediate().await;
    let worker = scene.worker().start().await;
    unready(&worker).await;
    assert_eq!(worker.stop().await, Some(0), "nothing was begun, nothing is left undone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_connections_killed_again_and_again_lose_and_double_nothing() {
    // A database of its own: its backends are this worker's.
    let database = unique("kills");
    let shared = shared_postgres();
    let mut admin = PgConnection::connect(&shared).await.unwrap();
    let create = format!("CREATE DATABASE {database}");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await.unwrap();
    let url = url_with(&shared, None, Some(&database));
    let scene = Arc::new(Scene::on(&shared_brokers(), &url, 4).await);
    let worker = scene.worker().set("BATCH__MAX_EVENTS", "50").start().await;
    let load = Load::start(&scene);
    worker.holds(4).await;

    let fault = scene.fault(24, "connections killed every 100 ms for 5 s");
    let mut killed = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..50 {
        pace.tick().await;
        let victims: Vec<(bool,)> = sqlx::query_as(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = $1 AND application_name = 'user-events-worker'",
        )
        .bind(&database)
        .fetch_all(&mut admin)
        .await
        .unwrap();
        killed += victims.len();
    }
    fault.ends(&scene).await;
    assert!(killed >= 10, "the fault was there: {killed} connections killed");
    assert_eq!(worker.get("/livez").await.0, 200);
    load.goes_on(100).await;
    let sent = load.stop().await;
    sent.is_applied(&scene).await;
    sent.is_in_order(&scene).await;
    ready(&worker).await;
    no_lag(&worker, 4).await;
    assert_eq!(worker.stop().await, Some(0));
}

/// A bare member of the scene's group, which reads nothing: it shows what the group does.
struct Member {
    consumer: Arc<BaseConsumer>,
    polling: tokio::task::JoinHandle<()>,
}

impl Member {
    async fn join(scene: &Scene) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &scene.brokers)
            .set("group.id", &scene.group)
            .set("session.timeout.ms", "6000")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        consumer.subscribe(&[&scene.topic]).unwrap();
        let consumer = Arc::new(consumer);
        let weak = Arc::downgrade(&consumer);
        let polling = tokio::task::spawn_blocking(move || {
            while let Some(consumer) = weak.upgrade() {
                drop(consumer.poll(Duration::from_millis(20)));
            }
        });
        Self { consumer, polling }
    }

    async fn holds(&self, partitions: usize) {
        eventually("the group gives the other member its share", async || {
            (self.consumer.assignment().ok()?.count() == partitions).then_some(())
        })
        .await;
        assert!(!self.polling.is_finished());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_postgres_that_falls_silent_is_told_given_up_and_claimed_from_anew() {
    let services = Services::start(&[Service::Postgres]).await;
    let scene = Scene::on(&shared_brokers(), services.database_url(), 1).await;
    let limits = [("STATEMENT_TIMEOUT", "2s"), ("LOCK_TIMEOUT", "1s")];
    let worker = limits
        .iter()
        .fold(scene.worker().set("BATCH__LANES", "1"), |worker, (key, value)| {
            worker.set(&format!("POSTGRES__{key}"), value)
        })
        .start()
        .await;
    scene.send(&[event("u1", "a", "page.viewed")]).await;
    scene.caught_up().await;

    let fault = scene.fault(33, "a server process of postgres that falls silent");
    // Its server process no longer answers and closes nothing, as if its machine were gone.
    let backend: (i32,) = scene
        .fetch_one(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'user-events-worker'
             ORDER BY backend_start DESC LIMIT 1",
        )
        .await;
    let backend = Frozen::new(backend.0);
    scene.send(&[event("u1", "b", "page.viewed")]).await;
    let status = eventually("its silence is told", async || {
        let status = worker.status().await;
        (status["postgres"][0]["up"] == false).then_some(status)
    })
    .await;
    assert!(status["postgres"][0]["reason"].as_str().unwrap().contains("no answer for"));
    // It stays silent: this is from the moment that is noticed.
    fault.ends(&scene).await;
    ready(&worker).await;
    assert_eq!(worker.get("/livez").await.0, 200);
    drop(backend);
    let count: (i64,) = scene.fetch_one("SELECT event_count FROM users WHERE user_id = 'u1'").await;
    assert_eq!(count.0, 2);
    assert_eq!(worker.stop().await, Some(0));
}

/// A process stopped until dropped.
struct Frozen(Pid);

impl Frozen {
    fn new(pid: i32) -> Self {
        let pid = Pid::from_raw(pid);
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).ok();
    }
}
