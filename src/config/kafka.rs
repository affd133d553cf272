//! `[kafka]`: where to read, as whom, and how librdkafka is set up so that the guarantees hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::fetch::Fetch;
use super::librdkafka::Passthrough;
use super::units::{duration, optional, secret, show_duration, size};
use super::words::words;

words! {
    /// How the group agrees on who reads what.
    GroupProtocol {
        /// The members decide among themselves; every broker can do it.
        Classic = "classic",
        /// The broker decides (KIP-848).
        Consumer = "consumer",
    }
}

words! {
    /// Where a partition begins that Postgres holds no position for.
    StartFrom {
        /// At the oldest record: nothing is lost.
        Earliest = "earliest",
        /// At the end: the past is skipped.
        Latest = "latest",
        /// At the group's offset in Kafka: to take over from another consumer.
        Committed = "committed",
    }
}

words! {
    /// How the connection to the brokers is protected.
    SecurityProtocol {
        /// Not at all.
        Plaintext = "plaintext",
        /// TLS.
        Ssl = "ssl",
        /// SASL in the clear.
        SaslPlaintext = "sasl_plaintext",
        /// SASL inside TLS.
        SaslSsl = "sasl_ssl",
    }
}

impl SecurityProtocol {
    fn sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }

    fn tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }
}

words! {
    /// How we prove to the brokers who we are.
    SaslMechanism {
        /// User name and password.
        Plain = "PLAIN",
        /// Salted challenge over SHA-256.
        ScramSha256 = "SCRAM-SHA-256",
        /// Salted challenge over SHA-512.
        ScramSha512 = "SCRAM-SHA-512",
        /// A bearer token, set up by pass-through properties.
        OauthBearer = "OAUTHBEARER",
    }
}

/// The Kafka side. The reasons for the defaults are in `config/default.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to ask first, comma-separated `host:port`.
    pub bootstrap_servers: String,
    /// Topics to read, by plain name.
    pub topics: Vec<String>,
    /// Consumer group.
    pub group_id: String,
    /// Name of this copy for static membership.
    #[serde(with = "optional")]
    pub group_instance_id: Option<String>,
    /// Group protocol.
    pub group_protocol: GroupProtocol,
    /// Assignment strategy; only the classic protocol has one.
    pub assignment_strategy: String,
    /// Where partitions begin that have no position yet.
    pub start_from: StartFrom,
    /// How long a member may be silent; only the classic protocol lets us say.
    #[serde(with = "duration")]
    pub session_timeout: Duration,
    /// How long the poll loop may be away.
    #[serde(with = "duration")]
    pub max_poll_interval: Duration,
    /// How soon new partitions are noticed.
    #[serde(with = "duration")]
    pub topic_refresh_interval: Duration,
    /// Bytes librdkafka may hold ready, over all partitions.
    #[serde(with = "size")]
    pub prefetch_bytes: ByteSize,
    /// How long a rebalance waits for claims before it assigns paused.
    #[serde(with = "duration")]
    pub claim_patience: Duration,
    /// How often positions are mirrored to Kafka.
    #[serde(with = "duration")]
    pub commit_interval: Duration,
    /// How often the partitions' ends are asked for.
    #[serde(with = "duration")]
    pub lag_interval: Duration,
    /// Protection of the connection.
    pub security_protocol: SecurityProtocol,
    /// SASL mechanism; needed when the protocol is a SASL one.
    #[serde(with = "optional")]
    pub sasl_mechanism: Option<SaslMechanism>,
    /// User name for PLAIN and SCRAM.
    #[serde(with = "optional")]
    pub sasl_username: Option<String>,
    /// Password for PLAIN and SCRAM.
    #[serde(with = "secret")]
    pub sasl_password: Option<SecretString>,
    /// CA certificates that sign the brokers'.
    #[serde(with = "optional")]
    pub ssl_ca_location: Option<String>,
    /// Our certificate.
    #[serde(with = "optional")]
    pub ssl_certificate_location: Option<String>,
    /// Our certificate's private key.
    #[serde(with = "optional")]
    pub ssl_key_location: Option<String>,
    /// The private key's passphrase.
    #[serde(with = "secret")]
    pub ssl_key_password: Option<SecretString>,
    /// librdkafka's own properties, passed through.
    pub librdkafka: Passthrough,
}

/// The name brokers know our connections by; `client.id` may be passed through to change it.
const CLIENT_ID: &str = "user-events-worker";

impl KafkaConfig {
    /// Everything librdkafka needs to know to consume. Holds secrets in the clear: hand it to
    /// librdkafka and nowhere else.
    pub fn consumer_properties(&self) -> BTreeMap<String, String> {
        self.reader_properties(1)
    }

