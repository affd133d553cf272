//! The restricted role of `deploy/postgres/roles.sql`: it suffices, and what is taken from it is
//! missed loudly until it is given back.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::load::Ledger;
use super::{no_lag, ready, shared_postgres, unready, url_with};
use crate::support::{Scene, WorkerBuilder, event, eventually};

const ROLES: &str = include_str!("../../../deploy/postgres/roles.sql");

/// A scene whose schema belongs to an owner and is used by a worker with no more than the file's
/// grants.
struct Restricted {
    scene: Scene,
    worker: String,
    operator: String,
}

impl Restricted {
    async fn new(partitions: i32) -> Self {
        let scene = Scene::new(partitions).await;
        let role = |suffix: &str| format!("{}_{suffix}", scene.schema);
        let (owner, worker, operator) = (role("o"), role("w"), role("op"));
        let roles = ROLES
            .replace("user_events_owner", &owner)
            .replace("user_events_worker", &worker)
            .replace("user_events_operator", &operator)
            .replace("SCHEMA user_events ", &format!("SCHEMA {} ", scene.schema))
            .replace(
                "SCHEMA IF NOT EXISTS user_events ",
                &format!("SCHEMA IF NOT EXISTS {} ", scene.schema),
            )
            .replace("user_events.", &format!("{}.", scene.schema));
        let mut admin = PgConnection::connect(&shared_postgres()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(roles.clone())).execute(&mut admin).await.unwrap();
        for role in [&owner, &worker, &operator] {
            let password = format!("ALTER ROLE {role} PASSWORD 'x'");
            sqlx::raw_sql(AssertSqlSafe(password)).execute(&mut admin).await.unwrap();
        }
        let url = |role: &str| url_with(&scene.database_url, Some(&format!("{role}:x")), None);
        let migrate = scene.worker().set("POSTGRES__URL", &url(&owner)).command(&["migrate"]);
        let (code, _, log) = migrate.output().await;
        assert_eq!(code, Some(0), "{log}");
        sqlx::raw_sql(AssertSqlSafe(roles)).execute(&mut admin).await.unwrap();
        let (worker, operator) = (url(&worker), url(&operator));
        Self { scene, worker, operator }
    }

    fn worker(&self) -> WorkerBuilder {
        self.scene.worker().set("POSTGRES__URL", &self.worker).set("POSTGRES__MIGRATE", "false")
    }

    /// Whoever `url` logs in may do none of these.
    async fn denied(&self, url: &str, statements: &[&'static str]) {
        let mut conn = PgConnection::connect(url).await.unwrap();
        let set = format!("SET search_path = {}", self.scene.schema);
        sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut conn).await.unwrap();
        for statement in statements {
            let error = sqlx::raw_sql(*statement).execute(&mut conn).await.unwrap_err();
            let code = error.as_database_error().and_then(|e| e.code()).unwrap();
            assert_eq!(code, "42501", "{statement}");
        }
    }

    fn role(&self) -> String {
        format!("{}_w", self.scene.schema)
    }
}

