//! Batches as spans, received by a collector of the test's own over OTLP.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message;
use tokio::net::TcpListener;

use crate::support::{Scene, WorkerBuilder, event, eventually};

type Requests = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// Takes what is exported, as an OpenTelemetry collector would.
struct Collector {
    endpoint: String,
    requests: Requests,
}

impl Collector {
    async fn start() -> Self {
        let requests = Requests::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().route("/v1/traces", post(take)).with_state(requests.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { endpoint, requests }
    }

    /// The spans of batches that had records, with the service that sent them.
    fn spans(&self) -> Vec<(String, Span)> {
        let requests = self.requests.lock().unwrap();
        let mut spans = Vec::new();
        for resource in requests.iter().flat_map(|request| &request.resource_spans) {
            let attributes = &resource.resource.as_ref().unwrap().attributes;
            let service = text(attributes, "service.name").unwrap();
            let sent = resource.scope_spans.iter().flat_map(|scope| scope.spans.clone());
            spans.extend(sent.map(|span| (service.clone(), span)));
        }
        spans.retain(|(_, span)| int(span, "messaging.batch.message_count") != Some(0));
        spans
    }
}

async fn take(State(requests): State<Requests>, headers: HeaderMap, body: Bytes) {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    requests.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|kv| kv.key == key)?.value.as_ref()?.value.as_ref()
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match attribute(attributes, key)? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn int(span: &Span, key: &str) -> Option<i64> {
    match attribute(&span.attributes, key)? {
        Value::IntValue(number) => Some(*number),
        _ => None,
    }
}

fn traceparent(number: usize) -> String {
    format!("00-{number:032x}-00000000000000aa-01")
}

fn trace_ids(span: &Span) -> Vec<usize> {
    let id = |bytes: &[u8]| u128::from_be_bytes(bytes.try_into().unwrap()) as usize;
    let mut ids: Vec<_> = span.links.iter().map(|link| id(&link.trace_id)).collect();
    ids.sort_unstable();
    ids
}

/// Spans leave only when the worker ends, unless told otherwise.
fn traced(scene: &Scene, endpoint: &str) -> WorkerBuilder {
    scene
        .worker()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "3600000")
}

#[tokio::test]
async fn a_batch_is_a_span_linked_to_its_producers_and_sent_before_the_end() {
    let scene = Scene::new(1).await;
    let collector = Collector::start().await;
    let parent = traceparent(1);
    let events = [
        event("u1", "a", "x").header("traceparent", Some(parent.as_bytes())),
        event("u1", "b", "x").binary().header("traceparent", Some(traceparent(2).as_bytes())),
        event("u1", "c", "x").with("traceparent", traceparent(3)).with("tracestate", "vendor=1"),
        event("u1", "d", "x").binary().with("traceparent", traceparent(4)),
        event("u1", "e", "x").with("traceparent", "rubbish"),
        event("u1", "f", "x").header("traceparent", Some(parent.as_bytes())),
        event("u1", "f", "x").raw(Some(b"no json")),
    ];
    scene.send(&events).await;
    let worker = traced(&scene, &collector.endpoint).set("BATCH__LINGER", "1s").start().await;
    scene.caught_up().await;
    assert!(collector.spans().is_empty(), "only the end sends them");
    assert_eq!(worker.stop().await, Some(0));

    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "one span for one batch");
    let (service, span) = &spans[0];
    assert_eq!(service, "user-events-worker");
    assert_eq!(span.name, format!("process {}", scene.topic));
    assert_eq!(span.kind(), SpanKind::Consumer);
    for (key, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.type", "process"),
        ("messaging.operation.name", "process"),
        ("messaging.destination.name", &scene.topic),
        ("messaging.consumer.group.name", &scene.group),
    ] {
        assert_eq!(text(&span.attributes, key).as_deref(), Some(value), "{key}");
    }
    for (key, value) in [
        ("messaging.batch.message_count", 7),
        ("user_events.outcome.applied", 6),
        ("user_events.outcome.dead_lettered", 1),
        ("user_events.outcome.duplicate", 0),
    ] {
        assert_eq!(int(span, key), Some(value), "{key}");
    }
    assert_eq!(trace_ids(span), [1, 2, 3, 4], "each producer once");
    assert!(span.links.iter().any(|link| link.trace_state == "vendor=1"));
    assert!(span.parent_span_id.is_empty(), "linked, not a child");
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    assert_eq!(span.status.as_ref().map_or(0, |status| status.code), StatusCode::Unset as i32);
}

