//! Errors provoked on a connection, class by class.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Statement};
use user_events_worker::apply::verdict::{self, Verdict};

use super::{assert_judged, run};
use crate::support::{Scene, eventually};

/// Runs each statement on a connection of its own, in a schema that the worker has migrated.
async fn each(cases: &[(&str, &str, Verdict)]) {
    let scene = Scene::new(1).await;
    scene.migrate().await;
    for (sql, sqlstate, verdict) in cases {
        let error = run(&mut scene.db().await, sql).await.expect_err(sql);
        assert_judged(sql, &error, sqlstate, *verdict);
    }
}

#[tokio::test]
async fn what_an_operator_must_mend_is_a_misconfiguration() {
    each(&[
        ("SELECT missing FROM users", "42703", Verdict::Misconfigured),
        ("SELECT ensure_user_events_month(1, 2)", "42883", Verdict::Misconfigured),
        // Without USAGE a schema is passed over, and its tables look missing.
        ("SET ROLE pg_monitor; TABLE users", "42P01", Verdict::Misconfigured),
        (
            "DO $$ BEGIN EXECUTE 'GRANT USAGE ON SCHEMA ' || current_schema || ' TO pg_monitor'; END $$;
             SET ROLE pg_monitor; TABLE users",
            "42501",
            Verdict::Misconfigured,
        ),
        ("CREATE TABLE no_such_schema.t ()", "3F000", Verdict::Misconfigured),
        ("BEGIN READ ONLY; UPDATE users SET sequence = 1", "25006", Verdict::Misconfigured),
        (
            "BEGIN READ ONLY; SELECT 1 FROM source_offsets FOR UPDATE",
            "25006",
            Verdict::Misconfigured,
        ),
        ("ALTER TABLE users RENAME TO gone; TABLE users", "42P01", Verdict::Misconfigured),
    ])
    .await;
}

#[tokio::test]
async fn what_postgres_says_of_the_data_is_about_the_data() {
    each(&[
        (r#"SELECT '"\u0000"'::jsonb"#, "22P05", Verdict::Data),
        (r"SELECT convert_from('\xff', 'UTF8')", "22021", Verdict::Data),
        ("SELECT 'x'::int", "22P02", Verdict::Data),
        ("SELECT 3000000000::int", "22003", Verdict::Data),
        ("SELECT '300000-01-01'::timestamptz", "22008", Verdict::Data),
        ("CREATE TABLE t (a varchar(1)); INSERT INTO t VALUES ('ab')", "22001", Verdict::Data),
        ("SELECT repeat('[', 100000)::jsonb", "54001", Verdict::Data),
        (
            "CREATE TABLE t (a text PRIMARY KEY);
             INSERT INTO t SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i",
            "54000",
            Verdict::Data,
        ),
        (
            "ALTER TABLE users ADD CONSTRAINT ours CHECK (user_id <> 'x');
             INSERT INTO users (user_id, profile, created_at, last_event_at, event_count)
             VALUES ('x', '{}', now(), now(), 1)",
            "23514",
            Verdict::Data,
        ),
    ])
    .await;
}

const EVENT: &str = "INSERT INTO user_events (event_id, occurred_at, source, type, user_id, data,
    kafka_topic, kafka_partition, kafka_offset, received_at) VALUES ";

#[tokio::test]
async fn a_month_that_is_missing_is_told_from_a_check_that_is_violated() {
    let scene = Scene::new(1).await;
    scene.migrate().await;
    let mut conn = scene.db().await;
    let row = |time: &str| {
        format!("{EVENT} (gen_random_uuid(), {time}, 's', 't', 'u', '{{}}', 't', 0, 0, now())")
    };
    let error = run(&mut conn, &row("'1990-01-01'")).await.unwrap_err();
    assert_judged("a month nobody made", &error, "23514", Verdict::MissingMonth);

    run(&mut conn, "SELECT ensure_user_events_month(date_trunc('month', now())::date)")
        .await
        .unwrap();
    run(&mut conn, &row("now()")).await.expect("the month is there now");
    run(&mut conn, "ALTER TABLE user_events ADD CONSTRAINT ours CHECK (type <> 't') NOT VALID")
        .await
        .unwrap();
    let error = run(&mut conn, &row("now()")).await.unwrap_err();
    assert_judged("a check of ours", &error, "23514", Verdict::Data);
}

