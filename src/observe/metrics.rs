//! Counters and histograms: what happened. (What *is*, the gauges, is read from the
//! [`StatusBoard`](super::board::StatusBoard) at every scrape.)

use std::time::Duration;

use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::names::{self, Kind};
use crate::types::TopicPartition;

/// Bounds for durations, in seconds.
const SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Bounds for records per batch.
const BATCH_SIZES: [f64; 11] =
    [1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 25_000.0, 100_000.0];

/// Makes the process's recorder; once, before any handle is made. Whoever renders it must also let
/// it tidy up (`run_upkeep`) every few seconds: [`super::http::serve`] does both.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    describe();
    Ok(handle)
}

/// The recorder with our buckets.
pub(super) fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let exactly = |name: &str| Matcher::Full(name.to_owned());
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(exactly(names::APPLY_DURATION), &SECONDS)?
        .set_buckets_for_metric(exactly(names::END_TO_END), &SECONDS)?
        .set_buckets_for_metric(exactly(names::BATCH_EVENTS), &BATCH_SIZES)?
        .build_recorder())
}

/// Says what the metrics mean.
pub(super) fn describe() {
    for metric in names::ALL {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            // Rendered, with their help, by `gauges`.
            Kind::Gauge => {}
            Kind::Histogram => describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

/// What became of a record. Every record ends as exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Applied,
    /// It had taken effect before.
    Duplicate,
    /// Its sequence was not above the user's: recorded, without effect on the profile.
    Stale,
    /// It broke the contract and is kept as a dead letter.
    DeadLettered,
    /// It was passed over, as configured.
    Skipped,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 5] =
        [Self::Applied, Self::Duplicate, Self::Stale, Self::DeadLettered, Self::Skipped];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::DeadLettered => "dead_lettered",
            Self::Skipped => "skipped",
        }
    }
}

/// How many records of a batch ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutcomeCounts([u64; Outcome::ALL.len()]);

impl OutcomeCounts {
    /// Counts `records` more with this outcome.
    pub fn add(&mut self, outcome: Outcome, records: u64) {
        self.0[outcome as usize] += records;
    }

    /// Records with this outcome.
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize]
    }

    /// Records in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What closed a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// It had as many records as it may.
    Full,
    /// It had as many bytes as it may.
    Bytes,
    /// Its oldest record had waited long enough.
    Linger,
    /// The worker stops.
    Drain,
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Self; 4] = [Self::Full, Self::Bytes, Self::Linger, Self::Drain];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Bytes => "bytes",
            Self::Linger => "linger",
            Self::Drain => "drain",
        }
    }
}

/// How an assignment changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebalance {
    /// Partitions came.
    Assigned,
    /// Partitions went, in good order.
    Revoked,
    /// Partitions had gone before we heard of it.
    Lost,
}

impl Rebalance {
    /// Every change.
    pub const ALL: [Self; 3] = [Self::Assigned, Self::Revoked, Self::Lost];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Revoked => "revoked",
            Self::Lost => "lost",
        }
    }
}

/// What the watchdog does about a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchdogAction {
    /// A new consumer joined the group.
    Rebuild,
    /// `/livez` fails.
    GiveUp,
}

impl WatchdogAction {
    /// Every action.
    pub const ALL: [Self; 2] = [Self::Rebuild, Self::GiveUp];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::GiveUp => "give_up",
        }
    }
}

/// The pipeline's handles, made once: counting costs an atomic addition and no allocation. Cheap to
/// clone; all clones count together.
#[derive(Clone)]
pub struct PipelineMetrics {
    outcomes: [Counter; Outcome::ALL.len()],
    dead_letters: [Counter; names::DEAD_LETTER_REASONS.len()],
    batches: [Counter; Trigger::ALL.len()],
    batch_events: Histogram,
    apply_duration: Histogram,
    end_to_end: Histogram,
    rebalances: [Counter; Rebalance::ALL.len()],
    fenced: Counter,
    apply_errors: [Counter; names::APPLY_ERROR_KINDS.len()],
    offset_commit_failures: Counter,
    watchdog: [Counter; WatchdogAction::ALL.len()],
}

impl PipelineMetrics {
    /// Makes the handles at the recorder [`install`] made. From here on all of them show up,
    /// with 0.
    pub fn new() -> Self {
        let zero = |counter: Counter| {
            counter.increment(0);
            counter
        };
        Self {
            outcomes: Outcome::ALL
                .map(|outcome| zero(counter!(names::OUTCOMES, "outcome" => outcome.as_str()))),
            dead_letters: names::DEAD_LETTER_REASONS
                .map(|reason| zero(counter!(names::DEAD_LETTERS, "reason" => reason))),
            batches: Trigger::ALL
                .map(|trigger| zero(counter!(names::BATCHES, "trigger" => trigger.as_str()))),
            batch_events: metrics::histogram!(names::BATCH_EVENTS),
            apply_duration: metrics::histogram!(names::APPLY_DURATION),
            end_to_end: metrics::histogram!(names::END_TO_END),
            rebalances: Rebalance::ALL
                .map(|event| zero(counter!(names::REBALANCES, "event" => event.as_str()))),
            fenced: zero(counter!(names::FENCED)),
            apply_errors: names::APPLY_ERROR_KINDS
                .map(|kind| zero(counter!(names::APPLY_ERRORS, "kind" => kind))),
            offset_commit_failures: zero(counter!(names::OFFSET_COMMIT_FAILURES)),
            watchdog: WatchdogAction::ALL
                .map(|action| zero(counter!(names::WATCHDOG_ACTIONS, "action" => action.as_str()))),
        }
    }

