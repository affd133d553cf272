//! What errors mean: real ones, of a real Postgres, judged as the worker judges them, and seen
//! through the worker.

mod bisection;
mod held;
mod judged;
mod server;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection};
use user_events_worker::apply::verdict::{self, Verdict};

/// Runs statements one after the other; the error of the one that fails.
async fn run(conn: &mut PgConnection, sql: &str) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(conn).await
}

/// The error is this SQLSTATE, and means this.
fn assert_judged(what: &str, error: &sqlx::Error, sqlstate: &str, verdict: Verdict) {
    assert_eq!(verdict::sqlstate(error).as_deref(), Some(sqlstate), "{what}: {error}");
    assert_eq!(verdict::judge(error), verdict, "{what}: {error}");
}