#[tokio::test]
async fn what_should_never_happen_is_a_bug_and_says_so() {
    let user = "INSERT INTO users (user_id, profile, created_at, last_event_at, event_count)
                VALUES ('u', '{}', now(), now(), 1)";
    let twice = format!(
        "{user}, ('u', '{{}}', now(), now(), 1) ON CONFLICT (user_id) DO UPDATE SET sequence = 1"
    );
    let repeated = format!("{user}; {user}");
    let foreign = "CREATE TABLE a (i int PRIMARY KEY); CREATE TABLE b (i int REFERENCES a);
                   INSERT INTO b VALUES (1)";
    let cases = [
        (twice.as_str(), "21000", Verdict::Bug),
        (repeated.as_str(), "23505", Verdict::Bug),
        ("INSERT INTO users (user_id) VALUES (NULL)", "23502", Verdict::Bug),
        (foreign, "23503", Verdict::Bug),
        ("DO $$ BEGIN RAISE 'a trigger of somebody'; END $$", "P0001", Verdict::Bug),
    ];
    each(&cases).await;

    let mut conn = Scene::new(1).await.db().await;
    run(&mut conn, "BEGIN; SELECT 1/0").await.unwrap_err();
    let error = run(&mut conn, "SELECT 1").await.unwrap_err();
    assert_judged("a transaction that failed before", &error, "25P02", Verdict::Bug);
    assert!(verdict::advice(&error).contains("nothing is skipped"));
}

#[tokio::test]
async fn what_other_transactions_do_is_tried_again() {
    let scene = Scene::new(1).await;
    let (mut one, mut two) = (scene.db().await, scene.db().await);
    let schema = format!("CREATE SCHEMA {0}; SET search_path = {0}", scene.schema);
    run(&mut one, &schema).await.unwrap();
    run(&mut two, &format!("SET search_path = {}", scene.schema)).await.unwrap();
    run(&mut one, "CREATE TABLE t AS SELECT i, 0 AS n FROM generate_series(1, 2) i").await.unwrap();

    run(&mut one, "BEGIN; UPDATE t SET n = 1 WHERE i = 1").await.unwrap();
    let waits = "SET lock_timeout = '50ms'; UPDATE t SET n = 1 WHERE i = 1";
    let error = run(&mut two, waits).await.unwrap_err();
    assert_judged("a lock not had in time", &error, "55P03", Verdict::Retry);
    run(&mut one, "COMMIT").await.unwrap();

    for conn in [&mut one, &mut two] {
        run(conn, "SET lock_timeout = 0; BEGIN ISOLATION LEVEL REPEATABLE READ; TABLE t")
            .await
            .unwrap();
    }
    run(&mut one, "UPDATE t SET n = 2 WHERE i = 1; COMMIT").await.unwrap();
    let error = run(&mut two, "UPDATE t SET n = 3 WHERE i = 1").await.unwrap_err();
    assert_judged("a snapshot too old", &error, "40001", Verdict::Retry);
    run(&mut two, "ROLLBACK").await.unwrap();

    run(&mut one, "BEGIN; UPDATE t SET n = 4 WHERE i = 1").await.unwrap();
    run(&mut two, "BEGIN; UPDATE t SET n = 4 WHERE i = 2").await.unwrap();
    let crossed = tokio::join!(
        run(&mut one, "UPDATE t SET n = 5 WHERE i = 2; COMMIT"),
        run(&mut two, "UPDATE t SET n = 5 WHERE i = 1; COMMIT"),
    );
    let victim = match crossed {
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => error,
        other => panic!("exactly one gives way: {other:?}"),
    };
    assert_judged("a deadlock", &victim, "40P01", Verdict::Retry);
    assert!(verdict::is_deadlock(&victim));
}

