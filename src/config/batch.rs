//! `[batch]`: when a batch closes, and how many are written at a time.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::units::{duration, size};

/// Batches. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// Events at which a batch closes.
    pub max_events: usize,
    /// Bytes of keys, values and headers at which a batch closes.
    #[serde(with = "size")]
    pub max_bytes: ByteSize,
    /// Age of its oldest event at which a batch closes.
    #[serde(with = "duration")]
    pub linger: Duration,
    /// Batches written at the same time, each over a connection of its own.
    pub lanes: usize,
}

impl BatchConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        problems.unless(
            (1..=100_000).contains(&self.max_events),
            "batch.max_events",
            self.max_events,
            "between 1 and 100000",
        );
        problems.size_within("batch.max_bytes", self.max_bytes, ByteSize::kib(1), ByteSize::gib(1));
        problems.within(
            "batch.linger",
            self.linger,
            Duration::from_millis(1),
            Duration::from_secs(10),
        );
        problems.unless(
            (1..=64).contains(&self.lanes),
            "batch.lanes",
            self.lanes,
            "between 1 and 64",
        );
    }
}
