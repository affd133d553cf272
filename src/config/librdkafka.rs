//! `[kafka.librdkafka]`: librdkafka's own properties, passed through, except those that would break
//! a guarantee or have a key of ours.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use super::error::Problems;
use super::units::REDACTED;

/// Properties given by their librdkafka names. Every value is held as a secret, and shown only when
/// its name says that it is none.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Passthrough(BTreeMap<String, SecretString>);

/// librdkafka's properties that are spelt with an underscore: in the environment all others have
/// theirs read as dots.
const UNDERSCORED: [&str; 1] = ["log_level"];

/// What a property's name holds when its value is a secret.
const SECRET_MARKS: [&str; 9] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "sasl.jaas",
    ".pem",
    "ssl_key",
    "private.key",
    "oauthbearer.config",
];

/// Properties that apply to every client, so that `produce` gets them as well as the consumer.
const COMMON_PREFIXES: [&str; 6] = ["ssl.", "sasl.", "security.", "socket.", "broker.", "client."];

const POSITIONS: &str = "positions live in Postgres; this would let Kafka move them";
const COMPLETE: &str = "this would let records that must not be applied pass, or be lost";
const NO_TOPIC: &str = "a misspelt topic must be an error, not a new topic";
const MAY_LEAK: &str = "librdkafka's debug output may print secrets and personal data";
const OURS: &str = "it has its own key";
const FETCH: &str = "how much is fetched follows from the prefetch and the number of lanes";

/// Refused properties and why.
const REFUSED: [(&str, &str, &str); 37] = [
    ("enable.auto.commit", POSITIONS, ""),
    ("auto.commit.enable", POSITIONS, ""),
    ("auto.commit.interval.ms", POSITIONS, "commit_interval"),
    ("enable.auto.offset.store", POSITIONS, ""),
    ("offset.store.method", POSITIONS, ""),
    ("auto.offset.reset", POSITIONS, "start_from"),
    ("isolation.level", COMPLETE, ""),
    ("check.crcs", COMPLETE, ""),
    ("enable.idempotence", "producers here must not double or reorder", ""),
    ("enable.partition.eof", "the poll loop sets it as it needs", ""),
    ("allow.auto.create.topics", NO_TOPIC, ""),
    ("debug", MAY_LEAK, ""),
    ("topic.blacklist", COMPLETE, ""),
    ("group.protocol.type", "it belongs to the group protocol", "group_protocol"),
    ("heartbeat.interval.ms", "it follows from the session timeout", "session_timeout"),
    ("bootstrap.servers", OURS, "bootstrap_servers"),
    ("metadata.broker.list", OURS, "bootstrap_servers"),
    ("group.id", OURS, "group_id"),
    ("group.instance.id", OURS, "group_instance_id"),
    ("group.protocol", OURS, "group_protocol"),
    ("partition.assignment.strategy", OURS, "assignment_strategy"),
    ("session.timeout.ms", OURS, "session_timeout"),
    ("max.poll.interval.ms", OURS, "max_poll_interval"),
    ("statistics.interval.ms", OURS, "lag_interval"),
    ("topic.metadata.refresh.interval.ms", OURS, "topic_refresh_interval"),
    ("queued.max.messages.kbytes", OURS, "prefetch_bytes"),
    ("message.max.bytes", FETCH, "prefetch_bytes"),
    ("receive.message.max.bytes", FETCH, "prefetch_bytes"),
    ("security.protocol", OURS, "security_protocol"),
    ("sasl.mechanism", OURS, "sasl_mechanism"),
    ("sasl.mechanisms", OURS, "sasl_mechanism"),
    ("sasl.username", OURS, "sasl_username"),
    ("sasl.password", OURS, "sasl_password"),
    ("ssl.ca.location", OURS, "ssl_ca_location"),
    ("ssl.certificate.location", OURS, "ssl_certificate_location"),
    ("ssl.key.location", OURS, "ssl_key_location"),
    ("ssl.key.password", OURS, "ssl_key_password"),
];

impl Passthrough {
    /// The properties with their values in the clear: for librdkafka only, never for a log.
    pub(super) fn exposed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.expose_secret()))
    }

    /// The same, of those that apply to every kind of client.
    pub(super) fn exposed_common(&self) -> impl Iterator<Item = (&str, &str)> {
        self.exposed().filter(|(name, _)| COMMON_PREFIXES.iter().any(|p| name.starts_with(p)))
    }

    pub(super) fn contains(&self, property: &str) -> bool {
        self.0.contains_key(property)
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        for name in self.0.keys() {
            let reason = if name.starts_with("test.") {
                Some("it replaces the brokers by simulated ones".to_owned())
            } else {
                REFUSED.iter().find(|(refused, ..)| refused == name).map(|(_, reason, key)| {
                    match key {
                        &"" => (*reason).to_owned(),
                        key => format!("{reason}; use kafka.{key}"),
                    }
                })
            };
            if let Some(reason) = reason {
                problems.add(format!("kafka.librdkafka.{name}"), format!("is refused: {reason}"));
            }
        }
    }

    /// What may be shown.
    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.exposed().map(|(name, value)| (name, if is_secret(name) { REDACTED } else { value }))
    }
}

impl fmt::Debug for Passthrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

impl Serialize for Passthrough {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.shown() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Whether a property's value must not be shown.
pub fn is_secret(property: &str) -> bool {
    let property = property.to_lowercase();
    SECRET_MARKS.iter().any(|mark| property.contains(mark))
}

/// The property an environment variable's last part stands for.
pub(super) fn property_of_env(name: &str) -> String {
    let lower = name.to_lowercase();
    if lower.contains('.') || UNDERSCORED.contains(&lower.as_str()) {
        lower
    } else {
        lower.replace('_', ".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passthrough(pairs: &[(&str, &str)]) -> Passthrough {
        Passthrough(pairs.iter().map(|(k, v)| ((*k).to_owned(), SecretString::from(*v))).collect())
    }

    #[test]
    fn dangerous_properties_are_refused_with_a_reason() {
        let mut problems = Problems::default();
        let given = [("auto.offset.reset", "latest"), ("test.mock.num.brokers", "3")];
        passthrough(&given).validate(&mut problems);
        let text = problems.to_string();
        assert!(text.contains("kafka.librdkafka.auto.offset.reset: is refused"), "{text}");
        assert!(text.contains("use kafka.start_from"), "{text}");
        assert!(text.contains("simulated"), "{text}");

        let mut problems = Problems::default();
        passthrough(&[("socket.keepalive.enable", "true")]).validate(&mut problems);
        assert!(problems.is_empty());
    }

    #[test]
    fn secret_properties_are_not_shown() {
        let secrets = [
            "ssl.keystore.password",
            "ssl.key.pem",
            "ssl_key",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.jaas.config",
        ];
        for name in secrets {
            let shown = format!("{:?}", passthrough(&[(name, "canary")]));
            assert!(!shown.contains("canary"), "{shown}");
        }
        assert!(format!("{:?}", passthrough(&[("client.rack", "eu-1")])).contains("eu-1"));
    }

    #[test]
    fn environment_names_become_properties() {
        assert_eq!(property_of_env("SASL_OAUTHBEARER_CONFIG"), "sasl.oauthbearer.config");
        assert_eq!(
            property_of_env("sasl.oauthbearer.assertion.file"),
            "sasl.oauthbearer.assertion.file"
        );
        assert_eq!(property_of_env("LOG_LEVEL"), "log_level");
    }
}
