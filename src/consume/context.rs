//! librdkafka's callbacks. They run on the polling thread, inside `poll` and inside `drop`: they
//! record what happened and return.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use tracing::{debug, error, warn};

use crate::consume::statistics::{self, Fetched};
use crate::observe::rate_limit::LogGate;
use crate::types::TopicPartition;

/// What librdkafka calls its warning about a commit that failed while nobody asked for the result:
/// one for each request, however many partitions it holds. The only word there is: rdkafka 0.39
/// never asks, and never calls `commit_callback` (fede1024/rust-rdkafka issue 856).
const COMMIT_FAILED: &str = "COMMITFAIL";

/// The worker's consumer.
pub type WorkerConsumer = BaseConsumer<Context>;

/// What Kafka decided, in order.
#[derive(Debug)]
pub(super) enum Rebalance {
    /// These were added; librdkafka waits for `assign`.
    Assigned(Vec<TopicPartition>),
    /// These were taken, and are unassigned already.
    Revoked {
        partitions: Vec<TopicPartition>,
        /// Taken without being asked for: the group went on without us.
        lost: bool,
    },
}

/// Something librdkafka told us about.
#[derive(Debug)]
pub(super) enum Event {
    Rebalance(Rebalance),
    /// An asynchronous commit came to nothing, also after librdkafka tried again; and why.
    CommitFailed(String),
    /// What the fetches of late said about the ends of the logs.
    Fetched(Vec<Fetched>),
}

/// Collects what the callbacks are told.
pub struct Context {
    events: Sender<Event>,
    log: LogGate,
}

/// The polling thread's end of a [`Context`].
pub struct Events(pub(super) Receiver<Event>);

impl Context {
    /// A context, and where its events arrive.
    pub fn new() -> (Self, Events) {
        let (events, receiver) = channel();
        let log = LogGate::new(Duration::from_secs(10));
        (Self { events, log }, Events(receiver))
    }

    fn tell(&self, event: Event) {
        // Nobody listens while the consumer is being dropped.
        drop(self.events.send(event));
    }

    fn log_gate(&self, key: &'static str) -> Option<u64> {
        self.log.pass(key)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == COMMIT_FAILED {
            return self.tell(Event::CommitFailed(message.to_owned()));
        }
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                if let Some(suppressed) = self.log_gate("librdkafka") {
                    warn!(facility, message, suppressed, "librdkafka");
                }
            }
            _ => debug!(facility, message, "librdkafka"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match statistics::fetched(statistics) {
            Ok(fetched) => self.tell(Event::Fetched(fetched)),
            Err(error) => {
                if let Some(suppressed) = self.log_gate("statistics") {
                    warn!(%error, suppressed, "librdkafka's statistics cannot be read");
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(suppressed) = self.log_gate("kafka") {
            warn!(%error, reason, suppressed, "kafka is in trouble, librdkafka keeps trying");
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions = partitions(list);
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // `assign` follows with explicit offsets, once the partitions are claimed.
            self.tell(Event::Rebalance(Rebalance::Assigned(partitions)));
            return;
        }
        let lost = consumer.assignment_lost();
        let unassigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
        };
        if let Err(error) = unassigned {
            error!(%error, "could not give partitions back to kafka");
        }
        self.tell(Event::Rebalance(Rebalance::Revoked { partitions, lost }));
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements().iter().map(|e| TopicPartition::new(e.topic(), e.partition())).collect()
}
