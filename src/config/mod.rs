//! Typed configuration: what an operator may turn.
//!
//! Layers, later ones win: the embedded `config/default.toml` (which documents every key), the file
//! given by `--config`, the environment. One struct per section, validated as a whole, so that an
//! operator sees everything that is wrong at once; secrets are never shown.

mod batch;
mod dead_letters;
mod error;
mod events;
mod fetch;
mod http;
mod kafka;
mod ledger;
mod librdkafka;
mod log;
mod postgres;
mod retry;
mod shutdown;
mod sources;
#[cfg(test)]
mod tests;
mod units;
mod watch;
mod words;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use batch::{BatchConfig, Lanes};
pub use dead_letters::DeadLettersConfig;
pub use error::{ConfigError, Problem, Problems};
pub use events::EventsConfig;
pub use http::HttpConfig;
pub use kafka::{GroupProtocol, KafkaConfig, SaslMechanism, SecurityProtocol, StartFrom};
pub use ledger::LedgerConfig;
pub use librdkafka::{Passthrough, is_secret as is_secret_property};
pub use log::{LogConfig, LogFormat};
pub use postgres::{PostgresConfig, PostgresUrl};
pub use retry::RetryConfig;
pub use shutdown::ShutdownConfig;
pub use watch::WatchConfig;

use sources::{Entries, Origin};

/// Everything an operator may turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to read, as whom.
    pub kafka: KafkaConfig,
    /// Where the results go.
    pub postgres: PostgresConfig,
    /// When a batch closes.
    pub batch: BatchConfig,
    /// Choices within the contract with producers.
    pub events: EventsConfig,
    /// How long events are kept.
    pub ledger: LedgerConfig,
    /// How much of a rejected record is kept.
    pub dead_letters: DeadLettersConfig,
    /// Where health, metrics and status are served.
    pub http: HttpConfig,
    /// Waits during an outage.
    pub retry: RetryConfig,
    /// How long an orderly end may take.
    pub shutdown: ShutdownConfig,
    /// When a silent loop counts as stuck.
    pub watch: WatchConfig,
    /// What is logged.
    pub log: LogConfig,
}

/// Our own keys whose values are never shown.
const SECRET_KEYS: [&str; 3] = ["kafka.sasl_password", "kafka.ssl_key_password", "postgres.url"];

impl Config {
    /// Reads all layers and validates the result. `env` is the process environment, see
    /// [`process_env`]; an argument, so that tests need not touch the real one.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let known = sources::defaults()?;
        let mut problems = Problems::default();
        let mut given = file.map(sources::file).transpose()?.unwrap_or_default();
        given.extend(sources::environment(env, &known, &mut problems));
        sources::refuse_unknown(&mut given, &known, &mut problems);
        refuse_unreadable(&mut given, &known, &mut problems);

        // What is left can be read: with the defaults in place of the refused, it can be validated.
        let mut entries = known;
        entries.extend(given);
        let config = read(&entries).map_err(|error| ConfigError::Syntax {
            file: "configuration".to_owned(),
            message: error,
        })?;
        let mut invalid = config.problems();
        invalid.say_origins(|key| match &entries.get(key)?.origin {
            Origin::Default => None,
            origin => Some(origin.to_string()),
        });
        problems.extend(invalid);
        problems.into_result().map(|()| config)
    }

    /// Checks ranges and what must fit together. [`Config::load`] has done it; for whoever changes
    /// a field afterwards.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.problems().into_result()
    }

    /// Every effective value by section and key, secrets redacted: for the log at start.
    pub fn redacted_dump(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        self.kafka.validate(&mut problems);
        self.postgres.validate(&mut problems);
        self.batch.validate(&mut problems);
        self.events.validate(&mut problems);
        self.ledger.validate(&mut problems);
        self.dead_letters.validate(&mut problems);
        self.retry.validate(&mut problems);
        self.shutdown.validate(&mut problems);
        self.watch.validate(&mut problems);
        self.log.validate(&mut problems);
        problems.unless(
            self.batch.max_bytes >= self.events.max_record_bytes,
            "batch.max_bytes",
            units::show_size(self.batch.max_bytes),
            &format!(
                "at least events.max_record_bytes ({}): a batch must have room for one record",
                units::show_size(self.events.max_record_bytes)
            ),
        );
        let slow = (self.postgres.statement_timeout + self.postgres.lock_timeout) * 2;
        problems.unless(
            self.watch.progress.is_zero() || self.watch.progress >= slow,
            "watch.progress",
            units::show_duration(self.watch.progress),
            &format!(
                "0s, or at least twice postgres.statement_timeout and lock_timeout together ({}): \
                 a slow Postgres is no stall",
                units::show_duration(slow)
            ),
        );
        problems
    }
}

/// `section.key = value` lines, secrets redacted.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dump = self.redacted_dump();
        let sections = dump.as_object().into_iter().flatten();
        for (section, keys) in sections {
            for (key, value) in keys.as_object().into_iter().flatten() {
                writeln!(f, "{section}.{key} = {value}")?;
            }
        }
        Ok(())
    }
}

/// The process environment. Bytes that are not UTF-8 become replacement characters instead of a
/// panic: such a value is then refused where it matters.
pub fn process_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    })
}

/// Tries every given value by itself among the defaults: whatever does not read is its fault alone,
/// becomes a problem and is removed.
fn refuse_unreadable(given: &mut Entries, known: &Entries, problems: &mut Problems) {
    given.retain(|key, entry| {
        let mut trial = known.clone();
        trial.insert(key.clone(), entry.clone());
        let Err(message) = read(&trial) else { return true };
        let secret = SECRET_KEYS.contains(&key.as_str())
            || sources::librdkafka_property(key).is_some_and(librdkafka::is_secret);
        let message = if secret { "cannot be read as a text".to_owned() } else { message };
        problems.add(key.clone(), format!("{message} (from {})", entry.origin));
        false
    });
}

fn read(entries: &Entries) -> Result<Config, String> {
    let tables = sources::unflatten(entries.iter().map(|(key, entry)| (key, &entry.value)));
    Config::deserialize(tables).map_err(|error| reason(&error))
}

/// The error without the key, which its reader knows already.
fn reason(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => reason(error),
        config::ConfigError::Type { unexpected, expected, .. } => {
            format!("found {unexpected}, expected {expected}")
        }
        other => other.to_string(),
    }
}