    /// The same for the worker's own consumer, which feeds so many lanes and tells statistics. Not
    /// for one that is not polled all the time: they would pile up.
    pub fn worker_properties(&self, lanes: usize) -> BTreeMap<String, String> {
        let mut properties = self.reader_properties(lanes);
        put(&mut properties, [("statistics.interval.ms", millis(self.lag_interval))]);
        properties
    }

    fn reader_properties(&self, lanes: usize) -> BTreeMap<String, String> {
        let mut properties = self.connection_properties();
        let fetch = Fetch::new(self.prefetch_bytes.as_u64(), lanes);
        put(
            &mut properties,
            [
                ("group.id", self.group_id.clone()),
                ("group.protocol", self.group_protocol.to_string()),
                // Postgres is the truth about progress; nothing else may move a position.
                ("enable.auto.commit", "false".to_owned()),
                ("enable.auto.offset.store", "false".to_owned()),
                ("auto.offset.reset", "error".to_owned()),
                ("isolation.level", "read_committed".to_owned()),
                ("check.crcs", "true".to_owned()),
                ("allow.auto.create.topics", "false".to_owned()),
                ("max.poll.interval.ms", millis(self.max_poll_interval)),
                ("topic.metadata.refresh.interval.ms", millis(self.topic_refresh_interval)),
                // Memory stays within the prefetch plus one answer of each broker.
                ("queued.max.messages.kbytes", (self.prefetch_bytes.as_u64() >> 10).to_string()),
                ("fetch.message.max.bytes", fetch.partition.to_string()),
                ("fetch.max.bytes", fetch.answer.to_string()),
                // A full queue empties within milliseconds: look again soon, not after a second.
                ("fetch.queue.backoff.ms", "10".to_owned()),
            ],
        );
        if let Some(instance) = &self.group_instance_id {
            put(&mut properties, [("group.instance.id", instance.clone())]);
        }
        // With the consumer protocol these are the broker's, and librdkafka refuses them.
        if self.group_protocol == GroupProtocol::Classic {
            let heartbeat = (self.session_timeout / 10).min(Duration::from_secs(3));
            put(
                &mut properties,
                [
                    ("partition.assignment.strategy", self.assignment_strategy.clone()),
                    ("session.timeout.ms", millis(self.session_timeout)),
                    ("heartbeat.interval.ms", millis(heartbeat)),
                ],
            );
        }
        put(&mut properties, self.librdkafka.exposed());
        properties
    }

    /// Everything librdkafka needs to know to produce, for `produce`, `demo` and `prove`. Of the
    /// pass-through, only what applies to every client: names that begin with `ssl.`, `sasl.`,
    /// `security.`, `socket.`, `broker.` or `client.`. Holds secrets in the clear.
    pub fn producer_properties(&self) -> BTreeMap<String, String> {
        let mut properties = self.connection_properties();
        put(
            &mut properties,
            [
                ("enable.idempotence", "true".to_owned()),
                ("compression.codec", "lz4".to_owned()),
                ("linger.ms", "5".to_owned()),
            ],
        );
        put(&mut properties, self.librdkafka.exposed_common());
        properties
    }

