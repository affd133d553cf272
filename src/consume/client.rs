//! Making a consumer, and asking a cluster who it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;

use crate::config::is_secret_property;
use crate::consume::context::{Context, Events, WorkerConsumer};
use crate::failpoint::{self, Mishap};

/// Events of librdkafka heard at once, at most: they never end while brokers are tried again.
const TOLD: usize = 100;

/// Kafka refused to be reached.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// librdkafka does not take the configuration.
    #[error("kafka client configuration: {0}")]
    Config(String),
    /// The subscription was refused.
    #[error("subscribing to {topics}: {source}")]
    Subscribe {
        /// Comma-separated topics.
        topics: String,
        /// librdkafka's error.
        #[source]
        source: KafkaError,
    },
}

impl ClientError {
    /// librdkafka's refusal to make a client, without the secrets it quotes.
    pub fn refused(error: &KafkaError) -> Self {
        Self::Config(refusal(error))
    }
}

/// A consumer that has not joined the group yet, what its callbacks tell, and what it was made
/// from. No `Debug`: properties may be secret.
pub struct Client {
    /// The consumer.
    pub consumer: Arc<WorkerConsumer>,
    pub(super) events: Events,
    pub(super) properties: BTreeMap<String, String>,
}

impl Client {
    /// A client made from librdkafka properties.
    ///
    /// # Errors
    /// When librdkafka does not take the configuration.
    pub fn new(properties: BTreeMap<String, String>) -> Result<Self, ClientError> {
        let (context, events) = Context::new();
        let consumer = Arc::new(consumer(&properties, context)?);
        Ok(Self { consumer, events, properties })
    }
}

/// Joins the group.
pub(super) fn subscribe(consumer: &WorkerConsumer, topics: &[String]) -> Result<(), ClientError> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer
        .subscribe(&names)
        .map_err(|source| ClientError::Subscribe { topics: topics.join(","), source })
}

/// Makes a consumer from librdkafka properties; it has not joined the group yet.
///
/// # Errors
/// When librdkafka does not take the configuration.
pub fn consumer(
    properties: &BTreeMap<String, String>,
    context: Context,
) -> Result<WorkerConsumer, ClientError> {
    let mut config = ClientConfig::new();
    for (key, value) in properties {
        config.set(key, value);
    }
    if failpoint::happens(Mishap::TwinGroup) {
        let twin = config.get("group.id").map(|group| format!("{group}-twin"));
        config.set("group.id", twin.unwrap_or_default());
    }
    // A warning tells of failed commits (see `Context`), whether it is to be logged or not.
    if matches!(config.log_level, RDKafkaLogLevel::Error) {
        config.set_log_level(RDKafkaLogLevel::Warning);
    }
    config.create_with_context(context).map_err(|error| ClientError::refused(&error))
}

/// What librdkafka says about a configuration it refuses: it quotes the value, which may be secret.
fn refusal(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, text, property, value)
            if is_secret_property(property) && !value.is_empty() =>
        {
            text.replace(value, "[redacted]")
        }
        KafkaError::ClientConfig(_, text, ..) => text.clone(),
        other => other.to_string(),
    }
}

/// The cluster's id, or `None` when no broker answers within `timeout`. Blocks.
///
/// For a consumer that is not subscribed yet: why there is no answer (a certificate, a password)
/// librdkafka tells only to those who poll.
pub fn cluster_id(consumer: &WorkerConsumer, timeout: Duration) -> Option<String> {
    let answer = consumer.client().fetch_cluster_id(timeout);
    if answer.is_none() {
        for _ in 0..TOLD {
            if consumer.poll(Duration::ZERO).is_none() {
                break;
            }
        }
    }
    answer
}
