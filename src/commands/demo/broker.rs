//! A Kafka broker inside this process: librdkafka's mock cluster.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::Context;
use rdkafka::mocking::MockCluster;

/// A broker that lives as long as this value. It speaks Kafka's protocol on a loopback port, keeps
/// about 5 MiB per partition in memory and forgets the oldest beyond.
pub struct EmbeddedBroker {
    bootstrap_servers: String,
    /// Dropped to end the thread.
    alive: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts a broker with one topic.
    ///
    /// # Errors
    /// librdkafka's own.
    pub fn start(topic: &str, partitions: i32) -> anyhow::Result<Self> {
        let (alive, ended) = mpsc::channel::<()>();
        let (ready, started) = mpsc::channel();
        let topic = topic.to_owned();
        // The cluster may not leave the thread that made it.
        let thread =
            thread::Builder::new().name("embedded-broker".to_owned()).spawn(move || {
                match start(&topic, partitions) {
                    Ok(cluster) => {
                        ready.send(Ok(cluster.bootstrap_servers())).ok();
                        // Nothing is ever sent: this ends when the sender is dropped.
                        ended.recv().ok();
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?;
        let bootstrap_servers = started.recv().context("the embedded broker's thread ended")??;
        Ok(Self { bootstrap_servers, alive: Some(alive), thread: Some(thread) })
    }

    /// Where clients connect.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }
}

fn start(
    topic: &str,
    partitions: i32,
) -> anyhow::Result<MockCluster<'static, impl rdkafka::ClientContext + use<>>> {
    let cluster = MockCluster::new(1).context("starting the embedded broker")?;
    cluster.create_topic(topic, partitions, 1).context("creating the topic")?;
    Ok(cluster)
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use rdkafka::config::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Headers;
    use rdkafka::{Message, Offset, TopicPartitionList};

    use super::*;
    use crate::commands::produce::{Clock, Delivered, Generated, Generator, Pace, Recipe, Sender};

    fn properties(broker: &EmbeddedBroker) -> BTreeMap<String, String> {
        BTreeMap::from([("bootstrap.servers".to_owned(), broker.bootstrap_servers().to_owned())])
    }

    /// Every record of the topic by position, as another client sees it.
    fn consume(broker: &EmbeddedBroker, wanted: usize) -> HashMap<(i32, i64), Consumed> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", broker.bootstrap_servers())
            .set("group.id", "test")
            .create()
            .unwrap();
        let mut all = TopicPartitionList::new();
        for partition in 0..3 {
            all.add_partition_offset("events", partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&all).unwrap();
        let give_up = Instant::now() + Duration::from_secs(20);
        let mut found = HashMap::new();
        while found.len() < wanted && Instant::now() < give_up {
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            let headers = message.headers().map_or_else(Vec::new, |headers| {
                headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
            });
            let consumed = Consumed {
                key: message.key().unwrap().to_vec(),
                value: message.payload().map(<[u8]>::to_vec),
                headers,
            };
            found.insert((message.partition(), message.offset()), consumed);
        }
        found
    }

    #[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    struct Consumed {
        key: Vec<u8>,
        value: Option<Vec<u8>>,
        headers: Vec<(String, Option<Vec<u8>>)>,
    }

    fn as_consumed(record: Generated) -> Consumed {
        let headers = record
            .headers
            .into_iter()
            .map(|h| (h.name.to_string(), h.value.map(Vec::from)))
            .collect();
        Consumed { key: record.key, value: record.value, headers }
    }

    #[test]
    fn what_is_sent_arrives_byte_for_byte() {
        let broker = EmbeddedBroker::start("events", 3).unwrap();
        let recipe =
            Recipe { malformed: 0.2, tombstones: 0.1, duplicates: 0.1, ..Recipe::default() };
        let records: Vec<_> = Generator::new(recipe, Clock::System).unwrap().take(2_000).collect();

        let delivered = Arc::new(Mutex::new(Vec::<Delivered>::new()));
        let heard = delivered.clone();
        let observer = Box::new(move |delivery| heard.lock().unwrap().push(delivery));
        let mut sender = Sender::observed(&properties(&broker), "events", observer).unwrap();
        sender.pump(records.clone(), |_| Pace::Go, |_| {}).unwrap();
        sender.settle(Duration::from_secs(20)).unwrap();
        assert_eq!((sender.sent(), sender.acknowledged()), (2_000, 2_000));

        let mut found = consume(&broker, 2_000);
        for delivery in delivered.lock().unwrap().iter() {
            let consumed = &found[&(delivery.partition, delivery.offset)];
            let bytes = consumed.key.len() + consumed.value.as_ref().map_or(0, Vec::len);
            assert_eq!(bytes, delivery.bytes);
        }
        let mut partition_of = HashMap::new();
        for ((partition, _), consumed) in &found {
            let first = *partition_of.entry(consumed.key.clone()).or_insert(*partition);
            assert_eq!(first, *partition, "one user's records are in one partition");
        }
        let mut found: Vec<_> = found.drain().map(|(_, consumed)| consumed).collect();
        let mut sent: Vec<_> = records.into_iter().map(as_consumed).collect();
        found.sort();
        sent.sort();
        assert!(found == sent);
    }

    #[test]
    fn records_that_cannot_be_delivered_are_an_error() {
        let broker = EmbeddedBroker::start("events", 3).unwrap();
        let mut properties = properties(&broker);
        properties.insert("message.timeout.ms".to_owned(), "1000".to_owned());
        let mut sender = Sender::new(&properties, "events").unwrap();
        drop(broker);
        let records = Generator::new(Recipe::default(), Clock::System).unwrap().take(10);
        sender.pump(records, |_| Pace::Go, |_| {}).unwrap();
        let error = sender.settle(Duration::from_secs(20)).unwrap_err();
        assert!(error.to_string().contains("could not be delivered"), "{error:#}");
    }
}
