//! Locks that a test holds in Postgres, to stop a worker at an exact place.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Scene, eventually};

/// A transaction of the test's, holding locks until released or dropped.
pub struct Held {
    conn: PgConnection,
    pid: i32,
}

impl Scene {
    /// Runs a statement in a transaction and keeps that open.
    pub async fn hold(&self, sql: &str) -> Held {
        let mut conn = self.db().await;
        sqlx::raw_sql("BEGIN").execute(&mut conn).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await.unwrap();
        Held { conn, pid }
    }
}

impl Held {
    /// Waits until somebody waits for these locks; answers the process ids of their sessions.
    pub async fn blocks_somebody(&mut self) -> Vec<i32> {
        eventually("somebody waits for the lock", async || {
            let waiting = blocked_by(&mut self.conn, self.pid).await;
            (!waiting.is_empty()).then_some(waiting)
        })
        .await
    }

    /// Lets go, and what was written stays.
    pub async fn commit(mut self) {
        sqlx::raw_sql("COMMIT").execute(&mut self.conn).await.unwrap();
    }

    /// Lets go, as if nothing had been done.
    pub async fn release(mut self) {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.conn).await.unwrap();
    }
}

/// The sessions that wait for a lock of this one. (Not by `pg_stat_activity`: within a transaction,
/// which is where [`Held`] asks, that shows the same moment again and again.)
pub async fn blocked_by(conn: &mut PgConnection, pid: i32) -> Vec<i32> {
    sqlx::query_scalar(
        "SELECT DISTINCT pid FROM pg_locks
         WHERE NOT granted AND $1 = ANY(pg_blocking_pids(pid))",
    )
    .bind(pid)
    .fetch_all(conn)
    .await
    .unwrap()
}
