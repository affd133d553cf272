//! Several workers in one group.

use anyhow::Result;
use serde::Serialize;

use crate::backlog::Backlog;
use crate::draining::{COLUMNS, Drained, Draining};
use crate::plan::{PARTITIONS, Plan};
use crate::report::{Case, Table, rounds};
use crate::schema::Schema;
use crate::services::Services;
use crate::workload::Mix;

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Setting {
    pub(crate) workers: usize,
    pub(crate) events: u64,
}

#[derive(Serialize)]
pub(crate) struct ScaleOut(pub(crate) Vec<Case<Setting, Drained>>);

pub(crate) async fn measure(services: &Services, plan: &Plan) -> Result<ScaleOut> {
    // The first workers drain while the last ones join, which does not count.
    let events = plan.events * 2;
    let backlog = Backlog::of(services, Mix::Even, events, PARTITIONS).await?;
    let settings = [1, 2, 4].map(|workers| Setting { workers, events }).into();
    let cases = rounds("scale-out", settings, plan.other_runs, async |setting| {
        let schema = Schema::new(services).await?;
        let one = Draining::new(services, &backlog, &schema);
        let drained = Draining { workers: setting.workers, ..one }.measure().await?;
        schema.drop().await?;
        Ok(drained)
    });
    let cases = cases.await?;
    backlog.drop(services).await?;
    Ok(ScaleOut(cases))
}

impl ScaleOut {
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(
            "scale-out: worker processes in one group, 12 partitions",
            &[&["workers", "number"], &COLUMNS[..]].concat(),
        );
        for case in &self.0 {
            let Setting { workers, events } = case.setting;
            let head = [workers.to_string(), events.to_string()];
            table.row(head.into_iter().chain(case.cells()));
        }
        table
    }
}
