//! A topic of our own in somebody's Kafka.

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
/// As many copies as the brokers make by default.
const BROKERS_DEFAULT: TopicReplication<'static> = TopicReplication::Fixed(-1);

/// A topic nobody else uses. It stays until [`ScratchTopic::delete`].
pub struct ScratchTopic {
    name: String,
    admin: AdminClient<DefaultClientContext>,
}

impl ScratchTopic {
    /// Creates the topic. One that exists is an error: it is somebody else's.
    ///
    /// # Errors
    /// Kafka out of reach, or unwilling: then with what to grant.
    pub async fn create(
        properties: &BTreeMap<String, String>,
        name: String,
        partitions: i32,
    ) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        config.extend(properties.iter().map(|(name, value)| (name.clone(), value.clone())));
        let admin: AdminClient<DefaultClientContext> =
            config.create().map_err(|error| ClientError::refused(&error))?;
        let wanted = NewTopic::new(&name, partitions, BROKERS_DEFAULT);
        let results = admin.create_topics([&wanted], &options()).await;
        for result in results.context("asking Kafka to create the scratch topic")? {
            match result {
                Ok(_) => {}
                Err((_, error)) => bail!("{}", refusal(&name, error)),
            }
        }
        Ok(Self { name, admin })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Deletes the topic with everything in it.
    ///
    /// # Errors
    /// Kafka out of reach, or unwilling.
    pub async fn delete(self) -> anyhow::Result<()> {
        let results = self.admin.delete_topics(&[&self.name], &options()).await;
        for result in results.context("asking Kafka to delete the scratch topic")? {
            if let Err((topic, error)) = result {
                bail!(
                    "topic {topic:?} could not be deleted: {error}. Delete it with Kafka's tools"
                );
            }
        }
        Ok(())
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

fn refusal(topic: &str, error: RDKafkaErrorCode) -> String {
    use RDKafkaErrorCode::{ClusterAuthorizationFailed, TopicAuthorizationFailed};
    match error {
        TopicAuthorizationFailed | ClusterAuthorizationFailed => {
            let prefix = topic.rsplit_once('_').map_or(topic, |(prefix, _)| prefix);
            format!(
                "the broker does not let us create topic {topic:?} ({error}). Grant CREATE, DELETE, \
                 DESCRIBE, READ and WRITE on topics with the prefix {prefix:?}, READ on groups and \
                 WRITE and DESCRIBE on transactional ids with the same prefix"
            )
        }
        _ => format!("topic {topic:?} could not be created: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_grant() {
        let said = refusal("a_b_0123", RDKafkaErrorCode::TopicAuthorizationFailed);
        assert!(said.contains("Grant CREATE") && said.contains("prefix \"a_b\""), "{said}");
        let said = refusal("a_b_0123", RDKafkaErrorCode::InvalidReplicationFactor);
        assert!(!said.contains("Grant"), "{said}");
    }
}