#[tokio::test]
async fn the_restricted_role_suffices_for_a_whole_run() {
    let restricted = Restricted::new(2).await;
    let scene = &restricted.scene;
    let (code, report, log) = restricted.worker().command(&["check"]).output().await;
    assert_eq!(code, Some(0), "{report}{log}");

    let old = OffsetDateTime::now_utc() - time::Duration::days(100);
    let old = old.format(&Rfc3339).unwrap();
    let repeated = event("u1", "repeated", "user.updated").data(r#"{"a":1}"#);
    scene
        .send(&[
            event("u1", "created", "user.created").sequence(5),
            event("u1", "stale", "user.updated").sequence(4),
            repeated.clone(),
            repeated,
            event("u2", "old", "user.visited").time(&old),
            event("u3", "bad", "user.updated").raw(Some(b"not json")),
            event("u1", "deleted", "user.deleted"),
        ])
        .await;
    let worker = restricted.worker().start().await;
    scene.caught_up().await;
    ready(&worker).await;
    let (events,): (i64,) = scene.fetch_one("SELECT count(*) FROM user_events").await;
    assert_eq!(events, 5);
    let (letters,): (i64,) = scene.fetch_one("SELECT count(*) FROM dead_letters").await;
    assert_eq!(letters, 1);
    let (months, not_the_owners): (i64, i64) = scene
        .fetch_one(&format!(
            "SELECT count(*), count(*) FILTER (WHERE pg_get_userbyid(c.relowner) <> '{0}_o')
             FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = '{0}.user_events'::regclass AND c.relkind = 'r'",
            scene.schema
        ))
        .await;
    assert_eq!((months, not_the_owners), (3, 0), "this month, the next, and the old event's");
    assert_eq!(worker.metric("user_events_apply_errors_total", "").await, 0.0);
    assert_eq!(worker.stop().await, Some(0));

    let refused =
        ["DELETE FROM user_events", "UPDATE user_events SET type = ''", "CREATE TABLE t ()"];
    restricted.denied(&restricted.worker, &refused).await;
    restricted.denied(&restricted.worker, &["SELECT FROM offset_moves"]).await;
}

#[tokio::test]
async fn the_operators_role_suffices_to_show_and_move_positions_and_for_nothing_else() {
    let restricted = Restricted::new(1).await;
    let scene = &restricted.scene;
    let worker = restricted.worker().start().await;
    scene.send(&[event("u1", "a", "user.created")]).await;
    scene.caught_up().await;
    let offsets = async |args: &[&str]| {
        let command = [&["offsets"], args].concat();
        let operator = scene.worker().set("POSTGRES__URL", &restricted.operator);
        let (code, out, log) = operator.command(&command).output().await;
        assert_eq!(code, Some(0), "{args:?}: {out}{log}");
        out
    };
    offsets(&["show"]).await;
    let which = ["move", "--topic", &scene.topic, "--all-partitions", "--to-earliest"];
    offsets(&[&which[..], &["--execute", "--reason", "a test"]].concat()).await;
    let history = offsets(&["history"]).await;
    assert!(history.contains(&format!("{}_op", scene.schema)), "postgres knows who: {history}");
    eventually("the worker reads again", async || {
        let again = worker.metric("user_events_outcomes_total", r#"outcome="duplicate""#).await;
        (again == 1.0).then_some(())
    })
    .await;
    let refused = [
        "UPDATE offset_moves SET reason = ''",
        "DELETE FROM offset_moves",
        "DELETE FROM source_offsets",
        "SELECT FROM users",
        "SELECT FROM dead_letters",
        "CREATE TABLE t ()",
    ];
    restricted.denied(&restricted.operator, &refused).await;
}

#[tokio::test]
async fn a_grant_taken_away_is_missed_loudly_and_mended_without_a_restart() {
    let restricted = Restricted::new(2).await;
    let scene = &restricted.scene;
    let worker = restricted.worker().start().await;
    let mut sent = Ledger::default();
    sent.send(scene, 50).await;
    sent.is_applied(scene).await;
    ready(&worker).await;

    let role = restricted.role();
    let fault = scene.fault(31, "a grant revoked, until it is given back");
    scene.execute(&format!("REVOKE INSERT ON users FROM {role}")).await;
    sent.send(scene, 50).await;
    let reasons = eventually("readiness names what is missing", async || {
        let reasons = unready(&worker).await;
        reasons.contains("permission denied for table users").then_some(reasons)
    })
    .await;
    assert!(reasons.contains("42501"), "{reasons}");
    let held = worker.log().lines().any(|line| {
        line.contains("ERROR") && line.contains("permission denied") && line.contains("grants")
    });
    assert!(held, "an error in the log says what to mend");
    let status = worker.status().await;
    let rows = status["partitions"].as_array().unwrap();
    let told =
        |row: &serde_json::Value| row["last_error"].to_string().contains("permission denied");
    assert!(rows.iter().any(told), "the status shows it beside the partition");
    eventually("it keeps trying", async || {
        let kind = r#"kind="misconfigured""#;
        (worker.metric("user_events_apply_errors_total", kind).await >= 3.0).then_some(())
    })
    .await;
    let (letters,): (i64,) = scene.fetch_one("SELECT count(*) FROM dead_letters").await;
    assert_eq!(letters, 0, "a missing grant says nothing about the records");
    assert_eq!(worker.get("/livez").await.0, 200);
    assert_eq!(worker.assigned().await, 2);

    scene.execute(&format!("GRANT INSERT ON users TO {role}")).await;
    fault.ends(scene).await;
    sent.is_applied(scene).await;
    ready(&worker).await;
    no_lag(&worker, 2).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_worker_that_may_not_migrate_waits_for_the_schema() {
    let scene = Scene::new(1).await;
    let mut sent = Ledger::default();
    sent.send(&scene, 10).await;
    let worker = scene.worker().set("POSTGRES__MIGRATE", "false").start().await;
    eventually("readiness says what to run", async || {
        unready(&worker).await.contains("run `user-events-worker migrate`").then_some(())
    })
    .await;
    let (code, _, log) = scene.worker().command(&["migrate"]).output().await;
    assert_eq!(code, Some(0), "{log}");
    sent.is_applied(&scene).await;
    ready(&worker).await;
}
