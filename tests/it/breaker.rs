//! The circuit breaker: a bad deployment halts its partition before the topic is drained into dead
//! letters; a trickle of poison never does.

use time::OffsetDateTime;

use crate::recovery::{halted, ready, row};
use crate::support::{EventBuilder, Scene, Worker, WorkerBuilder, event, eventually};

const LETTERS: &str = "SELECT count(*) FROM dead_letters";
const EVENTS: &str = "SELECT count(*) FROM user_events";

fn good(partition: i32, n: usize) -> EventBuilder {
    event(&format!("u{partition}"), &format!("{partition}-{n}"), "user.visited").to(partition)
}

fn bad(partition: i32) -> EventBuilder {
    event("u", "x", "user.visited").raw(Some(b"no json")).to(partition)
}

/// Limits of their own: the defaults are far apart from what a test wants to send.
fn limits(scene: &Scene, consecutive: usize, window: usize, ratio: f64) -> WorkerBuilder {
    scene
        .worker()
        .set("DEAD_LETTERS__BREAKER_CONSECUTIVE", &consecutive.to_string())
        .set("DEAD_LETTERS__BREAKER_WINDOW", &window.to_string())
        .set("DEAD_LETTERS__BREAKER_RATIO", &ratio.to_string())
}

/// What an operator does: a new epoch, and where to go on.
async fn move_by_hand(scene: &Scene, partition: i32, to: &str) {
    scene
        .execute(&format!(
            "UPDATE source_offsets SET next_offset = {to}, epoch = epoch + 1,
                    claimed_by = 'operator: me'
             WHERE topic = '{}' AND partition = {partition}",
            scene.topic
        ))
        .await;
}

async fn position(scene: &Scene, partition: i32) -> i64 {
    scene.positions().await.unwrap()[&partition]
}

/// Waits until a partition stands at an offset.
async fn stands_at(scene: &Scene, partition: i32, offset: i64) {
    eventually(&format!("partition {partition} stands at {offset}"), async || {
        (scene.positions().await?.get(&partition) == Some(&offset)).then_some(())
    })
    .await;
}

/// The offset that the reason for a halt names.
fn first_not_stored(reason: &str) -> i64 {
    let (_, rest) = reason.split_once("from offset ").expect("the reason names it");
    rest.split_once(' ').unwrap().0.parse().unwrap()
}

async fn reads_again(worker: &Worker, scene: &Scene, partition: i32) {
    eventually("the partition reads again", async || {
        (row(worker, &scene.topic, partition).await?["state"] == "reading").then_some(())
    })
    .await;
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 0.0);
}

