//! `[log]`: what is logged, and how it looks.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::error::Problems;
use super::words::words;

words! {
    /// How a log line looks.
    LogFormat {
        /// Text on a terminal, otherwise JSON.
        Auto = "auto",
        /// For people.
        Text = "text",
        /// For machines: one object per line.
        Json = "json",
    }
}

/// Logging. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// A level, or directives in the syntax of tracing's `EnvFilter`.
    pub level: String,
}

impl LogConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        problems.unless(
            !self.level.trim().is_empty() && EnvFilter::try_new(&self.level).is_ok(),
            "log.level",
            &self.level,
            "a level such as info, or directives such as info,user_events_worker::apply=debug",
        );
    }
}
