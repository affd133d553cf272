//! `[dead_letters]`: how much of a rejected record is kept.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::units::size;

/// Caps on what is kept byte for byte. The reasons for the defaults are in `config/default.toml`.
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
    }
}
