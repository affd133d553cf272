//! What the board knows of one partition: its state, its position, and how far it is behind.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::withheld::Withheld;
use crate::types::{Epoch, Offset, TopicPartition};

/// What a partition of ours is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionState {
    /// Assigned; Postgres has not yet told where to begin.
    Claiming,
    /// Records come in and are applied.
    Reading,
    /// Held back for now: backpressure, or an outage.
    Paused,
    /// A newer claim exists; waiting for Kafka to say whose it is.
    Fenced,
    /// Stopped until an operator acts; `last_error` says why.
    Halted,
}

impl PartitionState {
    /// Whether records that wait are to move in it.
    fn should_move(self) -> bool {
        matches!(self, Self::Claiming | Self::Reading)
    }
}

/// What is known about a partition of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// What it is doing.
    pub state: PartitionState,
    /// Our claim on it.
    pub epoch: Option<Epoch>,
    /// Position in Postgres: the next offset to apply.
    pub applied: Option<Offset>,
    /// Read-committed end, as last asked for.
    pub end: Option<Offset>,
    /// Timestamp of the oldest record received but not applied, in milliseconds since 1970.
    pub pending_since_ms: Option<i64>,
    /// The last thing that went wrong, until progress is made. Shown to operators: no personal
    /// data.
    pub last_error: Option<String>,
    /// How long its position has stood although records wait and nothing known keeps them: the
    /// watchdog's count, zero while it moves or has a reason.
    pub standing: Duration,
}

/// A partition's status at one moment, with its lag then.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionView {
    /// Which partition.
    pub source: TopicPartition,
    /// What is known about it.
    pub status: PartitionStatus,
    /// Records waiting; `None` while unknown.
    pub lag_records: Option<i64>,
    /// 0 without lag, else the age of the oldest waiting record or, where none was received, the
    /// time since this copy first saw the partition behind; `None` while unknown.
    pub lag_seconds: Option<f64>,
    /// Records written behind a transaction still open, beyond the read-committed end; `None` while
    /// unknown.
    pub withheld_records: Option<i64>,
    /// 0 without such records, else how long that end has stood still; `None` while unknown.
    pub withheld_seconds: Option<f64>,
}

/// What the board keeps of a partition.
pub(super) struct Tracked {
    pub(super) status: PartitionStatus,
    /// Since when there is lag, as far as this copy knows.
    pub(super) behind_since: Option<Instant>,
    /// For the watchdog: grows with everything that is a reason to wait.
    pub(super) reasons: u64,
    pub(super) withheld: Withheld,
}

impl Tracked {
    pub(super) fn new() -> Self {
        let status = PartitionStatus {
            state: PartitionState::Claiming,
            epoch: None,
            applied: None,
            end: None,
            pending_since_ms: None,
            last_error: None,
            standing: Duration::ZERO,
        };
        Self { status, behind_since: None, reasons: 0, withheld: Withheld::default() }
    }

    /// Enters a state; one in which nothing moves is a reason to wait, however short.
    pub(super) fn enter(&mut self, state: PartitionState) {
        self.status.state = state;
        self.reasons += u64::from(!state.should_move());
    }

    /// Records wait that should be moving, and no error explains why they do not.
    pub(super) fn should_move(&self) -> bool {
        self.status.state.should_move()
            && self.status.last_error.is_none()
            && self.lag_records().is_some_and(|lag| lag > 0)
    }

    /// What to show of it.
    pub(super) fn view(&self, source: &TopicPartition, now: Instant, now_ms: i64) -> PartitionView {
        PartitionView {
            source: source.clone(),
            status: self.status.clone(),
            lag_records: self.lag_records(),
            lag_seconds: self.lag_seconds(now, now_ms),
            withheld_records: self.withheld.records(),
            withheld_seconds: self.withheld.seconds(now),
        }
    }

    pub(super) fn lag_records(&self) -> Option<i64> {
        let (end, applied) = (self.status.end?, self.status.applied?);
        Some(end.0.saturating_sub(applied.0).max(0))
    }

    fn lag_seconds(&self, now: Instant, now_ms: i64) -> Option<f64> {
        let records = self.lag_records();
        if records == Some(0) {
            return Some(0.0);
        }
        if let Some(since) = self.status.pending_since_ms {
            return Some(
                Duration::from_millis(now_ms.saturating_sub(since).max(0) as u64).as_secs_f64(),
            );
        }
        records.and(self.behind_since).map(|since| now.duration_since(since).as_secs_f64())
    }

    /// Notes since when there is lag, after any change of either end of it.
    pub(super) fn note_lag(&mut self, now: Instant) {
        self.behind_since = match self.lag_records() {
            Some(lag) if lag > 0 => self.behind_since.or(Some(now)),
            Some(_) => None,
            None => self.behind_since,
        };
    }

    /// Where it stands and since when there is lag, if there is.
    pub(super) fn behind(&self) -> Option<(Offset, Instant)> {
        Some((self.status.applied?, self.behind_since?))
    }
}