#[tokio::test]
async fn a_span_has_at_most_128_links() {
    let scene = Scene::new(1).await;
    let collector = Collector::start().await;
    let events: Vec<_> = (1..=300)
        .map(|n| event("u1", &n.to_string(), "x").with("traceparent", traceparent(n)))
        .collect();
    scene.send(&events).await;
    let worker = traced(&scene, &collector.endpoint).set("BATCH__LINGER", "1s").start().await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
    let spans = collector.spans();
    let count = |span: &Span| int(span, "messaging.batch.message_count").unwrap();
    assert_eq!(spans.iter().map(|(_, span)| count(span)).sum::<i64>(), 300);
    for (_, span) in &spans {
        assert_eq!(trace_ids(span).len() as i64, count(span).min(128));
    }
    assert!(spans.iter().any(|(_, span)| span.links.len() == 128), "the limit was met");
}

#[tokio::test]
async fn an_attempt_that_fails_is_a_span_that_says_why() {
    let scene = Scene::new(1).await;
    let collector = Collector::start().await;
    let worker = traced(&scene, &collector.endpoint).set("POSTGRES__LOCK_TIMEOUT", "100ms");
    let worker = worker.env("OTEL_BSP_SCHEDULE_DELAY", "100").start().await;
    worker.holds(1).await;
    let users = scene.hold("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
    scene.send(&[event("u1", "a", "x").with("traceparent", traceparent(9))]).await;
    let failed = eventually("the failed attempt arrives while work goes on", async || {
        collector.spans().into_iter().next()
    })
    .await
    .1;
    assert_eq!(text(&failed.attributes, "error.type").as_deref(), Some("retry"));
    assert_eq!(failed.status.as_ref().unwrap().code, StatusCode::Error as i32);
    assert_eq!(trace_ids(&failed), [9]);
    users.release().await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
    let (_, last) = collector.spans().pop().unwrap();
    assert_eq!(int(&last, "user_events.outcome.applied"), Some(1));
}

#[tokio::test]
async fn a_protocol_that_is_not_built_in_is_refused_by_name() {
    let scene = Scene::new(1).await;
    for (name, value, says) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://localhost:4318/v1/traces", "https"),
    ] {
        let worker = traced(&scene, "http://127.0.0.1:1").env(name, value);
        let (code, _, errors) = worker.output().await;
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains(name) && errors.contains(says), "{errors}");
    }
}

#[tokio::test]
async fn without_a_collector_the_worker_works_on_and_says_so_once() {
    let scene = Scene::new(1).await;
    let worker = traced(&scene, "http://127.0.0.1:1").env("OTEL_BSP_SCHEDULE_DELAY", "20");
    let worker = worker.start().await;
    for id in ["a", "b", "c"] {
        scene.send(&[event("u1", id, "x")]).await;
        scene.caught_up().await;
    }
    eventually("the loss is said", async || {
        worker.log().contains("spans could not be exported").then_some(())
    })
    .await;
    assert_eq!(worker.log().matches("spans could not be exported").count(), 1);
    assert_eq!(worker.get("/readyz").await.0, 200);
    assert_eq!(scene.fetch_one::<(i64,)>("SELECT event_count FROM users").await, (3,));
    assert_eq!(worker.stop().await, Some(0));
}
