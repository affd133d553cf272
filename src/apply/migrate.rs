//! The schema's migrations, embedded in the binary.

use std::sync::LazyLock;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::Date;

use crate::apply::session::SessionOptions;

/// The migrations this binary was built with. Newer ones in the schema are none of its business:
/// migrations only add, and in a rolling deployment an older copy must be able to start again.
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.set_ignore_missing(true);
    migrator
});

/// Any number: what matters is that every starter takes the same one. ("uew" and a serial.)
const STARTERS: i64 = 0x7565_7700_0001;

/// Creates the schema when it is missing and runs the migrations that are.
///
/// Safe with many starters at once: an advisory lock of the session lets one through at a time.
/// (A session lock does not work through PgBouncer in transaction mode: migrate directly.)
///
/// # Errors
/// Postgres's own, or a migration changed after it was applied.
pub async fn migrate(options: &SessionOptions) -> Result<(), MigrateError> {
    let mut conn = options.connect().await?;
    sqlx::query_scalar!("SELECT pg_advisory_lock($1)", STARTERS).fetch_one(&mut conn).await?;
    let exists = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) AS "exists!""#,
        options.schema
    )
    .fetch_one(&mut conn)
    .await?;
    if !exists {
        let create = format!("CREATE SCHEMA \"{}\"", options.schema);
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut conn).await?;
    }
    enter_schema(&mut conn, options).await?;
    // `run_direct`, because a future made by `run` is not `Send`.
    MIGRATOR.run_direct(None, &mut conn, false).await?;
    // Closing the connection releases the lock.
    conn.close().await?;
    Ok(())
}

/// The newest migration applied to the schema `conn` is in; `None` when there is none.
///
/// # Errors
/// Postgres's own.
pub async fn applied_version(conn: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    // Not checked at compile time: the table belongs to sqlx, not to our migrations.
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await?;
    if !exists {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(conn)
        .await
}

/// The schema is older than this binary, or not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "schema {schema:?} is at version {}, this worker needs {}: run `user-events-worker migrate`",
    .version.map_or("none".to_owned(), |version| version.to_string()), latest_version()
)]
pub struct Outdated {
    schema: String,
    version: Option<i64>,
}

/// Whether the schema `conn` is in is new enough; `schema` is its name.
///
/// # Errors
/// The outer error is Postgres's own; the inner one a clear refusal.
pub async fn require_latest(
    conn: &mut PgConnection,
    schema: &str,
) -> sqlx::Result<Result<(), Outdated>> {
    let version = applied_version(conn).await?;
    if version.is_some_and(|version| version >= latest_version()) {
        return Ok(Ok(()));
    }
    Ok(Err(Outdated { schema: schema.to_owned(), version }))
}

/// The version this binary needs.
pub fn latest_version() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// Drops the ledger months that end on or before `day` (UTC); answers their names.
///
/// # Errors
/// Postgres's own: only the owner of the tables may do this.
pub async fn drop_expired(options: &SessionOptions, day: Date) -> sqlx::Result<Vec<String>> {
    let mut conn = options.connect().await?;
    enter_schema(&mut conn, options).await?;
    sqlx::query_scalar!(r#"SELECT drop_user_events_months($1) AS "month!""#, day)
        .fetch_all(&mut conn)
        .await
}

/// Points an unshared connection at the worker's schema.
async fn enter_schema(conn: &mut PgConnection, options: &SessionOptions) -> sqlx::Result<()> {
    let set = format!("SET search_path = \"{}\", pg_temp", options.schema);
    sqlx::raw_sql(AssertSqlSafe(set)).execute(conn).await.map(drop)
}
