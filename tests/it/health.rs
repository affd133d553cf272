//! What probes and operators ask a running worker.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use serde_json::Value;
use user_events_worker::config::Config;

use crate::support::{Scene, Worker, event, eventually};

async fn ready(worker: &Worker) -> bool {
    worker.get("/readyz").await.0 == 200
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_worker_is_alive_at_once_but_ready_only_when_its_claims_are_done() {
    let scene = Scene::new(2).await;
    scene.migrate().await;
    let claims = scene.hold("LOCK TABLE source_offsets IN ACCESS EXCLUSIVE MODE").await;
    let worker = scene.worker().start().await;
    assert_eq!(worker.get("/livez").await, (200, "ok\n".into()));
    let reasons = eventually("claims are under way", async || {
        let (code, reasons) = worker.get("/readyz").await;
        assert_eq!(code, 503, "not ready before the claims are done");
        reasons.contains("is not claimed yet").then_some(reasons)
    })
    .await;
    assert!(reasons.contains(&format!("{}[0]", scene.topic)), "{reasons}");
    let status = worker.status().await;
    assert_eq!(status["lifecycle"], "running");
    assert_eq!(status["partitions"][0]["state"], "claiming");

    claims.release().await;
    worker.holds(2).await;
    assert_eq!(worker.get("/readyz").await, (200, "ok\n".into()));
}

#[tokio::test]
async fn readiness_ends_with_sigterm_and_the_batch_under_way_is_finished() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    worker.holds(1).await;
    let users = scene.hold("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
    scene.send(&[event("u1", "a", "x")]).await;
    eventually("the batch is being written", async || {
        let waiting: (i64,) = scene
            .fetch_one(&format!(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '\"{}\".users'::regclass",
                scene.schema
            ))
            .await;
        (waiting.0 == 1).then_some(())
    })
    .await;
    assert!(ready(&worker).await, "a slow batch is no reason to be taken out");

    worker.signal(Signal::SIGTERM);
    let reasons = eventually("readiness ends", async || {
        let (code, reasons) = worker.get("/readyz").await;
        (code == 503).then_some(reasons)
    })
    .await;
    assert!(reasons.contains("stopping"), "{reasons}");
    assert_eq!(worker.get("/livez").await.0, 200, "stopping is not dying");
    assert_eq!(worker.status().await["lifecycle"], "stopping");

    users.release().await;
    assert_eq!(worker.exited().await, Some(0));
    assert_eq!(scene.fetch_one::<(i64,)>("SELECT event_count FROM users").await, (1,));
}

#[tokio::test]
async fn a_worker_with_nothing_assigned_is_ready() {
    let scene = Scene::new(1).await;
    let first = scene.worker().start().await;
    first.holds(1).await;
    let second = scene.worker().start().await;
    second.holds(0).await;
    first.holds(1).await;
    eventually("the idle one knows that Kafka answers", async || {
        (second.status().await["kafka"]["up"] == true).then_some(())
    })
    .await;
    // The idle one is not idle for nothing.
    assert_eq!(first.stop().await, Some(0));
    second.holds(1).await;
}

#[tokio::test]
async fn status_tells_all_about_every_partition() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().set("BATCH__LANES", "3").start().await;
    worker.holds(1).await;
    scene.send(&[event("u1", "a", "x"), event("u1", "b", "x")]).await;
    let status = eventually("status shows the end", async || {
        let status = worker.status().await;
        let partition = &status["partitions"][0];
        (partition["applied"] == 2 && partition["end"] == 2).then_some(status)
    })
    .await;
    let fields = [
        "version",
        "group",
        "worker_id",
        "lifecycle",
        "uptime_seconds",
        "kafka",
        "postgres",
        "partitions",
    ];
    assert_eq!(keys(&status), fields.into());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["group"], scene.group);
    assert_eq!(status["lifecycle"], "running");
    assert!(status["uptime_seconds"].is_u64());
    let up = serde_json::json!({"up": true, "reason": null});
    assert_eq!(status["kafka"], up);
    assert_eq!(status["postgres"], serde_json::json!([up, up, up]), "one for each lane");

    let partition = &status["partitions"][0];
    let fields = [
        "topic",
        "partition",
        "state",
        "epoch",
        "applied",
        "end",
        "lag_records",
        "lag_seconds",
        "withheld_records",
        "withheld_seconds",
        "last_error",
        "standing_seconds",
    ];
    assert_eq!(keys(partition), fields.into());
    assert_eq!(partition["topic"], scene.topic);
    assert_eq!(partition["state"], "reading");
    assert_eq!((&partition["lag_records"], &partition["lag_seconds"]), (&0.into(), &0.0.into()));
    assert_eq!(partition["last_error"], Value::Null);
    let (claimed_by, epoch): (String, i64) =
        scene.fetch_one("SELECT claimed_by, epoch FROM source_offsets").await;
    assert_eq!((&status["worker_id"], &partition["epoch"]), (&claimed_by.into(), &epoch.into()));
}

#[tokio::test]
async fn postgres_away_ends_readiness_and_says_why() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().set("POSTGRES__URL", "postgres://nobody@127.0.0.1:1/none");
    let worker = worker.start().await;
    let reasons = eventually("the reason is known", async || {
        let (code, reasons) = worker.get("/readyz").await;
        assert_eq!(code, 503);
        reasons.contains("refused").then_some(reasons)
    })
    .await;
    assert!(reasons.contains("starting") && reasons.contains("Postgres"), "{reasons}");
    assert_eq!(worker.get("/livez").await.0, 200, "a restart would not help");
    assert_eq!(worker.metric("user_events_postgres_up", "").await, 0.0);
    assert_eq!(worker.status().await["postgres"][0]["up"], false);
    assert_eq!(worker.stop().await, Some(0), "waiting can be ended in order");
}

#[tokio::test]
async fn paths_that_do_not_exist_and_addresses_that_are_taken_are_refused() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    assert_eq!(worker.get("/nothing").await.0, 404);
    assert_eq!(worker.get("/metrics/").await.0, 404);
    let (code, index) = worker.get("/").await;
    assert_eq!(code, 200);
    for path in ["/livez", "/readyz", "/metrics", "/status"] {
        assert!(index.contains(path), "{index}");
    }
    let post = reqwest::Client::new().post(format!("http://{}/readyz", worker.addr())).send();
    assert_eq!(post.await.unwrap().status(), 405);

    let (code, _, log) = scene.worker().set("HTTP__LISTEN", worker.addr()).output().await;
    assert_eq!(code, Some(1));
    assert!(log.contains("http.listen") && log.contains(worker.addr()), "{log}");
}

#[test]
fn only_this_machine_is_served_unless_configured_otherwise() {
    let config = Config::load(None, std::iter::empty()).unwrap();
    assert!(config.http.listen.ip().is_loopback(), "{}", config.http.listen);
}
