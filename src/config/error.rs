//! What is wrong with a configuration, all of it at once.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::units::{show_duration, show_size};

/// Why a configuration was refused. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file given by `--config` cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file given by `--config` (or the embedded one) is not TOML.
    #[error("{file} is not valid TOML: {message}")]
    Syntax {
        /// The file, or `config/default.toml` for the embedded one.
        file: String,
        /// Where and why, without the text of the line: it could hold a secret.
        message: String,
    },
    /// Unknown keys, values of the wrong kind or out of range: every one found.
    #[error("the configuration is not usable:{problems}")]
    Invalid {
        /// Everything that needs a change.
        problems: Problems,
    },
}

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as `section.key` or as the environment variable it came from.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Everything found wrong, in the order found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { key: key.into(), message: message.into() });
    }

    /// Adds a problem unless `fine`: the value found, and what is allowed instead.
    pub(super) fn unless(
        &mut self,
        fine: bool,
        key: &str,
        value: impl fmt::Display,
        allowed: &str,
    ) {
        if !fine {
            self.add(key, format!("`{value}` must be {allowed}"));
        }
    }

    /// Adds a problem unless a duration is within its limits, both included.
    pub(super) fn within(&mut self, key: &str, value: Duration, low: Duration, high: Duration) {
        let allowed = format!("between {} and {}", show_duration(low), show_duration(high));
        self.unless((low..=high).contains(&value), key, show_duration(value), &allowed);
    }

    /// The same for a size.
    pub(super) fn size_within(
        &mut self,
        key: &str,
        value: ByteSize,
        low: ByteSize,
        high: ByteSize,
    ) {
        let allowed = format!("between {} and {}", show_size(low), show_size(high));
        self.unless((low..=high).contains(&value), key, show_size(value), &allowed);
    }

    /// Says of every key where its value came from.
    pub(super) fn say_origins(&mut self, origin: impl Fn(&str) -> Option<String>) {
        for problem in &mut self.0 {
            if let Some(origin) = origin(&problem.key) {
                problem.message = format!("{} (from {origin})", problem.message);
            }
        }
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// An error unless nothing is wrong.
    pub(super) fn into_result(self) -> Result<(), ConfigError> {
        if self.is_empty() { Ok(()) } else { Err(ConfigError::Invalid { problems: self }) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|problem| write!(f, "\n  {}: {}", problem.key, problem.message))
    }
}
