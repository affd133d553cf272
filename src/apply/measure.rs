//! A door for benchmarks: parts of a batch's transaction by themselves. Nothing in the worker uses it.

use sqlx::PgConnection;

use crate::apply::batch::Batch;
use crate::apply::ledger::Fresh;
use crate::apply::users::{self, LockFirst};

/// Applies the events of a batch to `users` as if all were fresh, in the transaction open on `conn`.
///
/// # Errors
/// Postgres's own.
pub async fn project(conn: &mut PgConnection, batch: &Batch) -> sqlx::Result<()> {
    users::project(conn, batch, &Fresh::All, LockFirst::Versioned).await.map(drop)
}