    /// The counter of records received from one partition: keep it as long as the partition.
    pub fn records_consumed(&self, source: &TopicPartition) -> Counter {
        counter!(
            names::RECORDS_CONSUMED,
            "topic" => source.topic.to_string(),
            "partition" => source.partition.to_string()
        )
    }

    /// Counts what became of a batch's records. Only after a commit known to have happened.
    pub fn outcomes(&self, counts: &OutcomeCounts) {
        for outcome in Outcome::ALL {
            self.outcomes[outcome as usize].increment(counts.get(outcome));
        }
    }

    /// Counts dead letters by reason code. Only after a commit known to have happened.
    pub fn dead_letters(&self, reason: &'static str, records: u64) {
        match names::DEAD_LETTER_REASONS.iter().position(|known| *known == reason) {
            Some(index) => self.dead_letters[index].increment(records),
            None => counter!(names::DEAD_LETTERS, "reason" => reason).increment(records),
        }
    }

    /// Counts a closed batch and its records.
    pub fn batch(&self, trigger: Trigger, records: usize) {
        self.batches[trigger as usize].increment(1);
        self.batch_events.record(u32::try_from(records).unwrap_or(u32::MAX));
    }

    /// Records how long an attempt to apply a batch took, successful or not.
    pub fn apply_duration(&self, duration: Duration) {
        self.apply_duration.record(duration);
    }

    /// Records the time from record timestamp to commit, of `records` records of about that age.
    pub fn end_to_end(&self, age: Duration, records: usize) {
        self.end_to_end.record_many(age, records);
    }

    /// Counts a change of assignment.
    pub fn rebalance(&self, event: Rebalance) {
        self.rebalances[event as usize].increment(1);
    }

    /// Counts partitions found to belong to a newer claim.
    pub fn fenced(&self, partitions: u64) {
        self.fenced.increment(partitions);
    }

    /// Counts a failed attempt to apply a batch, by the taxonomy's verdict.
    pub fn apply_error(&self, kind: &'static str) {
        match names::APPLY_ERROR_KINDS.iter().position(|known| *known == kind) {
            Some(index) => self.apply_errors[index].increment(1),
            None => counter!(names::APPLY_ERRORS, "kind" => kind).increment(1),
        }
    }

    /// Counts a failed mirroring of positions to Kafka.
    pub fn offset_commit_failure(&self) {
        self.offset_commit_failures.increment(1);
    }

    /// Counts what the watchdog did.
    pub fn watchdog(&self, action: WatchdogAction) {
        self.watchdog[action as usize].increment(1);
    }
}

impl Default for PipelineMetrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_bounded_series_is_there_from_the_start() {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            let metrics = PipelineMetrics::new();
            metrics.records_consumed(&TopicPartition::new("t", 3)).increment(7);
        });
        let text = handle.render();
        for metric in names::ALL.iter().filter(|metric| metric.kind != Kind::Gauge) {
            assert!(text.contains(&format!("# TYPE {} {}", metric.name, metric.kind.as_str())));
            assert!(text.contains(&format!("# HELP {} {}", metric.name, metric.help)));
        }
        for line in [
            "user_events_outcomes_total{outcome=\"dead_lettered\"} 0",
            "user_events_dead_letters_total{reason=\"too_deep\"} 0",
            "user_events_batches_total{trigger=\"drain\"} 0",
            "user_events_rebalances_total{event=\"lost\"} 0",
            "user_events_apply_errors_total{kind=\"outage\"} 0",
            "user_events_fenced_total 0",
            "user_events_batch_events_count 0",
            "user_events_records_consumed_total{topic=\"t\",partition=\"3\"} 7",
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
    }

    #[test]
    fn values_land_where_they_belong() {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let metrics = PipelineMetrics::new();
            let mut counts = OutcomeCounts::default();
            counts.add(Outcome::Applied, 5);
            counts.add(Outcome::Stale, 2);
            assert_eq!(counts.total(), 7);
            metrics.outcomes(&counts);
            metrics.dead_letters("not_json", 3);
            metrics.dead_letters("from_the_future", 1);
            metrics.batch(Trigger::Linger, 42);
            metrics.apply_duration(Duration::from_millis(3));
            metrics.end_to_end(Duration::from_millis(700), 4);
            metrics.rebalance(Rebalance::Lost);
            metrics.fenced(2);
            metrics.apply_error("outage");
            metrics.offset_commit_failure();
        });
        let text = handle.render();
        for line in [
            "user_events_outcomes_total{outcome=\"applied\"} 5",
            "user_events_outcomes_total{outcome=\"stale\"} 2",
            "user_events_dead_letters_total{reason=\"not_json\"} 3",
            "user_events_dead_letters_total{reason=\"from_the_future\"} 1",
            "user_events_batches_total{trigger=\"linger\"} 1",
            "user_events_batch_events_bucket{le=\"10\"} 0",
            "user_events_batch_events_bucket{le=\"50\"} 1",
            "user_events_apply_duration_seconds_bucket{le=\"0.0025\"} 0",
            "user_events_apply_duration_seconds_bucket{le=\"0.005\"} 1",
            "user_events_end_to_end_seconds_bucket{le=\"1\"} 4",
            "user_events_end_to_end_seconds_sum 2.8",
            "user_events_rebalances_total{event=\"lost\"} 1",
            "user_events_fenced_total 2",
            "user_events_apply_errors_total{kind=\"outage\"} 1",
            "user_events_offset_commit_failures_total 1",
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
    }
}
