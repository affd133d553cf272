//! Records that come again: none, some that a producer retried, and a whole topic read once more.

use anyhow::Result;
use serde::Serialize;
use user_events_worker::commands::produce::Recipe;

use crate::backlog::Backlog;
use crate::draining::{COLUMNS, Drained, Draining};
use crate::plan::{PARTITIONS, Plan};
use crate::report::{Case, Table, rounds};
use crate::schema::Schema;
use crate::services::Services;
use crate::workload::Mix;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    /// Of the records, so many repeat an earlier one.
    pub(crate) percent: u8,
    pub(crate) records: u64,
}

#[derive(Serialize)]
pub(crate) struct Duplicates(pub(crate) Vec<Case<Setting, Drained>>);

pub(crate) async fn measure(services: &Services, plan: &Plan) -> Result<Duplicates> {
    let records = plan.events;
    let fresh = Backlog::of(services, Mix::Even, records, PARTITIONS).await?;
    let retried = Recipe { duplicates: 0.3, ..Mix::Even.recipe() };
    let retried = Backlog::filled(services, retried, records, PARTITIONS).await?;
    let settings = [0, 30, 100].map(|percent| Setting { percent, records }).into();
    let cases = rounds("duplicates", settings, plan.other_runs, async |setting| {
        let schema = Schema::new(services).await?;
        let backlog = if setting.percent == 30 { &retried } else { &fresh };
        if setting.percent == 100 {
            Draining::new(services, backlog, &schema).measure().await?;
            rewind(&schema).await?;
        }
        let drained = Draining::new(services, backlog, &schema).measure().await?;
        schema.drop().await?;
        Ok(drained)
    });
    let cases = cases.await?;
    fresh.drop(services).await?;
    retried.drop(services).await?;
    Ok(Duplicates(cases))
}

/// Everything is read again, and nothing of it is new.
async fn rewind(schema: &Schema) -> Result<()> {
    let mut conn = schema.connect().await?;
    sqlx::query("UPDATE source_offsets SET next_offset = 0").execute(&mut conn).await?;
    sqlx::query("VACUUM (ANALYZE) user_events, users").execute(&mut conn).await?;
    Ok(())
}

impl Duplicates {
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(
            "duplicates: records that are in the ledger already",
            &[&["redelivered", "records"], &COLUMNS[..]].concat(),
        );
        for case in &self.0 {
            let Setting { percent, records } = case.setting;
            let head = [format!("{percent} %"), records.to_string()];
            table.row(head.into_iter().chain(case.cells()));
        }
        table
    }
}