#[tokio::test]
async fn nothing_but_dead_letters_halts_the_partition_at_the_limit_until_an_operator_moves_on() {
    const LIMIT: i64 = 50;
    let scene = Scene::new(2).await;
    let worker = limits(&scene, LIMIT as usize, 1000, 0.5).start().await;
    worker.holds(2).await;
    let fault = scene.fault(41, "nothing but poison, until an operator moves on");
    scene.send(&(0..20).map(|n| good(0, n)).collect::<Vec<_>>()).await;
    scene.send(&vec![bad(0); 500]).await;
    scene.send(&(0..20).map(|n| good(1, n)).collect::<Vec<_>>()).await;

    let reason = halted(&worker, &scene, 0).await;
    assert!(reason.contains("50 dead letters in a row, the last for not_json"), "{reason}");
    let stopped = first_not_stored(&reason);
    stands_at(&scene, 0, stopped).await;
    let letters = scene.count(LETTERS).await;
    assert!(letters < LIMIT, "{letters} were stored, the limit is {LIMIT}");
    assert_eq!(stopped, 20 + letters, "every good record before the bad ones was stored");
    ready(&worker).await;

    // Neither what is bad nor what is good behind it is touched; the other partition goes on.
    scene.send(&vec![bad(0); 200]).await;
    scene.send(&[good(0, 20)]).await;
    scene.send(&(20..300).map(|n| good(1, n)).collect::<Vec<_>>()).await;
    stands_at(&scene, 1, 300).await;
    assert_eq!(position(&scene, 0).await, stopped);
    assert_eq!(scene.count(LETTERS).await, letters);
    assert_eq!(scene.count(EVENTS).await, 20 + 300);
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 1.0);
    let told = worker.log().matches("partition halted").count();
    assert_eq!(told, 1, "once, loudly");

    move_by_hand(&scene, 0, "720").await;
    fault.ends(&scene).await;
    reads_again(&worker, &scene, 0).await;
    scene.send(&(21..40).map(|n| good(0, n)).collect::<Vec<_>>()).await;
    scene.caught_up().await;
    assert_eq!(scene.count(EVENTS).await, 40 + 300);
    assert_eq!(scene.count(LETTERS).await, letters);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_partition_held_back_stays_so_over_a_restart_until_the_limits_are_lifted() {
    let scene = Scene::new(1).await;
    scene.send(&(0..10).map(|n| good(0, n)).collect::<Vec<_>>()).await;
    scene.send(&vec![bad(0); 300]).await;
    scene.send(&[good(0, 10)]).await;
    let worker = limits(&scene, 100, 0, 0.0).start().await;
    halted(&worker, &scene, 0).await;
    assert_eq!(worker.stop().await, Some(0), "a halted partition holds up no orderly end");
    let first = scene.count(LETTERS).await;

    let worker = limits(&scene, 100, 0, 0.0).start().await;
    halted(&worker, &scene, 0).await;
    let second = scene.count(LETTERS).await - first;
    assert!(first < 100 && second < 100, "each claim counts anew: {first}, then {second}");
    assert_eq!(scene.count(EVENTS).await, 10);
    assert_eq!(worker.stop().await, Some(0));

    let worker = limits(&scene, 0, 0, 0.0).start().await;
    scene.caught_up().await;
    assert_eq!(scene.count(LETTERS).await, 300, "let through, as the operator said");
    assert_eq!(scene.count(EVENTS).await, 11);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_large_share_of_dead_letters_halts_and_a_trickle_never_does() {
    let scene = Scene::new(2).await;
    // Partition 0: of every three records two are bad; partition 1: of every hundred one.
    let mixed = |n: usize| if n.is_multiple_of(3) { good(0, n) } else { bad(0) };
    let trickle = |n: usize| if n % 100 == 50 { bad(1) } else { good(1, n) };
    scene.send(&(0..1200).map(mixed).collect::<Vec<_>>()).await;
    scene.send(&(0..3000).map(trickle).collect::<Vec<_>>()).await;
    let worker = limits(&scene, 10, 100, 0.5).start().await;
    let fault = scene.fault(41, "two of three records of one partition are poison, 1 % of another");

    let reason = halted(&worker, &scene, 0).await;
    assert!(reason.contains("dead letters among the last 100 records"), "{reason}");
    stands_at(&scene, 1, 3000).await;
    let stored = |partition| format!("{LETTERS} WHERE kafka_partition = {partition}");
    let letters = scene.count(&stored(0)).await;
    assert!(letters < 100, "{letters} of partition 0");
    assert_eq!(scene.count(&stored(1)).await, 30);
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 1.0);
    fault.over();
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn the_default_limits_let_a_trickle_pass_and_stop_a_bad_deployment() {
    let scene = Scene::new(1).await;
    let trickle = |n: usize| if n % 100 == 50 { bad(0) } else { good(0, n) };
    scene.send(&(0..2000).map(trickle).collect::<Vec<_>>()).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    assert_eq!(scene.count(LETTERS).await, 20);

    scene.send(&vec![bad(0); 1000]).await;
    halted(&worker, &scene, 0).await;
    let letters = scene.count(LETTERS).await;
    assert!(letters < 20 + 250, "{letters}");
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_database_that_refuses_every_event_halts_and_goes_on_once_mended() {
    let scene = Scene::new(1).await;
    scene.migrate().await;
    scene
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE 'not one of them' USING ERRCODE = '22023'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON user_events
             FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    scene.send(&(0..100).map(|n| good(0, n)).collect::<Vec<_>>()).await;
    let worker = limits(&scene, 10, 0, 0.0).start().await;
    let fault = scene.fault(41, "a database that refuses every event, until it is mended");
    let reason = halted(&worker, &scene, 0).await;
    assert!(reason.contains("10 dead letters in a row, the last for rejected_by_database"));
    assert_eq!(scene.count(LETTERS).await, 9, "the tenth was not stored");
    assert_eq!(position(&scene, 0).await, 9);

    scene.execute("DROP TRIGGER refuse ON user_events").await;
    move_by_hand(&scene, 0, "0").await;
    fault.ends(&scene).await;
    reads_again(&worker, &scene, 0).await;
    assert_eq!(scene.count(EVENTS).await, 100, "the nine, too: read again from the beginning");
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn tombstones_and_duplicates_never_trip_the_breaker() {
    let scene = Scene::new(1).await;
    let tombstone = event("u", "x", "user.visited").raw(None).to(0);
    scene.send(&vec![tombstone; 100]).await;
    scene.send(&vec![good(0, 0); 100]).await;
    let worker = limits(&scene, 5, 10, 0.1).start().await;
    scene.caught_up().await;
    worker.counted("dead_lettered", 100).await;
    worker.counted("duplicate", 99).await;
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 0.0);

    // Between tombstones, bad records are still in a row.
    let mixed =
        |n: usize| if n.is_multiple_of(2) { bad(0) } else { event("u", "x", "-").raw(None).to(0) };
    scene.send(&(0..20).map(mixed).collect::<Vec<_>>()).await;
    halted(&worker, &scene, 0).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn lag_of_a_partition_held_back_is_the_age_of_the_first_record_not_stored() {
    let scene = Scene::new(1).await;
    let now = OffsetDateTime::now_utc().unix_timestamp() * 1000;
    let ago = |minutes: i64| now - 60_000 * minutes;
    let mut events = vec![good(0, 0).sent_at(ago(120)), bad(0).sent_at(ago(60))];
    events.extend(vec![bad(0).sent_at(ago(10)); 5]);
    scene.send(&events).await;
    let worker = limits(&scene, 3, 0, 0.0).start().await;
    halted(&worker, &scene, 0).await;
    stands_at(&scene, 0, 1).await;
    let age = eventually("the good record's age is no longer told", async || {
        let age = worker.metric("user_events_lag_seconds", "partition=\"0\"").await;
        (age > 0.0 && age < 7200.0).then_some(age)
    })
    .await;
    assert!((3600.0..3720.0).contains(&age), "an hour: {age}");
    assert_eq!(worker.stop().await, Some(0));
}
