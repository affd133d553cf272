//! How durations, sizes, optional values and secrets are written: serde's `with` modules, and
//! their text for people.

use std::fmt::Display;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// What stands in place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// A duration in the largest unit that loses nothing: `400d`, `20ms`.
pub(super) fn show_duration(duration: Duration) -> String {
    const UNITS: [(u128, &str); 6] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    let nanos = duration.as_nanos();
    let unit = UNITS.iter().find(|(size, _)| nanos > 0 && nanos.is_multiple_of(*size));
    match unit {
        Some((size, name)) => format!("{}{name}", nanos / size),
        None if nanos == 0 => "0s".to_owned(),
        None => format!("{nanos}ns"),
    }
}

/// A size in the largest binary unit that loses nothing: `8MiB`, `1500B`.
pub(super) fn show_size(size: ByteSize) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let bytes = size.as_u64();
    match UNITS.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// Durations as texts with a unit.
pub(super) mod duration {
    use super::{Deserializer, Duration, Serializer, show_duration};

    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&show_duration(*duration))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        humantime_serde::deserialize(deserializer)
    }
}

/// Sizes as texts with a unit, or plain numbers of bytes.
pub(super) mod size {
    use super::{ByteSize, Deserialize, Deserializer, Error, Serializer, show_size};

    pub(in crate::config) fn serialize<S: Serializer>(
        size: &ByteSize,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&show_size(*size))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ByteSize, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a size such as 8MiB")))
    }
}

/// Values that an empty text leaves unset.
pub(super) mod optional {
    use super::{Deserialize, Deserializer, Display, Error, Serializer};

    pub(in crate::config) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_str(""),
        }
    }

    pub(in crate::config) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: TryFrom<String, Error: Display>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        T::try_from(text).map(Some).map_err(D::Error::custom)
    }
}

/// Secrets that an empty text leaves unset, shown as [`REDACTED`].
pub(super) mod secret {
    use super::{Deserializer, REDACTED, Serializer, optional};
    use secrecy::SecretString;

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Option<SecretString>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if value.is_some() { REDACTED } else { "" })
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SecretString>, D::Error> {
        optional::deserialize(deserializer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn units_lose_nothing() {
        for text in ["400d", "1h", "5m", "45s", "20ms", "7us", "13ns", "0s", "90s"] {
            let duration = humantime::parse_duration(text).unwrap();
            let shown = show_duration(duration);
            assert_eq!(humantime::parse_duration(&shown).unwrap(), duration, "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(400 * 86_400)), "400d");
        assert_eq!(show_size(ByteSize::mib(8)), "8MiB");
        assert_eq!(show_size(ByteSize::b(1_500)), "1500B");
        assert_eq!(show_size(ByteSize::b(0)), "0B");
    }
}
