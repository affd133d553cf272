//! `[watch]`: when a silent loop, or a worker that applies nothing, counts as stuck.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::units::duration;

/// The watch on the working loops. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchConfig {
    /// Silence after which a loop fails `/livez`.
    #[serde(with = "duration")]
    pub loop_stall: Duration,
    /// Time without progress after which the consumer is rebuilt, and after as much again `/livez`
    /// fails; zero: never.
    #[serde(with = "duration")]
    pub progress: Duration,
}

impl WatchConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        problems.within(
            "watch.loop_stall",
            self.loop_stall,
            Duration::from_secs(1),
            Duration::from_secs(3_600),
        );
        problems.within(
            "watch.progress",
            self.progress,
            Duration::ZERO,
            Duration::from_secs(86_400),
        );
    }
}
