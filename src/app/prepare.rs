//! What must be there before work begins: a schema that is ours, and a Kafka that answers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use time::OffsetDateTime;
use tracing::warn;

use super::{Work, months_from};
use crate::apply::identity::{self, Identity};
use crate::apply::{Session, Writer, migrate};
use crate::batch::Retry;
use crate::consume::{self, Client, WorkerConsumer};
use crate::observe::board::Health;

/// How long one try to reach a broker may take at start.
const GREETING: Duration = Duration::from_secs(3);

impl Work {
    /// Waits for Postgres and Kafka, migrates, and makes sure that the schema is ours. Answers a
    /// client and how many lanes there are to be.
    pub(super) async fn prepare(&mut self) -> anyhow::Result<(Client, usize)> {
        let lanes = self.prepare_postgres().await;
        let (context, _events) = consume::Context::new();
        let greeter = consume::consumer(&self.config.kafka.consumer_properties(), context)?;
        let cluster = self.greet_kafka(&Arc::new(greeter)).await?;
        self.settle_identity(cluster).await?;
        Ok((Client::new(self.config.kafka.worker_properties(lanes))?, lanes))
    }

    async fn prepare_postgres(&mut self) -> usize {
        let mut retry = Retry::new(self.retry_options());
        loop {
            match self.postgres_ready().await {
                Ok(lanes) => {
                    self.board.connected(lanes);
                    return lanes;
                }
                // Whatever it is (away, no grant yet, migration under way), it may be mended
                // while we wait; nothing has been read so far.
                Err(error) => {
                    let wait = retry.after_misconfiguration();
                    let reason = format!("{error:#}");
                    if let Some(suppressed) = self.log.pass("postgres") {
                        warn!(
                            error = reason,
                            ?wait,
                            suppressed,
                            "postgres is not ready, waiting for it"
                        );
                    }
                    self.board.postgres(0, Health::down(reason));
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn postgres_ready(&self) -> anyhow::Result<usize> {
        if self.config.postgres.migrate {
            migrate::migrate(&self.session).await.context("migrating the schema")?;
        } else {
            let mut session = Session::new(self.session.clone());
            let conn = session.begin().await?;
            let latest = migrate::require_latest(conn, &self.session.schema).await?;
            session.commit().await?;
            latest?;
        }
        self.prepare_months().await?;
        self.lanes().await
    }

    async fn prepare_months(&self) -> anyhow::Result<()> {
        let mut writer = Writer::new(self.writer_options());
        let months = months_from(OffsetDateTime::now_utc(), self.config.ledger.months_ahead);
        Ok(writer.prepare_months(&months).await?)
    }

    /// Asks Kafka for its cluster id until it answers.
    async fn greet_kafka(&self, consumer: &Arc<WorkerConsumer>) -> anyhow::Result<String> {
        let mut retry = Retry::new(self.retry_options());
        loop {
            let asked = consumer.clone();
            let answer =
                tokio::task::spawn_blocking(move || consume::cluster_id(&asked, GREETING)).await?;
            if let Some(cluster) = answer {
                self.board.kafka(Health::Up);
                return Ok(cluster);
            }
            let wait = retry.after_outage();
            let brokers = &self.config.kafka.bootstrap_servers;
            let reason = format!("no broker answers at {brokers}");
            if let Some(suppressed) = self.log.pass("kafka") {
                warn!(brokers, ?wait, suppressed, "no broker answers, waiting for kafka");
            }
            self.board.kafka(Health::down(reason));
            tokio::time::sleep(wait).await;
        }
    }

    async fn settle_identity(&self, cluster: String) -> anyhow::Result<()> {
        let ours = Identity { group: self.config.kafka.group_id.clone(), cluster };
        let mut retry = Retry::new(self.retry_options());
        loop {
            match identity::settle(&self.session, &ours).await {
                Ok(settled) => return Ok(settled?),
                Err(error) => {
                    let wait = retry.after_outage();
                    if let Some(suppressed) = self.log.pass("identity") {
                        warn!(
                            %error,
                            ?wait,
                            suppressed,
                            "postgres went away during start, waiting for it"
                        );
                    }
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}
