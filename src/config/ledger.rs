//! `[ledger]`: how long events are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::units::duration;

/// The ledger. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerConfig {
    /// How long events are kept and duplicates recognised.
    #[serde(with = "duration")]
    pub retention: Duration,
    /// Monthly tables made ahead of need.
    pub months_ahead: u32,
}

impl LedgerConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        let day = Duration::from_secs(86_400);
        problems.within("ledger.retention", self.retention, day, 36_500 * day);
        problems.unless(
            self.months_ahead <= 12,
            "ledger.months_ahead",
            self.months_ahead,
            "at most 12",
        );
    }
}
