//! A wake-up that never comes: no error, no end, just silence.

use crate::support::{Scene, event, eventually};

#[tokio::test]
async fn a_lane_that_never_hears_of_its_batch_begins_again_by_itself() {
    let scene = Scene::new(1).await;
    let worker = scene
        .worker()
        .set("POSTGRES__LOCK_TIMEOUT", "500ms")
        .set("POSTGRES__STATEMENT_TIMEOUT", "1s")
        .failpoint("lost-answer=1*return")
        .start()
        .await;
    let fault = scene.fault(11, "a batch whose answer never comes");
    scene.send(&[event("ann", "1", "login")]).await;
    eventually("the silence is noticed", async || {
        worker.log().contains("postgres is silent").then_some(())
    })
    .await;
    scene.send(&[event("ann", "2", "login")]).await;
    fault.ends(&scene).await;
    assert_eq!(scene.count("SELECT event_count FROM users").await, 2);
    worker.holds(1).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_poll_thread_that_stands_still_fails_liveness_and_is_named() {
    let scene = Scene::new(1).await;
    let worker = scene
        .worker()
        .set("WATCH__LOOP_STALL", "3s")
        .failpoint("stuck-poll=100*off->return")
        .start()
        .await;
    assert_eq!(worker.get("/livez").await.0, 200, "alive at first");
    let why = eventually("liveness drops", async || {
        let (code, why) = worker.get("/livez").await;
        (code == 503).then_some(why)
    })
    .await;
    assert!(why.contains("poll"), "{why}");
}
