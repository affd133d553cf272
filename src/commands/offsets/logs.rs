//! The topics' logs, as the broker has them now. Never joins the group.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::Offset as KafkaOffset;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::TopicPartitionList;
use time::OffsetDateTime;

use crate::config::Config;
use crate::consume::{self, Context, WorkerConsumer};
use crate::types::{Offset, TopicPartition};

/// How long one question to a broker may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One partition's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Log {
    /// The oldest offset kept, and the next to be written, as a read-committed reader sees it.
    pub(super) span: Range<Offset>,
    /// The first offset whose record is not before the time asked about, if one was; the end when
    /// there is no such record.
    pub(super) at_time: Option<Offset>,
}

/// What the cluster said.
pub(super) struct Logs {
    /// The cluster's id.
    pub(super) cluster: String,
    /// By partition; a topic that does not exist has none.
    pub(super) logs: BTreeMap<TopicPartition, Log>,
}

/// Asks about every partition of `topics`, and where in them `time` is.
///
/// # Errors
/// When a broker or a partition's leader does not answer.
pub(super) async fn look(
    config: &Config,
    topics: Vec<String>,
    time: Option<OffsetDateTime>,
) -> anyhow::Result<Logs> {
    let (context, _events) = Context::new();
    let consumer = consume::consumer(&config.kafka.consumer_properties(), context)?;
    let brokers = config.kafka.bootstrap_servers.clone();
    tokio::task::spawn_blocking(move || {
        let cluster = consume::cluster_id(&consumer, PATIENCE)
            .with_context(|| format!("no kafka broker answers at {brokers}"))?;
        let mut logs = BTreeMap::new();
        for topic in &topics {
            for partition in partitions(&consumer, topic)? {
                let source = TopicPartition::new(topic.as_str(), partition);
                let log = log(&consumer, &source, time)
                    .with_context(|| format!("asking kafka about the log of {source}"))?;
                logs.insert(source, log);
            }
        }
        Ok(Logs { cluster, logs })
    })
    .await?
}

fn partitions(consumer: &WorkerConsumer, topic: &str) -> anyhow::Result<Vec<i32>> {
    let metadata = consumer
        .fetch_metadata(Some(topic), PATIENCE)
        .with_context(|| format!("asking kafka about topic {topic:?}"))?;
    let Some(found) = metadata.topics().first() else { return Ok(vec![]) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(found.partitions().iter().map(|partition| partition.id()).collect()),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Ok(vec![])
        }
        Some(error) => bail!("asking kafka about topic {topic:?}: {error}"),
    }
}

fn log(
    consumer: &WorkerConsumer,
    source: &TopicPartition,
    time: Option<OffsetDateTime>,
) -> anyhow::Result<Log> {
    let at_time = time.map(|time| first_at(consumer, source, time)).transpose()?;
    // After the time, so that its offset cannot lie beyond the end: only an open transaction can
    // put it there.
    let (start, end) = consumer.fetch_watermarks(&source.topic, source.partition, PATIENCE)?;
    let span = Offset(start)..Offset(end);
    let at_time = at_time.map(|offset| offset.map_or(span.end, |offset| offset.min(span.end)));
    Ok(Log { span, at_time })
}

/// The offset of the first record not before `time`; none when all are.
fn first_at(
    consumer: &WorkerConsumer,
    source: &TopicPartition,
    time: OffsetDateTime,
) -> anyhow::Result<Option<Offset>> {
    // Kafka counts milliseconds. Rounding down reads a record too many rather than one too few.
    let milliseconds = i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000))?;
    let mut list = TopicPartitionList::new();
    let asked = KafkaOffset::Offset(milliseconds.max(0));
    list.add_partition_offset(&source.topic, source.partition, asked)?;
    let list = consumer.offsets_for_times(list, PATIENCE)?;
    let elements = list.elements();
    let element = elements.first().context("no answer")?;
    element.error()?;
    match element.offset() {
        KafkaOffset::Offset(offset) => Ok(Some(Offset(offset))),
        KafkaOffset::End => Ok(None),
        other => bail!("an unexpected answer: {other:?}"),
    }
}
