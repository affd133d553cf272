//! How fast a preloaded backlog is applied: kinds of events, and one connection or several.

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
    pub(crate) mix: Mix,
    /// Connections; the worker's default where not given.
    pub(crate) lanes: Option<usize>,
    pub(crate) events: u64,
}

#[derive(Serialize)]
pub(crate) struct Drain(pub(crate) Vec<Case<Setting, Drained>>);

/// Every kind as the worker is by default, and over one connection for the comparison with `limit`.
const SETTINGS: [(Mix, Option<usize>); 6] = [
    (Mix::Even, None),
    (Mix::Even, Some(1)),
    (Mix::Profile, None),
    (Mix::Profile, Some(1)),
    (Mix::Zipf, None),
    (Mix::RandomIds, None),
];

pub(crate) async fn measure(services: &Services, plan: &Plan) -> Result<Drain> {
    let mut cases = Vec::new();
    for mix in [Mix::Even, Mix::Profile, Mix::Zipf, Mix::RandomIds] {
        let backlog = Backlog::of(services, mix, plan.events, PARTITIONS).await?;
        let settings = SETTINGS.into_iter().filter(|(of, _)| *of == mix);
        let settings = settings.map(|(mix, lanes)| Setting { mix, lanes, events: plan.events });
        let measured = rounds("drain", settings.collect(), plan.runs, async |setting| {
            let schema = Schema::new(services).await?;
            let drain =
                Draining { lanes: setting.lanes, ..Draining::new(services, &backlog, &schema) };
            let drained = drain.measure().await?;
            schema.drop().await?;
            Ok(drained)
        });
        cases.extend(measured.await?);
        backlog.drop(services).await?;
    }
    Ok(Drain(cases))
}

impl Drain {
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(
            "drain: a preloaded backlog, 12 partitions",
            &[&["events", "number", "connections"], &COLUMNS[..]].concat(),
        );
        for case in &self.0 {
            let Setting { mix, lanes, events } = case.setting;
            let lanes = lanes.map_or("default".to_owned(), |lanes| lanes.to_string());
            let head = [mix.label().to_owned(), events.to_string(), lanes];
            table.row(head.into_iter().chain(case.cells()));
        }
        table
    }
}
