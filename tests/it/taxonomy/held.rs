//! What an operator must mend, seen through the worker: it is not ready, says what to mend, makes
//! no dead letters of it, and goes on by itself.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::recovery::{ready, unready, url_with};
use crate::support::{Scene, Worker, event, eventually};

async fn send(scene: &Scene, from: usize, to: usize) {
    let events: Vec<_> =
        (from..to).map(|n| event(&format!("u{n}"), &n.to_string(), "user.visited")).collect();
    scene.send(&events).await;
}

/// Readiness says all of this; the worker stays alive and keeps its partitions.
async fn says(worker: &Worker, mentions: &[&str]) {
    let all = |text: &str| mentions.iter().all(|mention| text.contains(mention));
    eventually(&format!("readiness says {mentions:?}"), async || {
        all(&unready(worker).await).then_some(())
    })
    .await;
    assert!(worker.metric("user_events_apply_errors_total", "kind=\"misconfigured\"").await >= 1.0);
    assert_eq!(worker.get("/livez").await.0, 200);
    assert_eq!(worker.assigned().await, 1);
}

/// An error in the log says all of this.
fn shouts(worker: &Worker, mentions: &[&str]) {
    let told = |line: &str| line.contains("ERROR") && mentions.iter().all(|m| line.contains(m));
    assert!(worker.log().lines().any(told), "{mentions:?}");
}

async fn everything_is_applied(scene: &Scene, worker: &Worker, events: i64) {
    scene.caught_up().await;
    ready(worker).await;
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, events);
    assert_eq!(scene.count("SELECT sum(event_count)::bigint FROM users").await, events);
    assert_eq!(scene.count("SELECT count(*) FROM dead_letters").await, 0);
}

#[tokio::test]
async fn a_table_or_a_column_that_is_missing_is_named_and_waited_for() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    worker.holds(1).await;
    send(&scene, 0, 20).await;
    scene.caught_up().await;

    scene.execute("ALTER TABLE users RENAME TO users_gone").await;
    send(&scene, 20, 40).await;
    says(&worker, &["relation \"users\" does not exist", "42P01", "migrate"]).await;
    shouts(&worker, &["does not exist", "42P01", "migrate"]);
    scene.execute("ALTER TABLE users_gone RENAME TO users").await;
    everything_is_applied(&scene, &worker, 40).await;

    scene.execute("ALTER TABLE user_events RENAME COLUMN data TO gone").await;
    send(&scene, 40, 60).await;
    says(&worker, &["column \"data\"", "42703", "migrate"]).await;
    scene.execute("ALTER TABLE user_events RENAME COLUMN gone TO data").await;
    everything_is_applied(&scene, &worker, 60).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_server_that_is_read_only_is_named_and_waited_for() {
    let scene = Scene::new(1).await;
    let role = format!("{}_r", scene.schema);
    let mut admin = PgConnection::connect(&scene.database_url).await.unwrap();
    let mut run = async |sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    };
    run(format!("CREATE ROLE {role} LOGIN SUPERUSER")).await;
    let url = url_with(&scene.database_url, Some(&role), None);
    let worker = scene.worker().set("POSTGRES__URL", &url).start().await;
    worker.holds(1).await;
    send(&scene, 0, 20).await;
    scene.caught_up().await;

    // As after a failover to a standby: the session ends, and the next one may only read.
    run(format!(
        "ALTER ROLE {role} SET default_transaction_read_only = on;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
    ))
    .await;
    send(&scene, 20, 40).await;
    says(&worker, &["read-only transaction", "25006", "primary"]).await;
    shouts(&worker, &["read-only transaction", "25006", "primary"]);
    run(format!("ALTER ROLE {role} RESET default_transaction_read_only")).await;
    everything_is_applied(&scene, &worker, 40).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_role_locked_out_is_told_and_waited_for() {
    let scene = Scene::new(1).await;
    let role = format!("{}_r", scene.schema);
    let mut admin = PgConnection::connect(&scene.database_url).await.unwrap();
    let mut run = async |sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    };
    run(format!("CREATE ROLE {role} LOGIN SUPERUSER")).await;
    let url = url_with(&scene.database_url, Some(&role), None);
    let worker = scene.worker().set("POSTGRES__URL", &url).start().await;
    worker.holds(1).await;

    run(format!(
        "ALTER ROLE {role} NOLOGIN;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
    ))
    .await;
    send(&scene, 0, 20).await;
    says(&worker, &["not permitted to log in", "28000", "mend the role"]).await;
    shouts(&worker, &["not permitted to log in", "28000", "mend the role"]);
    run(format!("ALTER ROLE {role} LOGIN")).await;
    everything_is_applied(&scene, &worker, 20).await;
    assert_eq!(worker.stop().await, Some(0));
}
