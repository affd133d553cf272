//! A generated record, and what must become of it.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use uuid::Uuid;

use crate::event::{Header, Reason};

/// A generated record.
#[derive(Clone, PartialEq, Eq)]
pub struct Generated {
    /// Record key: the user id.
    pub key: Vec<u8>,
    /// Record value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Record headers, in their order.
    pub headers: Vec<Header>,
    /// Id of the event, when it is one.
    pub event_id: Option<Uuid>,
    /// What must become of it.
    pub expected: Expectation,
}

impl Generated {
    /// Payload bytes: key, value and headers.
    pub fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len))
            .sum();
        self.key.len() + self.value.as_ref().map_or(0, Vec::len) + headers
    }
}

/// Shows no content, as [`crate::event::RawRecord`] shows none.
impl fmt::Debug for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generated")
            .field("size", &self.size())
            .field("event_id", &self.event_id)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// What must become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Expectation {
    /// Applied.
    Fresh,
    /// In the ledger, but without effect on the profile: its sequence is not above the user's last.
    OutOfOrder,
    /// Recognised: an earlier record once more.
    Duplicate,
    /// A dead letter for this reason.
    Malformed(Reason),
    /// Whatever the worker is configured to do with records without a value.
    Tombstone,
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh => f.pad("fresh"),
            Self::OutOfOrder => f.pad("out of order"),
            Self::Duplicate => f.pad("duplicate"),
            Self::Malformed(reason) => f.pad(&format!("malformed: {reason}")),
            Self::Tombstone => f.pad("tombstone"),
        }
    }
}

/// How many records were generated per expectation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<Expectation, u64>);

impl Tally {
    /// Counts one record.
    pub fn add(&mut self, expected: Expectation) {
        *self.0.entry(expected).or_default() += 1;
    }

    /// Records with exactly this expectation.
    pub fn of(&self, expected: Expectation) -> u64 {
        self.0.get(&expected).copied().unwrap_or_default()
    }

    /// Records that break the contract, for whatever reason.
    pub fn malformed(&self) -> u64 {
        self.iter().filter(|(e, _)| matches!(e, Expectation::Malformed(_))).map(|(_, n)| n).sum()
    }

    /// All records.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Every expectation that occurred, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Expectation, u64)> {
        self.0.iter().map(|(expected, count)| (*expected, *count))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (expected, count) in self.iter() {
            writeln!(f, "  {expected:<31} {count:>12}")?;
        }
        write!(f, "  {:<31} {:>12}", "together", self.total())
    }
}
