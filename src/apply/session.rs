//! The lane's own connection, and the transaction on it.
//!
//! A lane owns its connection outright and nothing around a transaction is ever cancelled: sqlx
//! 0.9 leaves a cancelled `begin` open on the connection (launchbadge/sqlx#4393). Waits are
//! bounded by the server instead, and a connection in doubt is dropped, never used again. (For a
//! server that is gone without a word, see `Lane::is_silent`.)

use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tracing::info;

use crate::failpoint::{self, Guard};
use crate::observe::rate_limit::LogGate;

/// A server that keeps closing connections is news once in a while, not every time.
const NEWS: Duration = Duration::from_secs(10);

/// How to reach Postgres and how long to let it wait.
///
/// `Debug` leaves out how to connect: sqlx would show the password.
#[derive(Clone)]
pub struct SessionOptions {
    /// Address, credentials, TLS.
    pub connect: PgConnectOptions,
    /// Schema that holds the worker's tables; a plain identifier.
    pub schema: String,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// `statement_timeout` of every transaction.
    pub statement_timeout: Duration,
    /// `lock_timeout`: how long a claim waits for a zombie's open transaction.
    pub lock_timeout: Duration,
    /// `idle_in_transaction_session_timeout`: after it, Postgres ends a paused worker's
    /// transaction, so that its locks do not hold up a successor.
    pub idle_in_transaction_timeout: Duration,
    /// Whether prepared statements outlive their transaction; not behind a PgBouncer that gives
    /// each transaction another server.
    pub statement_cache: bool,
}

impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOptions")
            .field("schema", &self.schema)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("idle_in_transaction_timeout", &self.idle_in_transaction_timeout)
            .finish_non_exhaustive()
    }
}

impl SessionOptions {
    /// Opens a connection.
    ///
    /// # Errors
    /// Whatever keeps Postgres from answering, or a time-out after `connect_timeout`.
    pub async fn connect(&self) -> sqlx::Result<PgConnection> {
        // No transaction can be open on a connection that does not exist yet, so this may be
        // cancelled by a timer.
        tokio::time::timeout(self.connect_timeout, PgConnection::connect_with(&self.connect))
            .await
            .unwrap_or_else(|_| {
                let message = format!("no answer within {:?}", self.connect_timeout);
                Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, message)))
            })
    }

    /// BEGIN and its settings in one round trip. `SET LOCAL` ends with the transaction, which is
    /// what PgBouncer in transaction mode needs.
    ///
    /// sqlx names every statement it prepares, numbers them from 1 on each connection, and without
    /// a cache forgets to close them. So without a cache whatever an earlier transaction left on
    /// this server, ours or another's, goes first: it would be in the way, and pile up.
    fn begin(&self) -> String {
        // 0 is what Postgres takes for "no limit".
        let unless_off = |guard, limit: Duration| match failpoint::is_off(guard) {
            true => 0,
            false => limit.as_millis(),
        };
        let forget = if self.statement_cache { "" } else { "; DEALLOCATE ALL" };
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; \
             SET LOCAL statement_timeout = {}; \
             SET LOCAL lock_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = {}; \
             SET LOCAL search_path = \"{}\", pg_temp{forget}",
            self.statement_timeout.as_millis(),
            unless_off(Guard::LockTimeout, self.lock_timeout),
            unless_off(Guard::IdleTimeout, self.idle_in_transaction_timeout),
            self.schema,
        )
    }
}

/// A connection that is there when wanted: opened on demand, dropped on doubt.
pub struct Session {
    options: SessionOptions,
    begin: String,
    connection: Option<PgConnection>,
    lost_before: bool,
    log: LogGate,
}

impl Session {
    /// A session that has not connected yet.
    pub fn new(options: SessionOptions) -> Self {
        let begin = options.begin();
        Self { options, begin, connection: None, lost_before: false, log: LogGate::new(NEWS) }
    }

    /// Begins a transaction, connecting first when there is no connection.
    ///
    /// # Errors
    /// The connection's or BEGIN's; either way the connection is gone afterwards.
    pub async fn begin(&mut self) -> sqlx::Result<&mut PgConnection> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = self.options.connect().await?;
                if std::mem::take(&mut self.lost_before)
                    && let Some(suppressed) = self.log.pass("connected")
                {
                    info!(suppressed, "connected to postgres again");
                }
                connection
            }
        };
        if let Err(error) =
            sqlx::raw_sql(AssertSqlSafe(self.begin.as_str())).execute(&mut connection).await
        {
            self.lost_before = true;
            return Err(error);
        }
        Ok(self.connection.insert(connection))
    }

    /// The connection of the transaction that is open.
    ///
    /// # Errors
    /// When the connection was dropped meanwhile.
    pub fn current(&mut self) -> sqlx::Result<&mut PgConnection> {
        self.connection.as_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    /// Commits. When this fails without a clear answer from the server, the outcome is unknown.
    ///
    /// # Errors
    /// The server's refusal (nothing was committed), or any other error (unknown).
    pub async fn commit(&mut self) -> sqlx::Result<()> {
        sqlx::raw_sql("COMMIT").execute(self.current()?).await.map(|_| ())
    }

    /// Rolls back; when even that fails the connection is dropped, which has the same effect.
    pub async fn roll_back(&mut self) {
        if let Some(connection) = self.connection.as_mut()
            && sqlx::raw_sql("ROLLBACK").execute(connection).await.is_err()
        {
            self.discard();
        }
    }

    /// Drops the connection: the server rolls back whatever is open on it.
    pub fn discard(&mut self) {
        self.lost_before |= self.connection.is_some();
        self.connection = None;
    }
}
