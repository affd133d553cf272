//! `[shutdown]`: how long an orderly end may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::units::duration;

/// The end. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownConfig {
    /// Time to finish what was read.
    #[serde(with = "duration")]
    pub grace: Duration,
}

impl ShutdownConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        problems.within(
            "shutdown.grace",
            self.grace,
            Duration::from_millis(100),
            Duration::from_secs(600),
        );
    }
}
