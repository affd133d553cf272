//! Of n records Postgres refuses k: exactly those become dead letters, in about k log n attempts.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::recovery::url_with;
use crate::support::{Scene, event, eventually, unique};

const REFUSE: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.data ? 'guilty' THEN RAISE 'this one not' USING ERRCODE = '22000'; END IF;
        RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON user_events FOR EACH ROW EXECUTE FUNCTION refuse()";

/// One batch of `n` records of which `guilty` says who is refused; in a database of its own, where
/// nobody else's transactions count.
async fn bisected(n: usize, guilty: impl Fn(usize) -> bool) {
    let shared = Scene::new(1).await;
    let database = unique("bisection");
    let mut admin = PgConnection::connect(&shared.database_url).await.unwrap();
    let create = format!("CREATE DATABASE {database}");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await.unwrap();
    let url = url_with(&shared.database_url, None, Some(&database));
    let scene = Scene::on(&shared.brokers, &url, 1).await;
    scene.migrate().await;
    scene.execute(REFUSE).await;

    let events: Vec<_> = (0..n)
        .map(|i| {
            let data = if guilty(i) { r#"{"guilty":1}"# } else { "{}" };
            event(&format!("u{i}"), &i.to_string(), "user.visited").data(data)
        })
        .collect();
    scene.send(&events).await;
    let rollbacks = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    let before = scene.count(rollbacks).await;
    let k = (0..n).filter(|i| guilty(*i)).count();
    let fault = scene.fault(41, format!("{k} of {n} records of a batch refused by postgres"));
    let worker = scene
        .worker()
        .set("BATCH__MAX_EVENTS", &n.to_string())
        .set("BATCH__MAX_BYTES", "64MiB")
        .set("BATCH__LINGER", "10s")
        .set("DEAD_LETTERS__BREAKER_CONSECUTIVE", "0")
        .set("DEAD_LETTERS__BREAKER_RATIO", "0")
        .start()
        .await;
    fault.ends(&scene).await;

    let letters: Vec<(i64,)> =
        scene.fetch_all("SELECT kafka_offset FROM dead_letters ORDER BY 1").await;
    let expected: Vec<_> = (0..n).filter(|i| guilty(*i)).map(|i| (i as i64,)).collect();
    assert_eq!(letters, expected, "exactly the guilty");
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, (n - k) as i64);
    worker.counted("dead_lettered", k).await;
    assert_eq!(worker.metric("user_events_batches_total", "").await, 1.0, "it was one batch");

    // Every attempt that fails holds a guilty record: at most one per level above each of them,
    // and never more than there are halves. Each that succeeds is the other half, or a dead letter.
    let levels = n.next_power_of_two().ilog2() as usize + 1;
    let most_failed = (k * levels).min(2 * n);
    let failed = worker.metric("user_events_apply_errors_total", "").await as usize;
    let data = worker.metric("user_events_apply_errors_total", "kind=\"data\"").await as usize;
    let attempts = worker.metric("user_events_apply_duration_seconds_count", "").await as usize;
    eprintln!("{k} of {n}: {attempts} attempts, {failed} of them failed (at most {most_failed})");
    assert_eq!(failed, data, "nothing else went wrong");
    assert!(failed <= most_failed, "{failed} attempts failed");
    assert!(attempts <= 2 * most_failed + 1, "{attempts} attempts");
    assert_eq!(worker.stop().await, Some(0));
    // As Postgres counts them; a session reports before it ends.
    let rolled_back = eventually("the sessions have reported", async || {
        let count = scene.count(rollbacks).await - before;
        (count >= failed as i64).then_some(count)
    })
    .await;
    assert_eq!(rolled_back, failed as i64, "one transaction for each attempt that failed");
}

#[tokio::test]
async fn one_record_of_ten_thousand_is_found_in_about_log_n_attempts() {
    bisected(10_000, |i| i == 6_789).await;
}

#[tokio::test]
async fn half_of_the_records_are_found_one_by_one() {
    bisected(256, |i| i % 2 == 1).await;
}

#[tokio::test]
async fn a_batch_of_nothing_else_is_dead_lettered_whole() {
    bisected(128, |_| true).await;
}
