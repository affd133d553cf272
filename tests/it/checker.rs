//! The checker itself: it must pass what is right and name what is wrong.

use crate::support::Scene;
use crate::support::checker::Projection;
use crate::support::load::Load;

#[tokio::test]
async fn the_checker_passes_what_is_right_and_names_whatever_is_tampered_with() {
    let scene = Scene::new(3).await;
    let ledger = scene.produce(Load::mixed(5_000).limit(3_000)).finished().await;
    let worker = scene.worker().start().await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(worker.stop().await, Some(0));

    for (tampering, named) in [
        (
            "DELETE FROM user_events WHERE event_id = (SELECT event_id FROM user_events LIMIT 1)",
            "missing from the ledger",
        ),
        (
            "INSERT INTO user_events SELECT gen_random_uuid(), occurred_at, received_at, kafka_offset, sequence, kafka_partition, kafka_topic, source, type, user_id, data FROM user_events LIMIT 1",
            "nobody produced",
        ),
        (
            "INSERT INTO user_events SELECT event_id, occurred_at + interval '1 us', received_at, kafka_offset, sequence, kafka_partition, kafka_topic, source, type, user_id, data FROM user_events LIMIT 1",
            "more than once",
        ),
        (
            "UPDATE user_events SET data = '{\"n\": -1}' WHERE event_id = (SELECT event_id FROM user_events LIMIT 1)",
            "differ from what was produced",
        ),
        (
            "UPDATE user_events SET kafka_offset = kafka_offset + 1 WHERE event_id = (SELECT event_id FROM user_events LIMIT 1)",
            "another position",
        ),
        (
            "UPDATE users SET event_count = event_count + 1 WHERE user_id = (SELECT user_id FROM users LIMIT 1)",
            "do not add up",
        ),
        (
            "UPDATE users SET event_count = event_count + CASE user_id WHEN 'user-0001' THEN 1 ELSE -1 END WHERE user_id IN ('user-0001', 'user-0002')",
            "users that differ",
        ),
        (
            "UPDATE users SET profile = profile || '{\"z\": 1}' WHERE user_id = 'user-0001'",
            "users that differ",
        ),
        (
            "DELETE FROM dead_letters WHERE (kafka_partition, kafka_offset) = (SELECT kafka_partition, kafka_offset FROM dead_letters LIMIT 1)",
            "without their dead letter",
        ),
        (
            "UPDATE dead_letters SET kafka_offset = 1000000 WHERE (kafka_partition, kafka_offset) = (SELECT kafka_partition, kafka_offset FROM dead_letters LIMIT 1)",
            "dead letters of well-formed",
        ),
        (
            "UPDATE dead_letters SET times_seen = 2 WHERE (kafka_partition, kafka_offset) = (SELECT kafka_partition, kafka_offset FROM dead_letters LIMIT 1)",
            "dead letters applied more than once",
        ),
        (
            "UPDATE source_offsets SET next_offset = next_offset - 1 WHERE partition = 1",
            "do not stand at their end",
        ),
    ] {
        // Rolled back: the next tampering starts from what is right.
        let mut conn = scene.db().await;
        let begin = sqlx::AssertSqlSafe(format!("BEGIN; {tampering}"));
        sqlx::raw_sql(begin).execute(&mut conn).await.unwrap();
        let found = scene.discrepancies_on(&mut conn, &ledger, Projection::Whole).await;
        assert!(found.iter().any(|line| line.contains(named)), "{tampering}\n{found:?}");
    }
    let found = scene.discrepancies(&ledger, Projection::Counts).await;
    assert_eq!(found, Vec::<String>::new());
}
