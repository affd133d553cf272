//! The same id and time is the same event, wherever and whenever it comes again.

use time::Duration;

use crate::support::{EventBuilder, Scene, ago, event};

/// An event with a time of its own that a retry repeats.
fn first() -> EventBuilder {
    event("ann", "1", "user.created").at(ago(Duration::minutes(5))).data(r#"{"n":1}"#)
}

/// One event of a user with profile `{"n": 1}`, from this position.
async fn took_effect_once(scene: &Scene, partition: i32, offset: i64) {
    let events: Vec<(i32, i64, serde_json::Value)> =
        scene.fetch_all("SELECT kafka_partition, kafka_offset, data FROM user_events").await;
    let data = serde_json::json!({"n": 1});
    assert_eq!(events, [(partition, offset, data.clone())]);
    let users: Vec<(String, i64, serde_json::Value)> =
        scene.fetch_all("SELECT user_id, event_count, profile FROM users").await;
    assert_eq!(users, [("ann".to_owned(), 1, data)]);
}

#[tokio::test]
async fn a_repeat_within_a_batch_has_no_effect_and_the_first_wins() {
    let scene = Scene::new(1).await;
    let first = first();
    let retry = first.clone().data(r#"{"n":2}"#);
    let mut events = vec![first];
    events.extend(std::iter::repeat_n(retry, 20));
    scene.send(&events).await;
    let fault = scene.fault(38, "one event 21 times in a batch");
    let worker = scene.worker().set("BATCH__LINGER", "1s").start().await;
    scene.caught_up().await;
    took_effect_once(&scene, 0, 0).await;
    worker.counted("applied", 1).await;
    worker.counted("duplicate", 20).await;
    fault.over();
}

#[tokio::test]
async fn a_repeat_in_a_later_batch_has_no_effect() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    let first = first();
    scene.send(std::slice::from_ref(&first)).await;
    scene.caught_up().await;
    for _ in 0..3 {
        scene.send(&[first.clone().data(r#"{"n":2}"#)]).await;
        scene.caught_up().await;
    }
    took_effect_once(&scene, 0, 0).await;
    worker.counted("applied", 1).await;
    worker.counted("duplicate", 3).await;
}

#[tokio::test]
async fn a_repeat_in_another_partition_has_no_effect() {
    let scene = Scene::new(2).await;
    let worker = scene.worker().start().await;
    let first = first();
    scene.send(&[first.clone().to(1)]).await;
    scene.caught_up().await;
    scene.send(&[first.clone().data(r#"{"n":2}"#).to(0), first.to(1)]).await;
    scene.caught_up().await;
    took_effect_once(&scene, 1, 0).await;
    worker.counted("duplicate", 2).await;
}

#[tokio::test]
async fn a_repeat_after_a_restart_has_no_effect() {
    let scene = Scene::new(1).await;
    let first = first();
    scene.send(std::slice::from_ref(&first)).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
    scene.send(&[first.data(r#"{"n":2}"#)]).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    took_effect_once(&scene, 0, 0).await;
    worker.counted("duplicate", 1).await;
    worker.counted("applied", 0).await;
}

#[tokio::test]
async fn the_same_id_at_another_time_is_another_event() {
    let scene = Scene::new(1).await;
    let at = ago(Duration::minutes(5));
    let later = at + Duration::microseconds(1);
    scene.send(&[event("ann", "1", "login").at(at), event("ann", "1", "login").at(later)]).await;
    let _worker = scene.worker().start().await;
    scene.caught_up().await;
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, 2);
    assert_eq!(scene.count("SELECT count(DISTINCT event_id) FROM user_events").await, 1);
    assert_eq!(scene.count("SELECT event_count FROM users").await, 2);
}

#[tokio::test]
async fn lanes_that_race_for_the_same_events_apply_each_once() {
    const EVENTS: usize = 300;
    let scene = Scene::new(4).await;
    let at = ago(Duration::minutes(5));
    let one = |n: usize| event(&format!("u{}", n % 20), &n.to_string(), "login").at(at);
    // Every event in every partition: each in an order of its own, so that ids cross.
    let mut events = Vec::new();
    for n in 0..EVENTS {
        for (partition, stride) in [(0, 1), (1, 7), (2, 11), (3, 299)] {
            events.push(one(n * stride % EVENTS).to(partition));
        }
    }
    scene.send(&events).await;
    let fault = scene.fault(23, "every event four times, in lanes that race for them");
    let worker =
        scene.worker().set("BATCH__LANES", "4").set("BATCH__MAX_EVENTS", "13").start().await;
    scene.caught_up().await;
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, EVENTS as i64);
    let counts: Vec<(i64,)> = scene.fetch_all("SELECT event_count FROM users").await;
    assert_eq!(counts, vec![(EVENTS as i64 / 20,); 20]);
    worker.counted("applied", EVENTS).await;
    worker.counted("duplicate", EVENTS * 3).await;
    fault.over();
}
