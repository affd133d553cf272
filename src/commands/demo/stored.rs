//! What Kafka and Postgres hold, asked without the worker.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::Context;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

const BROKER_ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// What is in Kafka: the offset after the last record, by partition.
///
/// The sum is how many records were ever written, even where the broker has forgotten the oldest.
///
/// # Errors
/// The broker does not answer.
pub fn ends(
    bootstrap_servers: &str,
    topic: &str,
    partitions: i32,
) -> anyhow::Result<BTreeMap<i32, i64>> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", bootstrap_servers).create()?;
    (0..partitions)
        .map(|partition| {
            let (_, end) = consumer
                .fetch_watermarks(topic, partition, BROKER_ANSWERS_WITHIN)
                .with_context(|| format!("asking for the end of {topic}[{partition}]"))?;
            Ok((partition, end))
        })
        .collect()
}

/// What is in Postgres.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Events in the ledger.
    pub ledger: u64,
    /// Those of them whose sequence is not above every earlier one of their user.
    pub stale: u64,
    /// Events in the ledger more than once, by id.
    pub repeated: u64,
    /// Events that were sent and are not in the ledger.
    pub missing: u64,
    /// Events in the ledger that were not sent.
    pub unknown: u64,
    /// Users whose count or sequence is not what the ledger says, one of both being absent included.
    pub wrong_users: u64,
    /// Dead letters by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// The next offset to read, by partition.
    pub positions: BTreeMap<i32, i64>,
}

impl Stored {
    /// Reads everything as of one moment. `sent` are the ids of the events that must be there.
    ///
    /// # Errors
    /// Postgres's own.
    pub async fn read(
        connection: &mut PgConnection,
        group: &str,
        topic: &str,
        sent: &[Uuid],
    ) -> anyhow::Result<Self> {
        let mut at_once = connection.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut *at_once)
            .await?;
        let stale = sqlx::query_scalar!(
            r#"SELECT count(*) AS "stale!"
               FROM (SELECT sequence,
                            max(sequence) OVER (PARTITION BY user_id
                                                ORDER BY kafka_partition, kafka_offset
                                                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                              AS highest
                     FROM user_events
                     WHERE sequence IS NOT NULL) AS versions
               WHERE sequence <= highest"#
        )
        .fetch_one(&mut *at_once)
        .await?;
        let wrong_users = sqlx::query_scalar!(
            r#"SELECT count(*) AS "wrong!"
               FROM users AS u
               FULL JOIN (SELECT user_id, count(*) AS events, max(sequence) AS sequence
                          FROM user_events GROUP BY user_id) AS e USING (user_id)
               WHERE u.event_count IS DISTINCT FROM e.events
                  OR u.sequence IS DISTINCT FROM e.sequence"#
        )
        .fetch_one(&mut *at_once)
        .await?;
        let dead_letters = sqlx::query!(
            r#"SELECT reason, count(*) AS "records!" FROM dead_letters
               WHERE kafka_topic = $1 GROUP BY reason"#,
            topic
        )
        .fetch_all(&mut *at_once)
        .await?;
        let positions = sqlx::query!(
            r#"SELECT partition, next_offset AS "next_offset!" FROM source_offsets
               WHERE consumer_group = $1 AND topic = $2 AND next_offset IS NOT NULL"#,
            group,
            topic
        )
        .fetch_all(&mut *at_once)
        .await?;
        let ids = sqlx::query_scalar!("SELECT event_id FROM user_events")
            .fetch_all(&mut *at_once)
            .await?;
        at_once.commit().await?;

        let sent: HashSet<&Uuid> = sent.iter().collect();
        let found: HashSet<&Uuid> = ids.iter().collect();
        Ok(Self {
            ledger: ids.len() as u64,
            stale: count(stale),
            repeated: (ids.len() - found.len()) as u64,
            missing: sent.difference(&found).count() as u64,
            unknown: found.difference(&sent).count() as u64,
            wrong_users: count(wrong_users),
            dead_letters: dead_letters.into_iter().map(|r| (r.reason, count(r.records))).collect(),
            positions: positions.into_iter().map(|r| (r.partition, r.next_offset)).collect(),
        })
    }
}

/// `count(*)` is never negative.
fn count(count: i64) -> u64 {
    count.unsigned_abs()
}
