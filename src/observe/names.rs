//! Every metric by name: dashboards and alerts depend on these.
//!
//! A test holds this list against `docs/metrics.md`.

use crate::event::Reason;

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of values in buckets.
    Histogram,
}

impl Kind {
    /// The word Prometheus uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric as documented.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// Kind of number.
    pub kind: Kind,
    /// Base unit.
    pub unit: metrics::Unit,
    /// Label names.
    pub labels: &'static [&'static str],
    /// One line for `# HELP`.
    pub help: &'static str,
}

/// Records received from Kafka.
pub const RECORDS_CONSUMED: &str = "user_events_records_consumed_total";
/// Records by what became of them, counted after the commit.
pub const OUTCOMES: &str = "user_events_outcomes_total";
/// Dead letters by reason, counted after the commit.
pub const DEAD_LETTERS: &str = "user_events_dead_letters_total";
/// Batches by what closed them.
pub const BATCHES: &str = "user_events_batches_total";
/// Records per batch.
pub const BATCH_EVENTS: &str = "user_events_batch_events";
/// Time to apply a batch.
pub const APPLY_DURATION: &str = "user_events_apply_duration_seconds";
/// Record timestamp to commit.
pub const END_TO_END: &str = "user_events_end_to_end_seconds";
/// Records waiting, by partition.
pub const LAG_RECORDS: &str = "user_events_lag_records";
/// Age of the oldest waiting record, by partition.
pub const LAG_SECONDS: &str = "user_events_lag_seconds";
/// Records written behind a transaction still open, by partition.
pub const WITHHELD_RECORDS: &str = "user_events_withheld_records";
/// How long the read-committed end has stood still before them, by partition.
pub const WITHHELD_SECONDS: &str = "user_events_withheld_seconds";
/// Partitions this copy owns.
pub const PARTITIONS_ASSIGNED: &str = "user_events_partitions_assigned";
/// Partitions held back for now.
pub const PARTITIONS_PAUSED: &str = "user_events_partitions_paused";
/// Partitions stopped until an operator acts.
pub const PARTITIONS_HALTED: &str = "user_events_partitions_halted";
/// Assignments gained, given up and lost.
pub const REBALANCES: &str = "user_events_rebalances_total";
/// Partitions found to belong to a newer claim.
pub const FENCED: &str = "user_events_fenced_total";
/// Failed attempts to claim, to apply a batch or to ask Postgres.
pub const APPLY_ERRORS: &str = "user_events_apply_errors_total";
/// Failed mirrorings of positions to Kafka.
pub const OFFSET_COMMIT_FAILURES: &str = "user_events_offset_commit_failures_total";
/// What the watchdog did about a stall.
pub const WATCHDOG_ACTIONS: &str = "user_events_watchdog_actions_total";
/// Whether Postgres answers.
pub const POSTGRES_UP: &str = "user_events_postgres_up";
/// Whether Kafka answers.
pub const KAFKA_UP: &str = "user_events_kafka_up";
/// The version running.
pub const BUILD_INFO: &str = "user_events_build_info";

/// Every reason code a dead letter can have, in the contract's order.
pub const DEAD_LETTER_REASONS: [&str; Reason::ALL.len()] = {
    let mut codes = [""; Reason::ALL.len()];
    let mut index = 0;
    while index < codes.len() {
        codes[index] = Reason::ALL[index].code();
        index += 1;
    }
    codes
};

/// Every kind of failure to apply a batch: the verdicts of the error taxonomy.
pub const APPLY_ERROR_KINDS: [&str; 8] = crate::apply::verdict::Verdict::KINDS;

const PARTITION: &[&str] = &["topic", "partition"];

/// All metrics, in the order of the documentation.
pub const ALL: &[Metric] = &[
    counter(RECORDS_CONSUMED, PARTITION, "Records received from Kafka."),
    counter(OUTCOMES, &["outcome"], "Records by what became of them, counted after the commit."),
    counter(DEAD_LETTERS, &["reason"], "Dead letters by reason, counted after the commit."),
    counter(BATCHES, &["trigger"], "Batches by what closed them."),
    histogram(BATCH_EVENTS, metrics::Unit::Count, "Records per batch."),
    histogram(APPLY_DURATION, metrics::Unit::Seconds, "Time of one attempt to apply a batch."),
    histogram(END_TO_END, metrics::Unit::Seconds, "Time from a record's timestamp to its commit."),
    gauge(LAG_RECORDS, PARTITION, "Read-committed end minus the position in Postgres."),
    gauge(LAG_SECONDS, PARTITION, "Age of the oldest record not yet applied, 0 without lag."),
    gauge(WITHHELD_RECORDS, PARTITION, "Records written behind a transaction still open."),
    gauge(WITHHELD_SECONDS, PARTITION, "How long such a transaction has held them up, 0 without."),
    gauge(PARTITIONS_ASSIGNED, &[], "Partitions this copy owns."),
    gauge(PARTITIONS_PAUSED, &[], "Owned partitions held back for now."),
    gauge(PARTITIONS_HALTED, &[], "Owned partitions stopped until an operator acts."),
    counter(REBALANCES, &["event"], "Assignments gained, given up and lost."),
    counter(FENCED, &[], "Partitions found to belong to a newer claim."),
    counter(
        APPLY_ERRORS,
        &["kind"],
        "Failed attempts to claim, to apply a batch or to ask Postgres.",
    ),
    counter(OFFSET_COMMIT_FAILURES, &[], "Failed mirrorings of positions to Kafka."),
    counter(WATCHDOG_ACTIONS, &["action"], "What was done about records that wait for no reason."),
    gauge(POSTGRES_UP, &[], "1 when Postgres answers on every lane, else 0."),
    gauge(KAFKA_UP, &[], "1 when Kafka answers, else 0."),
    gauge(BUILD_INFO, &["version"], "Always 1; the version is in the label."),
];

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, unit: metrics::Unit::Count, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit: metrics::Unit::Count, labels, help }
}

const fn histogram(name: &'static str, unit: metrics::Unit, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, unit, labels: &[], help }
}

/// The metric of that name.
pub fn metric(name: &str) -> Option<&'static Metric> {
    ALL.iter().find(|metric| metric.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documentation_lists_exactly_these() {
        let docs = include_str!("../../docs/metrics.md");
        for metric in ALL {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let row = format!(
                "| `{}` | {} | {} | ",
                metric.name,
                metric.kind.as_str(),
                labels.join(", ")
            );
            let row = row.replace("|  |", "| |");
            assert!(docs.contains(&row), "missing from docs/metrics.md: {row}");
        }
        let rows = docs.lines().filter(|line| line.starts_with("| `user_events_")).count();
        assert_eq!(rows, ALL.len(), "a row for a metric that does not exist");
        for word in DEAD_LETTER_REASONS.iter().chain(&APPLY_ERROR_KINDS) {
            assert!(docs.contains(&format!("`{word}`")), "missing from docs/metrics.md: {word}");
        }
    }

    #[test]
    fn every_reason_code_of_the_contract_is_a_label_and_no_other() {
        assert_eq!(crate::event::Reason::ALL.map(crate::event::Reason::code), DEAD_LETTER_REASONS);
    }

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert!(metric.name.starts_with("user_events_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter);
        }
    }
}
