//! Behind PgBouncer in transaction mode: each transaction may run on another server process.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::pgbouncer::PgBouncer;
use crate::support::{Scene, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_pgbouncer_without_a_statement_cache_kills_lose_and_double_nothing() {
    let scene = Scene::in_database(4).await;
    let mut admin = scene.db().await;
    let mut bouncer = PgBouncer::start(&scene.database_url, 2).await;
    let worker = scene
        .worker()
        .set("POSTGRES__URL", bouncer.url())
        .set("POSTGRES__STATEMENT_CACHE", "false")
        .set("BATCH__LANES", "3")
        .set("BATCH__MAX_EVENTS", "50")
        .start()
        .await;
    let load = scene.produce(Load::mixed(800));
    worker.holds(4).await;
    scene.progresses(500).await;
    assert_eq!(worker.metric("user_events_apply_errors_total", "").await, 0.0, "{}", worker.log());

    let fault = scene.fault(32, "servers killed behind pgbouncer");
    let mut killed = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..40 {
        pace.tick().await;
        let victims: Vec<(bool,)> = sqlx::query_as(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'user-events-worker'",
        )
        .fetch_all(&mut admin)
        .await
        .unwrap();
        killed += victims.len();
    }
    fault.ends(&scene).await;
    assert!(killed >= 10, "the fault was there: {killed} servers killed");
    let outages = worker.metric("user_events_apply_errors_total", "").await;
    assert!(outages > 0.0, "and the worker met it");
    eprintln!("{killed} servers killed behind pgbouncer");
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    assert!(bouncer.runs());
    assert_eq!(worker.stop().await, Some(0));
}

/// Which of the two it is depends on PgBouncer's version: 1.21 and later follow prepared statements
/// when `max_prepared_statements` says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_pgbouncer_with_a_statement_cache_all_is_applied_once_or_the_worker_says_why_not() {
    let scene = Scene::in_database(4).await;
    scene.migrate().await;
    let bouncer = PgBouncer::start(&scene.database_url, 2).await;
    let cached = scene
        .worker()
        .set("POSTGRES__URL", bouncer.url())
        .set("POSTGRES__MIGRATE", "false")
        .set("BATCH__LANES", "3")
        .set("BATCH__MAX_EVENTS", "50");
    let ledger = scene.produce(Load::mixed(20_000).limit(3_000)).finished().await;
    let ends = scene.ends().await;

    let fault = scene.fault(32, "a statement cache that pgbouncer cannot follow");
    let worker = cached.start().await;
    let complaint = eventually("all is applied, or the worker says why not", async || {
        if scene.positions().await.is_some_and(|positions| positions == ends) {
            return Some(None);
        }
        let (code, reasons) = worker.get("/readyz").await;
        (code == 503 && reasons.contains("prepared statement")).then_some(Some(reasons))
    })
    .await;
    let applied = scene.progress().await;
    eprintln!("with a statement cache: {applied} of {} applied, {complaint:?}", ledger.len());
    assert_eq!(worker.get("/livez").await.0, 200);
    drop(worker);

    // Whatever happened has doubled nothing; without the cache the rest follows.
    let mended = cached.set("POSTGRES__STATEMENT_CACHE", "false");
    let worker = fault.ends_with(&mended, &scene).await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(worker.stop().await, Some(0));
}

/// With a single server whoever comes next would find what it left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_pgbouncer_check_leaves_no_setting_to_others() {
    let scene = Scene::in_database(1).await;
    scene.migrate().await;
    let bouncer = PgBouncer::start(&scene.database_url, 1).await;
    let check = scene
        .worker()
        .set("POSTGRES__URL", bouncer.url())
        .set("POSTGRES__STATEMENT_CACHE", "false")
        .command(&["check"]);
    let (code, said, _) = check.output().await;
    assert_eq!(code, Some(0), "{said}");

    let other = PgConnectOptions::from_str(bouncer.url()).unwrap().extra_float_digits(None);
    let mut other = PgConnection::connect_with(&other).await.unwrap();
    for (setting, default) in [("search_path", "\"$user\", public"), ("lock_timeout", "0")] {
        let show = sqlx::raw_sql(AssertSqlSafe(format!("SHOW {setting}")));
        let row = show.fetch_one(&mut other).await.unwrap();
        assert_eq!(row.get::<String, _>(0), default, "{setting}");
    }
}
