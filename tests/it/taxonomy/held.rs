//! What an operator must mend, seen through the worker: it is not ready, says what to mend, makes
//! no dead letters of it, and goes on by itself.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::recovery::{ready, unready, url_with};
use crate::support::{Fault, Scene, Worker, event, eventually};

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

async fn everything_is_applied(scene: &Scene, worker: &Worker, fault: Fault, events: i64) {
    fault.ends(scene).await;
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

    let fault = scene.fault(34, "a table that is missing");
    scene.execute("ALTER TABLE users RENAME TO users_gone").await;
    send(&scene, 20, 40).await;
    says(&worker, &["relation \"users\" does not exist", "42P01", "migrate"]).await;
    shouts(&worker, &["does not exist", "42P01", "migrate"]);
    scene.execute("ALTER TABLE users_gone RENAME TO users").await;
    everything_is_applied(&scene, &worker, fault, 40).await;

    let fault = scene.fault(34, "a column that is missing");
    scene.execute("ALTER TABLE user_events RENAME COLUMN data TO gone").await;
    send(&scene, 40, 60).await;
    says(&worker, &["column \"data\"", "42703", "migrate"]).await;
    scene.execute("ALTER TABLE user_events RENAME COLUMN gone TO data").await;
    everything_is_applied(&scene, &worker, fault, 60).await;
    assert_eq!(worker.stop().await, Some(0));
}

/// A worker whose role is its own, and what the server's administrator does to that.
struct Role {
    scene: Scene,
    worker: Worker,
    name: String,
    admin: PgConnection,
}

impl Role {
    async fn new() -> Self {
        let scene = Scene::new(1).await;
        let name = format!("{}_r", scene.schema);
        let mut admin = PgConnection::connect(&scene.database_url).await.unwrap();
        let create = AssertSqlSafe(format!("CREATE ROLE {name} LOGIN SUPERUSER"));
        sqlx::raw_sql(create).execute(&mut admin).await.unwrap();
        let url = url_with(&scene.database_url, Some(&name), None);
        let worker = scene.worker().set("POSTGRES__URL", &url).start().await;
        worker.holds(1).await;
        Self { scene, worker, name, admin }
    }

    async fn alter(&mut self, how: &str) {
        let alter = AssertSqlSafe(format!("ALTER ROLE {} {how}", self.name));
        sqlx::raw_sql(alter).execute(&mut self.admin).await.unwrap();
    }

    /// The next session is the first to feel what was altered.
    async fn ends_sessions(&mut self) {
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1")
            .bind(&self.name)
            .execute(&mut self.admin)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_read_only_is_named_and_waited_for() {
    let mut role = Role::new().await;
    send(&role.scene, 0, 20).await;
    role.scene.caught_up().await;

    // As after a failover to a standby: the session ends, and the next one may only read.
    let fault = role.scene.fault(31, "a server that is read-only");
    role.alter("SET default_transaction_read_only = on").await;
    role.ends_sessions().await;
    send(&role.scene, 20, 40).await;
    says(&role.worker, &["read-only transaction", "25006", "primary"]).await;
    shouts(&role.worker, &["read-only transaction", "25006", "primary"]);
    role.alter("RESET default_transaction_read_only").await;
    everything_is_applied(&role.scene, &role.worker, fault, 40).await;
    assert_eq!(role.worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_role_locked_out_is_told_and_waited_for() {
    let mut role = Role::new().await;
    let fault = role.scene.fault(31, "a role that may not log in");
    role.alter("NOLOGIN").await;
    role.ends_sessions().await;
    send(&role.scene, 0, 20).await;
    says(&role.worker, &["not permitted to log in", "28000", "mend the role"]).await;
    shouts(&role.worker, &["not permitted to log in", "28000", "mend the role"]);
    role.alter("LOGIN").await;
    everything_is_applied(&role.scene, &role.worker, fault, 20).await;
    assert_eq!(role.worker.stop().await, Some(0));
}
