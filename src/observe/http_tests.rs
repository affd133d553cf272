#![allow(clippy::unwrap_used)]

use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::{Value, json};
use tower::Service;

use super::super::board::{Identity, PartitionState};
use super::super::metrics::{PipelineMetrics, describe, recorder};
use super::*;
use crate::types::{Epoch, Offset, TopicPartition};

fn state() -> HttpState {
    let identity = Identity { group: "g".to_owned(), worker_id: "w-1".to_owned() };
    let recorder = recorder().unwrap();
    metrics::with_local_recorder(&recorder, || {
        describe();
        PipelineMetrics::new();
    });
    HttpState {
        board: StatusBoard::new(identity),
        metrics: recorder.handle(),
        loop_stall: Duration::from_millis(200),
    }
}

async fn ask(state: &HttpState, path: &str) -> (StatusCode, String, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router(state.clone()).call(request).await.unwrap();
    let kind = response.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap());
    let (status, kind) = (response.status(), kind.unwrap_or("").to_owned());
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, kind, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn health_follows_the_board() {
    let state = state();
    let (status, _, body) = ask(&state, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, "starting\nPostgres, lane 0: not connected yet\n");

    state.board.lifecycle(Lifecycle::Running);
    state.board.postgres(0, Health::Up);
    let (status, _, body) = ask(&state, "/readyz").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "ok\n"));

    let beat = state.board.heartbeat("poll");
    assert_eq!(ask(&state, "/livez").await.0, StatusCode::OK);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (status, _, body) = ask(&state, "/livez").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.starts_with("poll has not turned"), "{body}");
    beat.beat();
    assert_eq!(ask(&state, "/livez").await.0, StatusCode::OK);
}

#[tokio::test]
async fn status_tells_of_every_partition() {
    let state = state();
    let source = TopicPartition::new("t", 3);
    state.board.assigned(&source);
    state.board.claimed(&source, Epoch(7), Some(Offset(10)));
    state.board.reading(&source, PartitionState::Reading);
    state.board.end(&source, Offset(10));
    state.board.fetched(&source, Offset(10), Offset(10));
    state.board.kafka(Health::Up);
    let (status, kind, body) = ask(&state, "/status").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/json"));
    let mut body: Value = serde_json::from_str(&body).unwrap();
    assert!(body["uptime_seconds"].take().is_u64());
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "group": "g",
        "worker_id": "w-1",
        "lifecycle": "starting",
        "uptime_seconds": null,
        "kafka": { "up": true, "reason": null },
        "postgres": [{ "up": false, "reason": "not connected yet" }],
        "partitions": [{
            "topic": "t", "partition": 3, "state": "reading", "epoch": 7, "applied": 10, "end": 10,
            "lag_records": 0, "lag_seconds": 0.0, "withheld_records": 0, "withheld_seconds": 0.0,
            "last_error": null, "standing_seconds": 0
        }],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn metrics_are_counters_and_gauges_on_one_page() {
    let state = state();
    let (status, kind, body) = ask(&state, "/metrics").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, METRICS_TEXT));
    assert!(body.contains("user_events_outcomes_total{outcome=\"applied\"} 0\n"));
    assert!(body.contains("user_events_partitions_assigned 0\n"));
    // Each family once: a second `# TYPE` would make Prometheus refuse the page.
    let mut types: Vec<_> = body.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let all = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), all);
}

#[tokio::test]
async fn the_index_names_the_routes() {
    let state = state();
    let (status, _, body) = ask(&state, "/").await;
    assert_eq!(status, StatusCode::OK);
    for path in ["/livez", "/readyz", "/metrics", "/status"] {
        assert!(body.contains(path));
        assert_ne!(ask(&state, path).await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(ask(&state, "/nothing").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn serving_ends_when_asked_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move { stopped.await.unwrap_or_default() };
    let server = tokio::spawn(serve(listener, state(), shutdown));
    let body = reqwest::get(format!("http://{addr}/livez")).await.unwrap().text().await.unwrap();
    assert_eq!(body, "ok\n");
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap().unwrap();
}
