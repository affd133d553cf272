//! The shortest way through everything.

use crate::support::{Scene, event};

#[tokio::test]
async fn an_event_published_is_an_event_applied() {
    let scene = Scene::new(2).await;
    scene.send(&[event("u1", "a", "user.created").data(r#"{"name":"Ann","age":null}"#)]).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;

    let (profile, count): (serde_json::Value, i64) =
        scene.fetch_one("SELECT profile, event_count FROM users WHERE user_id = 'u1'").await;
    assert_eq!((profile, count), (serde_json::json!({"name": "Ann"}), 1));
    assert_eq!(worker.stop().await, Some(0), "an orderly end exits with 0");
}