    fn connection_properties(&self) -> BTreeMap<String, String> {
        let mut properties = BTreeMap::new();
        put(
            &mut properties,
            [
                ("bootstrap.servers", self.bootstrap_servers.clone()),
                ("client.id", CLIENT_ID.to_owned()),
                ("statistics.interval.ms", "0".to_owned()),
                // After an outage the brokers are back for us within two seconds, not ten.
                ("reconnect.backoff.max.ms", "2000".to_owned()),
                ("security.protocol", self.security_protocol.to_string()),
            ],
        );
        let expose = |secret: &Option<SecretString>| {
            secret.as_ref().map(|secret| secret.expose_secret().to_owned())
        };
        let optional = [
            ("sasl.mechanism", self.sasl_mechanism.map(|mechanism| mechanism.to_string())),
            ("sasl.username", self.sasl_username.clone()),
            ("sasl.password", expose(&self.sasl_password)),
            ("ssl.ca.location", self.ssl_ca_location.clone()),
            ("ssl.certificate.location", self.ssl_certificate_location.clone()),
            ("ssl.key.location", self.ssl_key_location.clone()),
            ("ssl.key.password", expose(&self.ssl_key_password)),
        ];
        put(&mut properties, optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        properties
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        let hour = Duration::from_secs(3_600);
        let servers: Vec<_> = self.bootstrap_servers.split(',').map(str::trim).collect();
        problems.unless(
            servers.iter().all(|server| !server.is_empty()),
            "kafka.bootstrap_servers",
            &self.bootstrap_servers,
            "one or more host:port, comma-separated",
        );
        self.validate_topics(problems);
        problems.unless(!self.group_id.is_empty(), "kafka.group_id", &self.group_id, "a name");
        let strategies: Vec<_> = self.assignment_strategy.split(',').map(str::trim).collect();
        let cooperative = strategies == ["cooperative-sticky"];
        problems.unless(
            cooperative || strategies.iter().all(|s| ["range", "roundrobin"].contains(s)),
            "kafka.assignment_strategy",
            &self.assignment_strategy,
            "cooperative-sticky, or range or roundrobin or both",
        );
        for (key, value, low, high) in [
            ("session_timeout", self.session_timeout, Duration::from_secs(1), hour),
            ("max_poll_interval", self.max_poll_interval, Duration::from_secs(1), 24 * hour),
            (
                "topic_refresh_interval",
                self.topic_refresh_interval,
                Duration::from_millis(100),
                hour,
            ),
            ("claim_patience", self.claim_patience, Duration::from_millis(1), hour),
            ("commit_interval", self.commit_interval, Duration::from_millis(10), hour),
            ("lag_interval", self.lag_interval, Duration::from_millis(100), hour),
        ] {
            problems.within(&format!("kafka.{key}"), value, low, high);
        }
        problems.unless(
            self.claim_patience < self.session_timeout,
            "kafka.claim_patience",
            show_duration(self.claim_patience),
            &format!("below kafka.session_timeout ({})", show_duration(self.session_timeout)),
        );
        problems.unless(
            self.max_poll_interval >= self.session_timeout,
            "kafka.max_poll_interval",
            show_duration(self.max_poll_interval),
            &format!("at least kafka.session_timeout ({})", show_duration(self.session_timeout)),
        );
        problems.size_within(
            "kafka.prefetch_bytes",
            self.prefetch_bytes,
            ByteSize::kib(64),
            ByteSize::gib(1),
        );
        self.validate_security(problems);
        self.librdkafka.validate(problems);
    }

    fn validate_topics(&self, problems: &mut Problems) {
        let legal = |topic: &String| {
            (1..=249).contains(&topic.len())
                && topic != "."
                && topic != ".."
                && topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if self.topics.is_empty() {
            problems.add("kafka.topics", "must name at least one topic");
        }
        let mut seen = BTreeSet::new();
        for topic in &self.topics {
            problems.unless(
                legal(topic),
                "kafka.topics",
                topic,
                "a plain topic name: 1 to 249 letters, digits, dots, underscores or hyphens",
            );
            problems.unless(seen.insert(topic), "kafka.topics", topic, "named once");
        }
    }

    fn validate_security(&self, problems: &mut Problems) {
        let protocol = self.security_protocol;
        let passwords = self.sasl_username.is_some() && self.sasl_password.is_some();
        match self.sasl_mechanism {
            None => {
                if protocol.sasl() {
                    problems.add("kafka.sasl_mechanism", format!("is needed with {protocol}"));
                }
            }
            Some(_) if !protocol.sasl() => problems.add(
                "kafka.sasl_mechanism",
                format!("has no effect with kafka.security_protocol `{protocol}`: use a sasl_ one"),
            ),
            Some(SaslMechanism::OauthBearer) => {}
            Some(mechanism) if !passwords => problems.add(
                "kafka.sasl_mechanism",
                format!("{mechanism} needs kafka.sasl_username and kafka.sasl_password"),
            ),
            Some(_) => {}
        }
        let tls_keys = [
            ("kafka.ssl_ca_location", self.ssl_ca_location.is_some()),
            ("kafka.ssl_certificate_location", self.ssl_certificate_location.is_some()),
            ("kafka.ssl_key_location", self.ssl_key_location.is_some()),
            ("kafka.ssl_key_password", self.ssl_key_password.is_some()),
        ];
        for (key, _) in tls_keys.iter().filter(|(_, set)| *set && !protocol.tls()) {
            let message =
                format!("has no effect with kafka.security_protocol `{protocol}`: use a TLS one");
            problems.add(*key, message);
        }
        let certificate = self.ssl_certificate_location.is_some()
            || self.librdkafka.contains("ssl.certificate.pem");
        let key = self.ssl_key_location.is_some() || self.librdkafka.contains("ssl.key.pem");
        if certificate != key {
            let message = "a client certificate needs both the certificate and its key";
            problems.add("kafka.ssl_certificate_location", message);
        }
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn put<'a, V: Into<String>>(
    properties: &mut BTreeMap<String, String>,
    more: impl IntoIterator<Item = (&'a str, V)>,
) {
    properties.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value.into())));
}
