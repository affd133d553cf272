//! An operator moves an offset by hand: backwards changes nothing, forwards skips.

use time::Duration;

use crate::support::{EventBuilder, Scene, Worker, ago, event, eventually};

/// Every kind of event of 20 users, some with a sequence, some stale, some repeated, one bad.
fn mixed(events: usize) -> Vec<EventBuilder> {
    let at = ago(Duration::hours(1));
    let kinds = ["user.created", "user.updated", "login", "user.deleted", "user.updated"];
    (0..events)
        .map(|n| {
            let id = if n % 10 == 9 { n - 1 } else { n };
            let event = event(&format!("u{}", id % 20), &id.to_string(), kinds[id % kinds.len()])
                .at(at + Duration::seconds(id as i64))
                .data(&format!(r#"{{"m{}":{id},"x":null}}"#, id % 3));
            match id % 7 {
                0 => event.sequence(id as i64),
                1 => event.sequence(id as i64 / 2),
                2 if n % 100 == 2 => event.raw(Some(b"{")),
                _ => event,
            }
        })
        .collect()
}

/// So many records have been counted, whatever became of them.
async fn counted_at_least(worker: &Worker, records: usize) {
    eventually(&format!("{records} records are counted"), async || {
        let counted = worker.metric("user_events_outcomes_total", "").await;
        (counted >= records as f64).then_some(())
    })
    .await;
}

async fn a_rewind_of_an_idle_worker_changes_nothing(rewind: &str) {
    let scene = Scene::new(3).await;
    scene.send(&mixed(300)).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    let before = scene.fingerprint().await;
    for round in 2..=3 {
        scene.execute(rewind).await;
        scene.caught_up().await;
        counted_at_least(&worker, 300 * round).await;
        assert_eq!(scene.fingerprint().await, before);
    }
    // The worker that held the partitions holds them still.
    let claimers: Vec<(String,)> =
        scene.fetch_all("SELECT DISTINCT claimed_by FROM source_offsets").await;
    assert!(claimers.len() == 1 && !claimers[0].0.starts_with("operator"), "{claimers:?}");
    scene.send(&[event("new", "new", "login")]).await;
    scene.caught_up().await;
    assert_eq!(scene.count("SELECT event_count FROM users WHERE user_id = 'new'").await, 1);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_rewind_without_a_name_changes_nothing() {
    let rewind = "UPDATE source_offsets SET epoch = epoch + 1, next_offset = 0";
    a_rewind_of_an_idle_worker_changes_nothing(rewind).await;
}

#[tokio::test]
async fn a_rewind_in_an_operators_name_changes_nothing() {
    let rewind = "UPDATE source_offsets SET epoch = epoch + 1, next_offset = 0,
                  claimed_by = 'operator:ann', claimed_at = now()";
    a_rewind_of_an_idle_worker_changes_nothing(rewind).await;
}

#[tokio::test]
async fn a_rewind_while_the_worker_is_stopped_changes_nothing() {
    let scene = Scene::new(3).await;
    scene.send(&mixed(300)).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
    let before = scene.fingerprint().await;
    scene.rewind().await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    counted_at_least(&worker, 300).await;
    worker.counted("applied", 0).await;
    assert_eq!(scene.fingerprint().await, before);
}

#[tokio::test]
async fn rewinds_under_load_change_nothing() {
    const CHUNKS: usize = 40;
    const CHUNK: usize = 100;
    let scene = Scene::new(3).await;
    let worker = scene.worker().set("BATCH__MAX_EVENTS", "50").start().await;
    let events = mixed(CHUNKS * CHUNK);
    let load = async {
        for chunk in events.chunks(CHUNK) {
            scene.send(chunk).await;
        }
    };
    let moves = async {
        for round in 1..=6_usize {
            // Not before something of the load was applied since the last move.
            eventually("the load goes on", async || {
                let positions = scene.positions().await?;
                (positions.values().sum::<i64>() > 300 * round as i64).then_some(())
            })
            .await;
            scene.rewind().await;
        }
    };
    tokio::join!(load, moves);
    scene.caught_up().await;
    assert!(worker.metric("user_events_fenced_total", "").await > 0.0, "it was under load");
    // No batch under way carried its partition back to where it was: all was read again.
    counted_at_least(&worker, CHUNKS * CHUNK + 300 * (1 + 2 + 3 + 4 + 5 + 6)).await;

    // A worker that nobody disturbed says what must be there.
    let calm = Scene::new(3).await;
    calm.send(&events).await;
    let _calm = calm.worker().start().await;
    calm.caught_up().await;
    let users = "SELECT coalesce(md5(string_agg(u::text, '|' ORDER BY user_id)), '') FROM users u";
    let ledger = "SELECT md5(string_agg(concat_ws('|', event_id, occurred_at, kafka_partition,
                      kafka_offset, sequence, source, type, user_id, data), '|'
                      ORDER BY event_id, occurred_at)) FROM user_events";
    let letters = "SELECT string_agg(concat_ws('|', kafka_partition, kafka_offset, reason), ' '
                       ORDER BY kafka_partition, kafka_offset) FROM dead_letters";
    for what in [users, ledger, letters] {
        let (found, expected): ((String,), (String,)) =
            tokio::join!(scene.fetch_one(what), calm.fetch_one(what));
        assert_eq!(found, expected, "{what}");
    }
}

