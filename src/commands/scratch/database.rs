//! Where the workers write: a Postgres of our own, or a scratch schema in a given one.

use anyhow::Context;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use super::postgres::ThrowawayPostgres;
use crate::config::PostgresUrl;

/// A database to try things out in. Nothing of it is left after [`ScratchDatabase::stop`].
#[derive(Debug)]
pub enum ScratchDatabase {
    /// A server of our own.
    Throwaway(ThrowawayPostgres),
    /// A schema of our own in somebody's database.
    Scratch(ScratchSchema),
}

/// A schema with a name nobody else has.
#[derive(Debug)]
pub struct ScratchSchema {
    url: PostgresUrl,
    name: String,
}

impl ScratchDatabase {
    /// Starts a Postgres of our own.
    ///
    /// # Errors
    /// See [`ThrowawayPostgres::start`].
    pub async fn throwaway() -> anyhow::Result<Self> {
        ThrowawayPostgres::start().await.map(Self::Throwaway)
    }

    /// Uses the schema `name` in the database at `url`, which the worker's migration creates.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub async fn scratch(url: PostgresUrl, name: String) -> anyhow::Result<Self> {
        let database = Self::Scratch(ScratchSchema { url, name });
        database.connect().await?.close().await?;
        Ok(database)
    }

    /// Where to connect.
    pub fn url(&self) -> PostgresUrl {
        match self {
            Self::Throwaway(postgres) => PostgresUrl::new(postgres.url()),
            Self::Scratch(schema) => schema.url.clone(),
        }
    }

    /// The schema of the worker's tables.
    pub fn schema(&self) -> &str {
        match self {
            Self::Throwaway(_) => "public",
            Self::Scratch(schema) => &schema.name,
        }
    }

    /// How to connect so as to see the worker's tables, once they exist.
    ///
    /// # Errors
    /// The URL cannot be parsed.
    pub fn options(&self) -> anyhow::Result<PgConnectOptions> {
        let options: PgConnectOptions =
            self.url().expose().parse().context("the database URL cannot be parsed")?;
        Ok(options
            .application_name("user-events-scratch")
            .options([("search_path", self.schema())])
            .disable_statement_logging())
    }

    /// A connection that sees the worker's tables, once they exist.
    ///
    /// # Errors
    /// Postgres's own.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        let connected = self.options()?.connect().await;
        connected.with_context(|| format!("connecting to {}", self.url()))
    }

    /// Takes everything away again.
    ///
    /// # Errors
    /// The server would not stop, or the schema not be dropped.
    pub async fn stop(self) -> anyhow::Result<()> {
        let drop_schema = format!("DROP SCHEMA IF EXISTS \"{}\" CASCADE", self.schema());
        match self {
            Self::Throwaway(postgres) => postgres.stop().await,
            Self::Scratch(_) => {
                let mut connection = self.connect().await?;
                let dropped =
                    sqlx::raw_sql(AssertSqlSafe(drop_schema)).execute(&mut connection).await;
                dropped.context("dropping the scratch schema")?;
                Ok(connection.close().await?)
            }
        }
    }
}
