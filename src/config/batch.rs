//! `[batch]`: when a batch closes, and how many are written at a time.

use std::fmt;
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
    pub lanes: Lanes,
}

/// How many lanes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Lanes {
    /// As many as suit the distance to Postgres, measured at start.
    Auto,
    /// So many.
    Fixed(usize),
}

impl TryFrom<String> for Lanes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            number => number
                .parse()
                .map(Self::Fixed)
                .map_err(|_| format!("`{text}` is neither auto nor a number")),
        }
    }
}

impl From<Lanes> for String {
    fn from(lanes: Lanes) -> Self {
        lanes.to_string()
    }
}

impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(lanes) => lanes.fmt(f),
        }
    }
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
            !matches!(self.lanes, Lanes::Fixed(lanes) if !(1..=64).contains(&lanes)),
            "batch.lanes",
            self.lanes,
            "auto, or between 1 and 64",
        );
    }
}
