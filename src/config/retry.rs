//! `[retry]`: how long to wait between attempts during an outage.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::units::{duration, show_duration};

/// Exponential backoff. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryConfig {
    /// First wait.
    #[serde(with = "duration")]
    pub initial: Duration,
    /// Longest wait.
    #[serde(with = "duration")]
    pub max: Duration,
}

impl RetryConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(600));
        problems.within("retry.initial", self.initial, least, most);
        problems.within("retry.max", self.max, least, most);
        problems.unless(
            self.initial <= self.max,
            "retry.initial",
            show_duration(self.initial),
            &format!("at most retry.max ({})", show_duration(self.max)),
        );
    }
}
