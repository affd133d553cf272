//! `[dead_letters]`: how much of a rejected record is kept, and how many are too many.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::units::size;

/// Caps on what is kept byte for byte, and the circuit breaker. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// Bytes of the key.
    #[serde(with = "size")]
    pub max_key_bytes: ByteSize,
    /// Bytes of the value.
    #[serde(with = "size")]
    pub max_value_bytes: ByteSize,
    /// Bytes of all headers together.
    #[serde(with = "size")]
    pub max_header_bytes: ByteSize,
    /// Dead letters in a row at which a partition halts; 0: never.
    pub breaker_consecutive: usize,
    /// Records of a partition over which the share is taken; 0: never.
    pub breaker_window: usize,
    /// Share of dead letters among them at which the partition halts; 0: never.
    pub breaker_ratio: f64,
}

impl DeadLettersConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        for (key, value) in [
            ("dead_letters.max_key_bytes", self.max_key_bytes),
            ("dead_letters.max_value_bytes", self.max_value_bytes),
            ("dead_letters.max_header_bytes", self.max_header_bytes),
        ] {
            problems.size_within(key, value, ByteSize::b(1), ByteSize::mib(64));
        }
        for (key, value) in [
            ("dead_letters.breaker_consecutive", self.breaker_consecutive),
            ("dead_letters.breaker_window", self.breaker_window),
        ] {
            let allowed = "between 1 and 100000, or 0 for no limit";
            problems.unless(value <= 100_000, key, value, allowed);
        }
        problems.unless(
            (0.0..=1.0).contains(&self.breaker_ratio),
            "dead_letters.breaker_ratio",
            self.breaker_ratio,
            "between 0 and 1",
        );
    }
}
