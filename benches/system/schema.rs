//! A schema of a run's own, made by the worker's own migrations.

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::OffsetDateTime;
use user_events_worker::app;
use user_events_worker::apply::{SessionOptions, migrate};
use user_events_worker::config::{self, Config};

use crate::services::Services;

pub(crate) struct Schema {
    pub(crate) name: String,
    /// The worker's defaults, and whatever the environment of the benchmark says.
    pub(crate) config: Config,
}

impl Schema {
    pub(crate) async fn new(services: &Services) -> Result<Self> {
        let name = services.fresh_name();
        let ours = [
            ("WORKER_POSTGRES__URL".to_owned(), services.database_url.clone()),
            ("WORKER_POSTGRES__SCHEMA".to_owned(), name.clone()),
        ];
        let theirs = config::process_env().filter(|(key, _)| !key.starts_with("WORKER_POSTGRES"));
        let config = Config::load(None, theirs.chain(ours))?;
        let schema = Self { name, config };
        migrate::migrate(&schema.session()?).await?;
        let month = OffsetDateTime::now_utc().date();
        sqlx::query("SELECT ensure_user_events_month($1)")
            .bind(month)
            .execute(&mut schema.connect().await?)
            .await?;
        Ok(schema)
    }

    pub(crate) fn session(&self) -> Result<SessionOptions> {
        app::session_options(&self.config.postgres)
    }

    /// A connection that is in the schema.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        let mut conn = self.session()?.connect().await?;
        let enter = format!("SET search_path = \"{}\", pg_temp", self.name);
        sqlx::raw_sql(AssertSqlSafe(enter)).execute(&mut conn).await?;
        Ok(conn)
    }

    pub(crate) async fn drop(self) -> Result<()> {
        let mut conn = self.connect().await?;
        let drop = format!("DROP SCHEMA \"{}\" CASCADE", self.name);
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut conn).await?;
        Ok(conn.close().await?)
    }
}

/// A measurement counts only if the work was done.
pub(crate) async fn expect_events(services: &Services, schema: &str, count: u64) -> Result<()> {
    let mut conn = PgConnection::connect(&services.database_url).await?;
    let sql = format!("SELECT count(*) FROM \"{schema}\".user_events");
    let stored: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut conn).await?;
    ensure!(u64::try_from(stored)? == count, "{stored} events are stored instead of {count}");
    Ok(())
}
