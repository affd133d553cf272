//! Faults of the database: connections cut, locks crossed, the server crashed.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::sleep;

use super::super::events::{FIRST, LAST};
use super::super::watch::LOOK_EVERY;
use super::{PATIENCE, Saboteur};
use crate::commands::scratch::ScratchDatabase;

/// Cuts of a disconnection.
const CUTS: usize = 3;
/// How long one try to make a deadlock may take.
const ONE_TRY: Duration = Duration::from_secs(10);
/// How long the workers are held up before one of them is frozen: so that all have something to
/// write, and more to come.
const BLOCKED_FOR: Duration = Duration::from_millis(700);
/// How often to look for waiting workers: well before Postgres looks for a deadlock.
const OFTEN: Duration = Duration::from_millis(10);
/// How late a deadlock may show in the statistics: a backend reports within seconds.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

impl Saboteur<'_> {
    /// Ends backends of the workers in the middle of a transaction. Only those that hold a lock on
    /// a table of the scratch schema: other workers on this server are not to be disturbed.
    pub(super) async fn disconnect(&mut self) -> anyhow::Result<String> {
        let mut conn = self.watch.connect().await?;
        let give_up = Instant::now() + PATIENCE;
        let mut ended = Vec::new();
        while ended.len() < CUTS {
            let cut = sqlx::query!(
                r#"SELECT a.pid AS "pid!", pg_terminate_backend(a.pid) AS "ended!"
                   FROM pg_stat_activity a
                   WHERE a.application_name = 'user-events-worker' AND a.pid IN (
                     SELECT l.pid FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                     WHERE c.relnamespace = to_regnamespace($1::text)
                       AND l.database =
                           (SELECT oid FROM pg_database WHERE datname = current_database()))"#,
                self.database.schema()
            );
            let cut = cut.fetch_all(&mut conn).await.context(
                "ending the workers' connections (their role, or pg_signal_backend, may do it)",
            )?;
            ended.extend(cut.iter().filter(|row| row.ended).map(|row| row.pid.to_string()));
            ensure!(Instant::now() < give_up, "no worker was seen within a transaction");
            // Until others are in the middle of something.
            sleep(LOOK_EVERY).await;
        }
        Ok(format!("pg_terminate_backend answered true for backends {}", ended.join(", ")))
    }

    /// Locks users in the reverse order of the workers' until Postgres counts a deadlock.
    pub(super) async fn deadlock(&mut self) -> anyhow::Result<String> {
        let mut observer = self.watch.connect().await?;
        let before = deadlocks(&mut observer).await?;
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            let Some(worker) = self.cross_locks(&mut observer).await? else { continue };
            let counted_by = Instant::now() + COUNTED_WITHIN;
            while Instant::now() < counted_by {
                let after = deadlocks(&mut observer).await?;
                if after > before {
                    return Ok(format!(
                        "backend {worker} of a worker and a session of ours waited for each other; \
                         deadlocks in pg_stat_database {before} -> {after}"
                    ));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        bail!("Postgres has counted no deadlock within {PATIENCE:?}")
    }

    /// One try: locks the last users, waits for a worker that waits for them, and asks for the
    /// first, which that worker has probably locked. Answers the worker's backend.
    async fn cross_locks(&self, observer: &mut PgConnection) -> anyhow::Result<Option<i32>> {
        let (mut locker, own) = self.lock_last().await?;
        let give_up = Instant::now() + ONE_TRY;
        let waiting = loop {
            if let Some(pid) = waiting_for(observer, own).await?.first() {
                break *pid;
            }
            if Instant::now() >= give_up {
                return Ok(None);
            }
            sleep(OFTEN).await;
        };
        // An error here is the deadlock, with us as its victim; or a lock that came too late. The
        // statistics tell which.
        lock(&mut locker, FIRST).await.ok();
        sqlx::raw_sql("ROLLBACK").execute(&mut locker).await.ok();
        Ok(Some(waiting))
    }

    /// Locks users whom every batch has, until about every lane waits for them; answers the
    /// connection that holds the locks, and how many batches wait.
    pub(super) async fn block_writers(&self) -> anyhow::Result<(PgConnection, usize)> {
        let mut observer = self.watch.connect().await?;
        let (locker, own) = self.lock_last().await?;
        let began = Instant::now();
        loop {
            let waiting = waiting_for(&mut observer, own).await?.len();
            if began.elapsed() >= BLOCKED_FOR {
                ensure!(waiting > 0, "no worker had anything to write");
                return Ok((locker, waiting));
            }
            sleep(OFTEN).await;
        }
    }

    /// A connection that has locked the last users, and its backend. Dropped, it lets go of them.
    async fn lock_last(&self) -> anyhow::Result<(PgConnection, i32)> {
        let mut locker = self.watch.connect().await?;
        sqlx::raw_sql("BEGIN; SET LOCAL lock_timeout = '30s'").execute(&mut locker).await?;
        let own = sqlx::query_scalar!(r#"SELECT pg_backend_pid() AS "pid!""#);
        let own = own.fetch_one(&mut locker).await?;
        lock(&mut locker, LAST).await.context("locking some users")?;
        Ok((locker, own))
    }

    pub(super) async fn crash_database(&mut self) -> anyhow::Result<String> {
        let before = started_at(&mut self.watch.connect().await?).await?;
        let ScratchDatabase::Throwaway(postgres) = &mut *self.database else {
            bail!("this Postgres is not ours to crash");
        };
        postgres.crash_and_restart().await?;
        let after = started_at(&mut self.watch.connect().await?).await?;
        ensure!(after > before, "Postgres did not start again");
        Ok(format!("pg_postmaster_start_time {before} -> {after}"))
    }
}

/// The workers' backends that wait for this one.
async fn waiting_for(conn: &mut PgConnection, backend: i32) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar!(
        r#"SELECT pid AS "pid!" FROM pg_stat_activity
           WHERE application_name = 'user-events-worker' AND $1 = ANY (pg_blocking_pids(pid))"#,
        backend
    )
    .fetch_all(conn)
    .await
}

async fn lock(conn: &mut PgConnection, prefix: &str) -> sqlx::Result<usize> {
    let users = sqlx::query_scalar!(
        "SELECT user_id FROM users WHERE starts_with(user_id, $1) ORDER BY user_id FOR UPDATE",
        prefix
    );
    users.fetch_all(conn).await.map(|users| users.len())
}

async fn deadlocks(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT deadlocks AS "deadlocks!" FROM pg_stat_database
           WHERE datname = current_database()"#
    )
    .fetch_one(conn)
    .await
}

async fn started_at(conn: &mut PgConnection) -> sqlx::Result<OffsetDateTime> {
    sqlx::query_scalar!(r#"SELECT pg_postmaster_start_time() AS "started!""#).fetch_one(conn).await
}
