//! One span per batch, linked to the producers' traces.

use std::collections::HashSet;
use std::sync::OnceLock;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Link, Span, SpanContext, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

use super::metrics::{Outcome, OutcomeCounts};

/// Links per span: more than a viewer shows, and the SDK's own limit.
const MAX_LINKS: usize = 128;

/// The tracer, when tracing is on: set once, by telemetry.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Turns batch spans on, for the rest of the process's life.
pub(super) fn enable(tracer: SdkTracer) {
    TRACER.get_or_init(|| tracer);
}

/// A producer's trace context, as its record carried it.
#[derive(Clone, Copy, Debug)]
pub struct TraceContextParts<'a> {
    /// W3C `traceparent`.
    pub traceparent: &'a str,
    /// W3C `tracestate`.
    pub tracestate: Option<&'a str>,
}

impl TraceContextParts<'_> {
    /// The context, when it is a proper one.
    fn parse(&self, propagator: &TraceContextPropagator) -> Option<SpanContext> {
        let context = propagator.extract_with_context(&Context::new(), self);
        let span = context.span();
        Some(span.span_context().clone()).filter(SpanContext::is_valid)
    }
}

impl Extractor for TraceContextParts<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.traceparent),
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// What a batch's span says of it.
#[derive(Clone, Debug)]
pub struct BatchSpanInfo<'a> {
    /// The batch's only topic; `None` when there are several.
    pub topic: Option<&'a str>,
    /// Consumer group.
    pub group: &'a str,
    /// Records in the batch.
    pub message_count: usize,
    /// The lane that applies it.
    pub lane: usize,
}

/// A batch being applied. Ends when it is dropped; say before how it went.
///
/// Without tracing it is nothing, and nothing is parsed or allocated for it.
pub struct BatchSpan(Option<opentelemetry_sdk::trace::Span>);

impl BatchSpan {
    /// Whether spans are made at all: whether it is worth collecting trace contexts.
    pub fn enabled() -> bool {
        TRACER.get().is_some()
    }

    /// Begins a batch's span. The links are its records' trace contexts; of equal ones the first
    /// counts, and of the rest at most 128.
    pub fn start<'a>(
        info: &BatchSpanInfo<'_>,
        links: impl Iterator<Item = TraceContextParts<'a>>,
    ) -> Self {
        Self(TRACER.get().map(|tracer| start(tracer, info, links)))
    }

    /// The batch is committed: what became of its records.
    pub fn finish(mut self, counts: &OutcomeCounts) {
        if let Some(span) = &mut self.0 {
            for outcome in Outcome::ALL {
                let key = format!("user_events.outcome.{}", outcome.as_str());
                span.set_attribute(KeyValue::new(key, int(counts.get(outcome))));
            }
            span.end();
        }
    }

    /// The batch is not applied: the taxonomy's verdict.
    pub fn fail(mut self, kind: &'static str) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(kind));
            span.end();
        }
    }
}

fn start<'a>(
    tracer: &SdkTracer,
    info: &BatchSpanInfo<'_>,
    links: impl Iterator<Item = TraceContextParts<'a>>,
) -> opentelemetry_sdk::trace::Span {
    let mut attributes = vec![
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.consumer.group.name", info.group.to_owned()),
        KeyValue::new("messaging.batch.message_count", int(info.message_count)),
        KeyValue::new("user_events.lane", int(info.lane)),
    ];
    let name = match info.topic {
        Some(topic) => {
            attributes.push(KeyValue::new("messaging.destination.name", topic.to_owned()));
            format!("process {topic}")
        }
        None => "process".to_owned(),
    };
    let builder = tracer
        .span_builder(name)
        .with_kind(SpanKind::Consumer)
        .with_attributes(attributes)
        .with_links(parse_links(links));
    // A root of its own: a batch is the child of none of its many producers.
    builder.start_with_context(tracer, &Context::new())
}

fn parse_links<'a>(links: impl Iterator<Item = TraceContextParts<'a>>) -> Vec<Link> {
    let propagator = TraceContextPropagator::new();
    let mut seen = HashSet::new();
    links
        .filter(|parts| seen.insert(parts.traceparent))
        .filter_map(|parts| parts.parse(&propagator))
        .map(Link::with_context)
        .take(MAX_LINKS)
        .collect()
}

fn int(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "batch_span_tests.rs"]
mod tests;
