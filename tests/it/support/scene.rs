//! A scene: a topic, a group and a schema that nobody else uses.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};

use super::watched::Crew;
use super::{EventBuilder, WorkerBuilder, eventually, unique};

/// See the module. Its topic and schema are left behind; the services of a test run are thrown
/// away whole.
pub struct Scene {
    pub brokers: String,
    pub database_url: String,
    pub topic: String,
    pub group: String,
    pub schema: String,
    pub partitions: i32,
    producer: FutureProducer,
    pub(super) crew: Crew,
}

impl Scene {
    /// A scene on the shared services.
    pub async fn new(partitions: i32) -> Self {
        let from = |name| {
            std::env::var(name).unwrap_or_else(|_| {
                panic!("{name} is not set: run the tests by `make test`, or start services by `make services`")
            })
        };
        Self::on(&from("KAFKA_BOOTSTRAP_SERVERS"), &from("DATABASE_URL"), partitions).await
    }

    /// A scene on services of the test's own.
    pub async fn on(brokers: &str, database_url: &str, partitions: i32) -> Self {
        let scene = Self::without_topic(brokers, database_url, partitions);
        scene.create_topic(partitions).await;
        scene
    }

    /// A scene in a database of its own on the shared Postgres: whatever is connected to it
    /// belongs to this scene.
    pub async fn in_database(partitions: i32) -> Self {
        let shared = Self::new(partitions).await;
        let database = unique("own");
        shared.execute(&format!("CREATE DATABASE {database}")).await;
        let (server, _) = shared.database_url.rsplit_once('/').unwrap();
        Self { database_url: format!("{server}/{database}"), ..shared }
    }

    /// The same, whose topic somebody else creates.
    pub fn without_topic(brokers: &str, database_url: &str, partitions: i32) -> Self {
        let name = unique("t");
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("linger.ms", "2")
            .create()
            .unwrap();
        Self {
            brokers: brokers.into(),
            database_url: database_url.into(),
            topic: name.clone(),
            group: name.clone(),
            schema: name,
            partitions,
            producer,
            crew: Crew::default(),
        }
    }

    /// From here on records count as sent when the leader alone has them.
    pub fn trusts_leaders(&mut self) {
        self.producer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("acks", "1")
            .set("linger.ms", "2")
            .create()
            .unwrap();
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap()
    }

    /// Creates the topic and waits until its partitions have leaders.
    pub async fn create_topic(&self, partitions: i32) {
        self.create_topic_with(partitions, &[]).await;
    }

    /// The same, with settings of its own.
    pub async fn create_topic_with(&self, partitions: i32, settings: &[(&str, &str)]) {
        self.create(partitions, TopicReplication::Fixed(1), settings).await;
    }

    /// The same, with a list of brokers for each partition, the preferred leader first.
    pub async fn create_topic_on(&self, brokers: &[&[i32]], settings: &[(&str, &str)]) {
        let partitions = brokers.len().try_into().unwrap();
        self.create(partitions, TopicReplication::Variable(brokers), settings).await;
    }

