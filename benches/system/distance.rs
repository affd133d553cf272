//! A Postgres further away: drain with a delay added to every round trip.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use user_events_worker::config::PostgresUrl;

use crate::backlog::Backlog;
use crate::draining::{COLUMNS, Drained, Draining};
use crate::plan::{PARTITIONS, Plan};
use crate::proxy;
use crate::report::{Case, Table, rounds};
use crate::schema::Schema;
use crate::services::Services;
use crate::workload::Mix;

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Setting {
    /// Added to each round trip. 0 goes through the proxy, too.
    pub(crate) milliseconds: u64,
    pub(crate) events: u64,
}

#[derive(Serialize)]
pub(crate) struct Distance(pub(crate) Vec<Case<Setting, Drained>>);

pub(crate) async fn measure(services: &Services, plan: &Plan) -> Result<Distance> {
    let events = plan.events;
    let backlog = Backlog::of(services, Mix::Even, events, PARTITIONS).await?;
    let settings = plan.distances.iter().map(|&milliseconds| Setting { milliseconds, events });
    let cases = rounds("distance", settings.collect(), plan.other_runs, async |setting| {
        let mut schema = Schema::new(services).await?;
        schema.config.postgres.url = further_away(services, setting.milliseconds)?;
        let drained = Draining::new(services, &backlog, &schema).measure().await?;
        schema.drop().await?;
        Ok(drained)
    });
    let cases = cases.await?;
    backlog.drop(services).await?;
    Ok(Distance(cases))
}

/// The same database behind a proxy.
fn further_away(services: &Services, milliseconds: u64) -> Result<PostgresUrl> {
    let mut url: reqwest::Url = services.database_url.parse().context("the database's URL")?;
    let server = url.socket_addrs(|| Some(5432)).context("the database's address")?;
    let server = server.into_iter().next().context("the database's address")?;
    let proxy = proxy::start(server, Duration::from_millis(milliseconds))?;
    url.set_host(Some(&proxy.ip().to_string())).context("the proxy's address")?;
    let set = url.set_port(Some(proxy.port()));
    set.ok().context("the proxy's port")?;
    Ok(PostgresUrl::new(url.to_string()))
}

impl Distance {
    pub(crate) fn table(&self) -> Table {
        let head = ["added to a round trip", "number"];
        let mut table = Table::new(
            "distance: a drain through a proxy that delays what goes to Postgres",
            &[&head, &COLUMNS[..]].concat(),
        );
        for case in &self.0 {
            let Setting { milliseconds, events } = case.setting;
            let head = [format!("{milliseconds} ms"), events.to_string()];
            table.row(head.into_iter().chain(case.cells()));
        }
        table
    }
}
