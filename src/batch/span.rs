//! A batch as one span of a trace, when tracing is on.

use crate::apply::{Applied, Batch, Content, Outcome};
use crate::batch::LaneOptions;
use crate::observe::batch_span::{BatchSpan, BatchSpanInfo, TraceContextParts};
use crate::observe::metrics::{self, OutcomeCounts};

/// Begins the span of an attempt to apply `batch`, linked to the traces its events came from.
pub(super) fn start(options: &LaneOptions, batch: &Batch) -> BatchSpan {
    let mut topics = batch.ranges.iter().map(|range| &*range.source.topic);
    let first = topics.next();
    let info = BatchSpanInfo {
        topic: first.filter(|first| topics.all(|topic| topic == *first)),
        group: &options.group,
        message_count: batch.items.len(),
        lane: options.index,
    };
    let traces = batch.items.iter().filter_map(|item| match &item.content {
        Content::Event(event, _) => event.trace.as_ref(),
        Content::DeadLetter(_) | Content::Skipped => None,
    });
    let links = traces.map(|trace| TraceContextParts {
        traceparent: &trace.traceparent,
        tracestate: trace.tracestate.as_deref(),
    });
    BatchSpan::start(&info, links)
}

/// Ends it with what came of the attempt.
pub(super) fn end(span: BatchSpan, outcome: &Outcome) {
    match outcome {
        Outcome::Applied(applied) => span.finish(&counts(applied)),
        Outcome::Changed => span.fail("changed"),
        Outcome::Fenced(_) => span.fail("fenced"),
        Outcome::Failed(error) => span.fail(error.verdict.kind()),
        Outcome::InDoubt(..) => span.fail("in_doubt"),
    }
}

/// What a committed batch did, as counted by metrics and spans.
pub(super) fn counts(applied: &Applied) -> OutcomeCounts {
    let mut counts = OutcomeCounts::default();
    counts.add(metrics::Outcome::Applied, applied.applied);
    counts.add(metrics::Outcome::Duplicate, applied.duplicates);
    counts.add(metrics::Outcome::Stale, applied.stale);
    counts.add(metrics::Outcome::Skipped, applied.skipped);
    counts.add(metrics::Outcome::DeadLettered, applied.dead_letters.values().sum());
    counts
}