    async fn create(
        &self,
        partitions: i32,
        replication: TopicReplication<'_>,
        settings: &[(&str, &str)],
    ) {
        let admin = self.admin();
        let mut topic = NewTopic::new(&self.topic, partitions, replication);
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        eventually("the topic is created", async || {
            let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(5)));
            match admin.create_topics([&topic], &options).await {
                Ok(results) => match &results[0] {
                    Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Some(()),
                    Err(_) => None,
                },
                Err(_) => None,
            }
        })
        .await;
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        eventually("every partition has a leader", async || {
            let metadata =
                consumer.fetch_metadata(Some(&self.topic), Duration::from_secs(5)).ok()?;
            let found = metadata.topics().first()?.partitions();
            (found.len() == partitions as usize && found.iter().all(|p| p.leader() >= 0))
                .then_some(())
        })
        .await;
    }

    /// Deletes the topic and waits until it is gone.
    pub async fn delete_topic(&self) {
        self.admin().delete_topics(&[&self.topic], &AdminOptions::new()).await.unwrap();
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        eventually("the topic is gone", async || {
            let metadata = consumer.fetch_metadata(None, Duration::from_secs(5)).ok()?;
            (!metadata.topics().iter().any(|t| t.name() == self.topic)).then_some(())
        })
        .await;
    }

    /// Deletes the records before the given offset of a partition, as retention would.
    pub async fn delete_records_before(&self, partition: i32, offset: i64) {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, rdkafka::Offset::Offset(offset)).unwrap();
        let deleted = self.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
        deleted.elements().iter().for_each(|partition| partition.error().unwrap());
    }

    /// Sends records in order and waits for every acknowledgement; answers partition and offset.
    pub async fn send(&self, events: &[EventBuilder]) -> Vec<(i32, i64)> {
        let mut deliveries = Vec::with_capacity(events.len());
        for event in events {
            let value = event.value();
            let mut record: FutureRecord<'_, [u8], [u8]> =
                FutureRecord::to(&self.topic).headers(event.kafka_headers());
            if let Some(partition) = event.partition {
                record = record.partition(partition);
            }
            if let Some(timestamp) = event.timestamp_ms {
                record = record.timestamp(timestamp);
            }
            if let Some(key) = &event.key {
                record = record.key(key);
            }
            if let Some(value) = &value {
                record = record.payload(value);
            }
            loop {
                match self.producer.send_result(record) {
                    Ok(delivery) => break deliveries.push(delivery),
                    Err((error, back)) => {
                        let full = Some(RDKafkaErrorCode::QueueFull);
                        assert_eq!(error.rdkafka_error_code(), full, "{error}");
                        record = back;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        }
        let mut positions = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let delivered = delivery.await.expect("the producer lives").expect("acknowledged");
            positions.push((delivered.partition, delivered.offset));
        }
        positions
    }

    /// A worker on this scene, to be started.
    pub fn worker(&self) -> WorkerBuilder {
        WorkerBuilder::new(self)
    }

    /// A connection of the checker's own, in the worker's schema.
    pub async fn db(&self) -> PgConnection {
        let mut conn = PgConnection::connect(&self.database_url).await.unwrap();
        let set = format!("SET search_path = \"{}\"", self.schema);
        sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut conn).await.unwrap();
        conn
    }

    /// One row of the worker's schema.
    pub async fn fetch_one<T>(&self, sql: &str) -> T
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let mut conn = self.db().await;
        sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await.unwrap()
    }

    /// All rows.
    pub async fn fetch_all<T>(&self, sql: &str) -> Vec<T>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let mut conn = self.db().await;
        sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_all(&mut conn).await.unwrap()
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        let mut conn = self.db().await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
    }

    /// Where each partition's log ends, as a read-committed reader sees it. A leader that is new may
    /// not know yet.
    pub async fn ends(&self) -> BTreeMap<i32, i64> {
        eventually("every partition tells its end", async || {
            let (brokers, topic, partitions) =
                (self.brokers.clone(), self.topic.clone(), self.partitions);
            tokio::task::spawn_blocking(move || {
                let consumer: BaseConsumer = ClientConfig::new()
                    .set("bootstrap.servers", &brokers)
                    .set("isolation.level", "read_committed")
                    .create()
                    .unwrap();
                let watermarks = |p| consumer.fetch_watermarks(&topic, p, Duration::from_secs(10));
                (0..partitions).map(|p| Some((p, watermarks(p).ok()?.1))).collect()
            })
            .await
            .unwrap()
        })
        .await
    }

    /// Where each partition stands in Postgres; none where it was never read, or when Postgres or
    /// the schema is not there.
    pub async fn positions(&self) -> Option<BTreeMap<i32, i64>> {
        let mut conn = PgConnection::connect(&self.database_url).await.ok()?;
        let sql = format!(
            "SELECT partition, next_offset FROM \"{}\".source_offsets WHERE topic = '{}' AND next_offset IS NOT NULL",
            self.schema, self.topic
        );
        let rows: Vec<(i32, i64)> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut conn).await.ok()?;
        Some(rows.into_iter().collect())
    }

    /// How many offsets all partitions have moved so far.
    pub async fn progress(&self) -> i64 {
        eventually("postgres tells the positions", async || self.positions().await)
            .await
            .values()
            .sum()
    }

    /// Waits until so many more offsets are applied.
    pub async fn progresses(&self, by: i64) {
        let target = self.progress().await + by;
        eventually(&format!("{by} more are applied"), async || {
            (self.progress().await >= target).then_some(())
        })
        .await;
    }

    /// The group's offsets, as Kafka has them.
    pub async fn mirrored(&self) -> BTreeMap<i32, i64> {
        let (brokers, group) = (self.brokers.clone(), self.group.clone());
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_range(&self.topic, 0, self.partitions - 1);
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", &brokers)
                .set("group.id", &group)
                .create()
                .unwrap();
            let offsets = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
            offsets
                .elements()
                .iter()
                .filter_map(|e| Some((e.partition(), e.offset().to_raw().filter(|o| *o >= 0)?)))
                .collect()
        })
        .await
        .unwrap()
    }

    /// Waits until Postgres stands at these ends, or beyond.
    pub async fn passes(&self, ends: &BTreeMap<i32, i64>) {
        eventually("every record published so far is applied", async || {
            let positions = self.positions().await?;
            let passed = |(p, end): (&i32, &i64)| positions.get(p).unwrap_or(&0) >= end;
            ends.iter().all(passed).then_some(())
        })
        .await;
    }

    /// Waits until Postgres stands at the end of every partition.
    pub async fn caught_up(&self) {
        let ends = self.ends().await;
        eventually("every record published is applied", async || {
            (self.positions().await? == ends).then_some(())
        })
        .await;
    }
}
