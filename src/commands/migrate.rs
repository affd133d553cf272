//! `migrate`: creates or updates the schema.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use time::OffsetDateTime;
use tracing::info;

use crate::app;
use crate::apply::migrate;
use crate::config::Config;

/// Arguments of `migrate`.
#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// Also drop the ledger months that ended before ledger.retention; they are never made again.
    #[arg(long)]
    pub drop_expired: bool,
}

/// Migrates, and drops old months if asked to. Safe with many starters at once.
///
/// # Errors
/// When Postgres is away or refuses.
pub async fn run(args: MigrateArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let session = app::session_options(&config.postgres)?;
    migrate::migrate(&session).await.context("migrating the schema")?;
    info!(schema = session.schema, version = migrate::latest_version(), "schema is up to date");
    if args.drop_expired {
        let oldest = OffsetDateTime::now_utc() - config.ledger.retention;
        let dropped = migrate::drop_expired(&session, oldest.date())
            .await
            .context("dropping expired ledger months")?;
        info!(?dropped, "dropped expired ledger months");
    }
    Ok(ExitCode::SUCCESS)
}