#[tokio::test]
async fn a_skip_forward_while_the_worker_is_stopped_leaves_those_records_out() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    scene.send(&mixed(5)).await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
    scene.send(&[event("skipped", "s", "login"), event("ann", "a", "login")]).await;
    scene.execute("UPDATE source_offsets SET epoch = epoch + 1, next_offset = 6").await;
    let _worker = scene.worker().start().await;
    scene.caught_up().await;
    let ledger: Vec<(i64,)> =
        scene.fetch_all("SELECT kafka_offset FROM user_events ORDER BY 1").await;
    assert_eq!(ledger, [0, 1, 3, 4, 6].map(|offset| (offset,)), "2 is bad, 5 was skipped");
    assert_eq!(scene.count("SELECT count(*) FROM users WHERE user_id = 'skipped'").await, 0);
}

#[tokio::test]
async fn a_skip_forward_past_a_batch_under_way_fences_it() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    scene.send(&[event("ann", "1", "login")]).await;
    scene.caught_up().await;

    // Hold the worker at the fence, with the records to be skipped in its hands.
    let mut operator = scene.db().await;
    let mut hold = sqlx::Connection::begin(&mut operator).await.unwrap();
    sqlx::query("SELECT FROM source_offsets FOR UPDATE").execute(&mut *hold).await.unwrap();
    scene.send(&[event("skipped", "2", "login"), event("ann", "3", "login")]).await;
    scene.waiting_for("source_offsets", 1).await;
    sqlx::query(
        "UPDATE source_offsets SET epoch = epoch + 1, next_offset = 2, claimed_by = 'operator:ann'",
    )
    .execute(&mut *hold)
    .await
    .unwrap();
    hold.commit().await.unwrap();

    scene.caught_up().await;
    let ledger: Vec<(i64,)> =
        scene.fetch_all("SELECT kafka_offset FROM user_events ORDER BY 1").await;
    assert_eq!(ledger, [(0,), (2,)]);
    assert_eq!(scene.count("SELECT count(*) FROM users WHERE user_id = 'skipped'").await, 0);
    assert_eq!(worker.metric("user_events_fenced_total", "").await, 1.0);
    worker.counted("applied", 2).await;
}

#[tokio::test]
async fn a_move_of_one_partition_leaves_the_others_alone() {
    let scene = Scene::new(2).await;
    scene.send(&[event("ann", "1", "login").to(0), event("bob", "2", "login").to(1)]).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    let epoch = "SELECT epoch FROM source_offsets WHERE partition = 1";
    let before = scene.count(epoch).await;
    scene
        .execute("UPDATE source_offsets SET epoch = epoch + 1, next_offset = 0 WHERE partition = 0")
        .await;
    scene.caught_up().await;
    worker.counted("duplicate", 1).await;
    worker.counted("applied", 2).await;
    assert_eq!(scene.count(epoch).await, before);
}
