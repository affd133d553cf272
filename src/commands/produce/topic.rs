//! Making a topic to try things out on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::types::RDKafkaErrorCode;

use crate::consume::ClientError;

/// How long the brokers may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Creates a topic, if it does not exist, with one copy of each partition.
///
/// # Errors
/// Kafka out of reach, or unwilling.
pub(super) async fn create(
    properties: &BTreeMap<String, String>,
    topic: &str,
    partitions: i32,
) -> anyhow::Result<()> {
    let mut config = ClientConfig::new();
    config.extend(properties.iter().map(|(name, value)| (name.clone(), value.clone())));
    let admin: AdminClient<DefaultClientContext> =
        config.create().map_err(|error| ClientError::refused(&error))?;
    let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let results = admin.create_topics([&wanted], &options).await.context("asking Kafka")?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, error)) => bail!("topic {topic:?} could not be created: {error}"),
        }
    }
    Ok(())
}
