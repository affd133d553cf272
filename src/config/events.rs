//! `[events]`: what of the contract with producers an operator may choose.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::units::{duration, size};
use crate::event::Tombstones;

/// The contract's choices. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsConfig {
    /// Bytes of key, value and headers above which a record is not parsed.
    #[serde(with = "size")]
    pub max_record_bytes: ByteSize,
    /// How far an event's time may be ahead of our clock.
    #[serde(with = "duration")]
    pub max_future: Duration,
    /// What a record without a value is.
    pub tombstones: Tombstones,
}

impl EventsConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        problems.size_within(
            "events.max_record_bytes",
            self.max_record_bytes,
            ByteSize::b(64),
            ByteSize::mib(32),
        );
        // Every month ahead is a table: a broken clock must not make many.
        problems.within(
            "events.max_future",
            self.max_future,
            Duration::from_secs(1),
            Duration::from_secs(31 * 86_400),
        );
    }
}