#[tokio::test]
async fn what_takes_too_long_becomes_a_smaller_batch() {
    let mut conn = Scene::new(1).await.db().await;
    let error =
        run(&mut conn, "SET statement_timeout = '20ms'; SELECT pg_sleep(30)").await.unwrap_err();
    assert_judged("a statement timeout", &error, "57014", Verdict::Smaller);
}

/// A statement prepared on the connection, then `spoil`, then the statement again.
async fn prepared_and_spoilt(spoil: &str) -> sqlx::Error {
    let scene = Scene::new(1).await;
    let mut conn = scene.db().await;
    run(&mut conn, &format!("CREATE SCHEMA {0}; SET search_path = {0}", scene.schema))
        .await
        .unwrap();
    run(&mut conn, "CREATE TABLE t (a int)").await.unwrap();
    let statement =
        (&mut conn).prepare(sqlx::SqlStr::from_static("SELECT * FROM t")).await.unwrap();
    statement.query().fetch_all(&mut conn).await.expect("it works at first");
    run(&mut conn, spoil).await.unwrap();
    statement.query().fetch_all(&mut conn).await.expect_err(spoil)
}

#[tokio::test]
async fn a_session_that_is_spoilt_is_made_anew() {
    let error = prepared_and_spoilt("DEALLOCATE ALL").await;
    assert_judged("prepared statements lost", &error, "26000", Verdict::Reconnect);
    let error = prepared_and_spoilt("ALTER TABLE t ADD COLUMN b int").await;
    assert_judged("a cached plan that no longer fits", &error, "0A000", Verdict::Reconnect);

    let scene = Scene::new(1).await;
    let mut conn = scene.db().await;
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await.unwrap();
    run(&mut conn, "SET idle_in_transaction_session_timeout = '20ms'; BEGIN; SELECT 1")
        .await
        .unwrap();
    gone(&scene, pid).await;
    let error = run(&mut conn, "SELECT 1").await.unwrap_err();
    assert_judged("silent within a transaction", &error, "25P03", Verdict::Reconnect);
}

/// Waits until a session has ended.
async fn gone(scene: &Scene, pid: i32) {
    let mut other = scene.db().await;
    eventually("the session has ended", async || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
        let left: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut other).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_ended_or_refused_by_the_server_is_an_outage() {
    let scene = Scene::new(1).await;
    let mut conn = scene.db().await;
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await.unwrap();
    run(&mut scene.db().await, &format!("SELECT pg_terminate_backend({pid})")).await.unwrap();
    gone(&scene, pid).await;
    let error = run(&mut conn, "SELECT 1").await.unwrap_err();
    assert_judged("ended by an administrator", &error, "57P01", Verdict::Outage);
    assert!(!verdict::surely_not_committed(&error), "a COMMIT on its way is in doubt");

    let role = format!("{}_none", scene.schema);
    run(&mut scene.db().await, &format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT 0"))
        .await
        .unwrap();
    let url = crate::recovery::url_with(&scene.database_url, Some(&role), None);
    let error = PgConnection::connect(&url).await.unwrap_err();
    assert_judged("too many connections", &error, "53300", Verdict::Outage);
    run(&mut scene.db().await, &format!("DROP ROLE {role}")).await.unwrap();

    let mut conn = scene.db().await;
    let spills = "SET work_mem = '64kB'; SET temp_file_limit = '64kB';
                  SELECT md5(i::text) FROM generate_series(1, 100000) i ORDER BY 1";
    let error = run(&mut conn, spills).await.unwrap_err();
    assert_judged("no room for temporary files", &error, "53400", Verdict::Outage);
    let error = run(&mut conn, "COPY (SELECT 1) TO '/no/such/place'").await.unwrap_err();
    assert_judged("the server's own files", &error, "58P01", Verdict::Outage);
    // Nothing of Postgres itself sends this; what stands between it and us may.
    let relayed = "DO $$ BEGIN RAISE 'no connection' USING ERRCODE = '08006'; END $$";
    let error = run(&mut conn, relayed).await.unwrap_err();
    assert_judged("a connection behind the server", &error, "08006", Verdict::Outage);
}
