//! A topic with events waiting in it.

use std::time::Duration;

use anyhow::{Result, ensure};
use user_events_worker::commands::produce::{Expectation, Pace, Recipe, Sender, Tally};

use crate::services::Services;
use crate::workload::{self, Mix};

pub(crate) struct Backlog {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    /// Records in Kafka.
    pub(crate) records: u64,
    /// Events among them: a record that repeats an earlier one brings none.
    pub(crate) events: u64,
}

impl Backlog {
    pub(crate) async fn of(
        services: &Services,
        mix: Mix,
        records: u64,
        partitions: i32,
    ) -> Result<Self> {
        Self::filled(services, mix.recipe(), records, partitions).await
    }

    pub(crate) async fn filled(
        services: &Services,
        recipe: Recipe,
        records: u64,
        partitions: i32,
    ) -> Result<Self> {
        eprintln!("  producing {records} records to {partitions} partitions");
        let topic = services.topic(partitions).await?;
        let (properties, to) = (services.producer_properties(), topic.clone());
        let tally = tokio::task::spawn_blocking(move || {
            let mut tally = Tally::default();
            let mut sender = Sender::new(&properties, &to)?;
            let generated = workload::generator(recipe)?.take(usize::try_from(records)?);
            sender.pump(generated, |_| Pace::Go, |record| tally.add(record.expected))?;
            sender.settle(Duration::from_secs(60))?;
            anyhow::Ok(tally)
        })
        .await??;
        let end = u64::try_from(services.end(&topic, partitions)?)?;
        ensure!(end == records, "{end} records are in Kafka instead of {records}");
        Ok(Self { topic, partitions, records, events: tally.of(Expectation::Fresh) })
    }

    /// Kafka's disk is wanted for the next one.
    pub(crate) async fn drop(self, services: &Services) -> Result<()> {
        services.drop_topic(&self.topic).await
    }
}
