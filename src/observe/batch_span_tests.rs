#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use opentelemetry::Value;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};

use super::*;

#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Kept {
    fn tracer(&self) -> (SdkTracerProvider, SdkTracer) {
        let provider = SdkTracerProvider::builder().with_simple_exporter(self.clone()).build();
        let tracer = provider.tracer("test");
        (provider, tracer)
    }

    fn only(&self) -> SpanData {
        let mut spans = self.0.lock().unwrap();
        assert_eq!(spans.len(), 1);
        spans.remove(0)
    }
}

fn info(topic: Option<&'static str>) -> BatchSpanInfo<'static> {
    BatchSpanInfo { topic, group: "g", message_count: 3, lane: 1 }
}

fn attribute(span: &SpanData, key: &str) -> Option<Value> {
    span.attributes.iter().find(|kv| kv.key.as_str() == key).map(|kv| kv.value.clone())
}

fn parts(traceparent: &str) -> TraceContextParts<'_> {
    TraceContextParts { traceparent, tracestate: None }
}

#[test]
fn a_batch_says_what_it_is_and_how_it_went() {
    let kept = Kept::default();
    let (_provider, tracer) = kept.tracer();
    let mut counts = OutcomeCounts::default();
    counts.add(Outcome::Applied, 2);
    let producer = TraceContextParts {
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        tracestate: Some("vendor=1"),
    };
    let links = [producer, producer, parts("rubbish")];
    BatchSpan(Some(start(&tracer, &info(Some("t")), links.into_iter()))).finish(&counts);

    let span = kept.only();
    assert_eq!((span.name.as_ref(), span.span_kind.clone()), ("process t", SpanKind::Consumer));
    for (key, value) in [
        ("messaging.system", Value::from("kafka")),
        ("messaging.operation.type", Value::from("process")),
        ("messaging.operation.name", Value::from("process")),
        ("messaging.consumer.group.name", Value::from("g")),
        ("messaging.destination.name", Value::from("t")),
        ("messaging.batch.message_count", Value::from(3)),
        ("user_events.outcome.applied", Value::from(2)),
        ("user_events.outcome.skipped", Value::from(0)),
    ] {
        assert_eq!(attribute(&span, key), Some(value), "{key}");
    }
    assert_eq!(span.status, Status::Unset);
    assert_eq!(span.links.len(), 1);
    let link = &span.links[0].span_context;
    assert_eq!(link.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(link.trace_state().header(), "vendor=1");
    assert_ne!(span.span_context.trace_id(), link.trace_id(), "linked, not a child");
}

#[test]
fn a_failed_batch_says_why() {
    let kept = Kept::default();
    let (_provider, tracer) = kept.tracer();
    BatchSpan(Some(start(&tracer, &info(None), std::iter::empty()))).fail("outage");
    let span = kept.only();
    assert_eq!(span.name, "process");
    assert_eq!(attribute(&span, "messaging.destination.name"), None);
    assert_eq!(attribute(&span, "error.type"), Some(Value::from("outage")));
    assert_eq!(span.status, Status::error("outage"));
}

#[test]
fn links_are_bounded() {
    let contexts: Vec<_> = (1..=500).map(|n| format!("00-{n:032x}-00000000000000aa-01")).collect();
    assert_eq!(parse_links(contexts.iter().map(|text| parts(text))).len(), MAX_LINKS);
}

#[test]
fn without_tracing_nothing_is_looked_at() {
    assert!(!BatchSpan::enabled());
    let mut looked = 0;
    let contexts = (0..3).map(|_| {
        looked += 1;
        parts("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    });
    BatchSpan::start(&info(None), contexts).fail("outage");
    assert_eq!(looked, 0);
}
