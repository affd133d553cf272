//! How work on Postgres ended.

use std::collections::BTreeMap;
use std::fmt;

use crate::apply::claims::Fenced;
use crate::apply::verdict::{self, Verdict};
use crate::types::{Epoch, TopicPartition};

/// An error, what it means, and where it happened.
///
/// `Debug` shows no more than `Display`: Postgres's DETAIL would show the row.
#[derive(thiserror::Error)]
#[error("{step}: {}", verdict::describe(.source))]
pub struct ApplyError {
    /// What to do about it.
    pub verdict: Verdict,
    /// What was being done.
    pub step: &'static str,
    /// The error itself.
    #[source]
    pub source: sqlx::Error,
}

impl fmt::Debug for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApplyError({:?}: {self})", self.verdict)
    }
}

impl ApplyError {
    pub(super) fn at(step: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self { verdict: verdict::judge(&source), step, source }
    }
}

/// What a committed batch did, per record: each is counted under exactly one heading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// New events that took effect.
    pub applied: u64,
    /// Events seen before (same id and time).
    pub duplicates: u64,
    /// New events whose `sequence` was not above the user's last.
    pub stale: u64,
    /// Dead letters, by reason code.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Records passed over by configuration.
    pub skipped: u64,
}

/// How applying a batch ended.
#[derive(Debug)]
pub enum Outcome {
    /// Committed.
    Applied(Applied),
    /// Nothing was written: records turned out to be dead letters. Look at the batch again.
    Changed,
    /// Nothing was written: these partitions are no longer under our newest claim.
    Fenced(Vec<Fenced>),
    /// Nothing was written.
    Failed(ApplyError),
    /// COMMIT was sent and its answer never came: [`Writer::resolve`](super::Writer::resolve) tells.
    InDoubt(Applied, ApplyError),
}

/// What became of a batch in doubt.
#[derive(Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Whether it was committed.
    pub committed: bool,
    /// The claims still held, at their new epochs.
    pub held: Vec<(TopicPartition, Epoch)>,
    /// The partitions that are no longer under our claim.
    pub lost: Vec<Fenced>,
}
