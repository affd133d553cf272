//! `[postgres]`: where the results go, and how long anything there may take.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use sqlx::postgres::PgConnectOptions;

use super::error::Problems;
use super::units::{REDACTED, duration, show_duration};

/// A connection URL. A secret as a whole, because a password may be anywhere in it; what is shown
/// is put together from the parts known to be none.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct PostgresUrl(SecretString);

/// Parameters whose values may be shown.
const OPEN_PARAMETERS: [&str; 9] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "application_name",
    "host",
    "port",
    "dbname",
    "user",
];

impl PostgresUrl {
    /// Wraps a URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self(SecretString::from(url.into()))
    }

    /// The URL with its password: for the connection only, never for a log.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The URL without secrets; `None` when it is not clear which part is which.
    fn shown(&self) -> Option<String> {
        let url = self.expose();
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // An `@` further on, or a fragment: most likely a password with an unescaped character.
        if tail.contains(['@', '#']) || PgConnectOptions::from_str(url).is_err() {
            return None;
        }
        let authority = match authority.rsplit_once('@') {
            Some((user, host)) => match user.split_once(':') {
                Some((name, _)) => format!("{name}:{REDACTED}@{host}"),
                None => format!("{user}@{host}"),
            },
            None => authority.to_owned(),
        };
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let is_open = |parameter: &&str| {
            parameter.split_once('=').is_some_and(|(name, _)| OPEN_PARAMETERS.contains(&name))
        };
        // Not even the name of another: it may be what follows an unescaped `&` of a password.
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        let query: Vec<_> =
            parameters.map(|p| Some(p).filter(is_open).unwrap_or(REDACTED)).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        Some(format!("postgres://{authority}{path}{mark}{}", query.join("&")))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown().as_deref().unwrap_or(REDACTED))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PostgresUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The Postgres side. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// Where to connect.
    pub url: PostgresUrl,
    /// Schema of the worker's tables: a plain identifier, safe to put into SQL as it is.
    pub schema: String,
    /// Whether `run` migrates first.
    pub migrate: bool,
    /// Longest one statement may run.
    #[serde(with = "duration")]
    pub statement_timeout: Duration,
    /// Longest wait for a lock.
    #[serde(with = "duration")]
    pub lock_timeout: Duration,
    /// Longest silence inside a transaction.
    #[serde(with = "duration")]
    pub idle_in_transaction_timeout: Duration,
    /// Longest wait for a connection.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// Whether prepared statements are kept.
    pub statement_cache: bool,
}

impl PostgresConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        let url = self.url.expose();
        let scheme = url.starts_with("postgres://") || url.starts_with("postgresql://");
        if !scheme || PgConnectOptions::from_str(url).is_err() {
            let wanted = "must be postgres://user:password@host:port/database?sslmode=verify-full, \
                          with special characters in the password written as %40 and the like";
            problems.add("postgres.url", wanted);
        }
        problems.unless(
            is_plain_identifier(&self.schema),
            "postgres.schema",
            &self.schema,
            "a lower-case letter or underscore, then up to 62 of these or digits",
        );
        let hour = Duration::from_secs(3_600);
        for (key, value) in [
            ("statement_timeout", self.statement_timeout),
            ("lock_timeout", self.lock_timeout),
            ("idle_in_transaction_timeout", self.idle_in_transaction_timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            problems.within(&format!("postgres.{key}"), value, Duration::from_millis(10), hour);
        }
        problems.unless(
            self.lock_timeout < self.statement_timeout,
            "postgres.lock_timeout",
            show_duration(self.lock_timeout),
            &format!(
                "below postgres.statement_timeout ({})",
                show_duration(self.statement_timeout)
            ),
        );
    }
}

fn is_plain_identifier(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("postgres://localhost/db", "postgres://localhost/db"),
            ("postgresql://ann@h:5/db", "postgres://ann@h:5/db"),
            (
                "postgres://ann:canary@h/db?sslmode=verify-full",
                "postgres://ann:[redacted]@h/db?sslmode=verify-full",
            ),
            ("postgres://h/db?user=ann&password=canary", "postgres://h/db?user=ann&[redacted]"),
            ("postgres://ann:can@ary@h/db", "postgres://ann:[redacted]@h/db"),
            ("postgres://ann:1/canary@h/db", "[redacted]"),
            ("postgres://ann:1?canary@h/db", "[redacted]"),
            ("postgres://ann:1#canary@h/db", "[redacted]"),
            ("host=h password=canary", "[redacted]"),
            ("canary", "[redacted]"),
        ] {
            assert_eq!(format!("{:?}", PostgresUrl::new(url)), shown);
        }
    }

    #[test]
    fn schema_names() {
        for good in ["public", "_a1", &"a".repeat(63)] {
            assert!(is_plain_identifier(good), "{good}");
        }
        for bad in ["", "1a", "A", "a-b", "a\"b", "é", &"a".repeat(64)] {
            assert!(!is_plain_identifier(bad), "{bad}");
        }
    }
}
