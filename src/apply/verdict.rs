//! What an error means, in one table.
//!
//! The rule behind the table: an error says something about the *database* (wait), about
//! *concurrency* (try again), about *the data* (find the guilty record), or about *us* (hold, and
//! say so). Only the third kind may ever turn a record into a dead letter.

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The database is away, full or ill: wait with exponential backoff, then the same batch again.
    Outage,
    /// The database answers, but not to us (role, grants, schema, read-only): wait longer between
    /// tries and say what to mend.
    Misconfigured,
    /// A deadlock, a serialization failure, a lock timeout: the same batch at once, with jitter.
    Retry,
    /// The session is spoilt or the outcome of COMMIT unknown: a new connection, and the claim
    /// renewed before anything is written.
    Reconnect,
    /// The statement took too long or too much memory: a smaller batch, after a few tries.
    Smaller,
    /// A record Postgres will not take: bisect, and dead-letter exactly that one.
    Data,
    /// A ledger month does not exist: create it, then the same batch again.
    MissingMonth,
    /// Nothing that should happen: hold the batch, skip nothing, say so.
    Bug,
}

impl Verdict {
    /// The `kind` label of `apply_errors_total`.
    pub fn kind(self) -> &'static str {
        match self {
            Verdict::Outage => "outage",
            Verdict::Misconfigured => "misconfigured",
            Verdict::Retry => "retry",
            Verdict::Reconnect => "reconnect",
            Verdict::Smaller => "smaller",
            Verdict::Data => "data",
            Verdict::MissingMonth => "missing_month",
            Verdict::Bug => "bug",
        }
    }

    /// Every label value, so that the metric exists before the first error.
    pub const KINDS: [&'static str; 8] = [
        "outage",
        "misconfigured",
        "retry",
        "reconnect",
        "smaller",
        "data",
        "missing_month",
        "bug",
    ];
}

/// Judges an error from sqlx.
pub fn judge(error: &sqlx::Error) -> Verdict {
    match error {
        sqlx::Error::Database(error) => judge_database(error.as_ref()),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut => Verdict::Outage,
        // The server said something we could not follow: the session cannot be trusted.
        sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Verdict::Reconnect,
        _ => Verdict::Bug,
    }
}

fn judge_database(error: &dyn DatabaseError) -> Verdict {
    let code = error.code().unwrap_or_default();
    let details = error.try_downcast_ref::<PgDatabaseError>();
    // A missing partition and a violated CHECK share SQLSTATE 23514; only the latter names a
    // constraint.
    if code == "23514" && details.and_then(PgDatabaseError::constraint).is_none() {
        return Verdict::MissingMonth;
    }
    judge_sqlstate(&code)
}

/// The table. Codes: PostgreSQL documentation, appendix A.
pub fn judge_sqlstate(code: &str) -> Verdict {
    match code {
        "40001" | "40P01" | "55P03" => Verdict::Retry,
        // The server ended our idle transaction or lost track of it; a cached plan no longer fits.
        "25P03" | "40003" | "26000" | "0A000" => Verdict::Reconnect,
        // The third is a transaction_timeout that an operator set.
        "57014" | "53200" | "25P04" => Verdict::Smaller,
        // Read-only; a database that takes no connections.
        "25006" | "55000" => Verdict::Misconfigured,
        "23514" => Verdict::Data,
        _ => match code.get(..2) {
            // 58: the server's own files or disk.
            Some("08" | "53" | "58") => Verdict::Outage,
            Some("57") if code.starts_with("57P") => Verdict::Outage,
            Some("28" | "42" | "3D" | "3F") => Verdict::Misconfigured,
            Some("22" | "54") => Verdict::Data,
            _ => Verdict::Bug,
        },
    }
}

/// What an operator is to do about an error that only a human can end.
pub fn advice(error: &sqlx::Error) -> &'static str {
    if judge(error) != Verdict::Misconfigured {
        return "nothing is skipped: please report this with the error";
    }
    let code = sqlstate(error).unwrap_or_default();
    match (code.as_str(), code.get(..2)) {
        ("42P01", _) => {
            "run `user-events-worker migrate`, or restore the table; if it is there, the role lacks USAGE on the schema"
        }
        ("42501", _) => "mend the role's grants (deploy/postgres/roles.sql has all of them)",
        ("25006", _) => {
            "the server is read-only: point postgres.url at the primary, or lift default_transaction_read_only"
        }
        ("3D000" | "55000", _) => {
            "mend the database named in postgres.url: it is missing or takes no connections"
        }
        (_, Some("28")) => "mend the role, its password or the server's pg_hba.conf",
        _ => {
            "the schema is not what this version needs: run `user-events-worker migrate`, or restore what is named"
        }
    }
}

/// Whether two transactions waited for each other, and ours gave way.
pub fn is_deadlock(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("40P01")
}

/// SQLSTATE of an error, when the server gave one.
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|e| e.code()).map(|code| code.into_owned())
}

/// True when the server answered and the answer means that nothing was committed.
///
/// Anything else that goes wrong while COMMIT is under way leaves its outcome unknown.
pub fn surely_not_committed(error: &sqlx::Error) -> bool {
    match error.as_database_error().and_then(|e| e.code()) {
        Some(code) => {
            !(code.starts_with("08")
                || code.starts_with("57P")
                || code == "40003"
                || code == "XX000")
        }
        None => false,
    }
}

/// What an error may say in logs, on `/status` and in a dead letter's detail: nothing of the row.
///
/// The server's DETAIL shows the row and is left out. Its message does not, but for data exceptions
/// (class 22), which quote the value, and what functions raise (class P0), which may be anything.
pub fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            let message = match code.get(..2) {
                Some("22") => without_quoted(error.message()),
                Some("P0") => "raised by a function in the database".to_owned(),
                _ => error.message().to_owned(),
            };
            format!("{message} (SQLSTATE {code})")
        }
        other => other.to_string(),
    }
}

/// Leaves out everything from the first quote to the last: a value may itself hold quotes.
fn without_quoted(message: &str) -> String {
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) => {
            format!("{}[value]{}", &message[..first], &message[last + 1..])
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlstate_of_the_table_has_its_verdict() {
        use Verdict::*;
        for (code, verdict) in [
            ("08006", Outage),
            ("08003", Outage),
            ("53100", Outage),
            ("53300", Outage),
            ("57P01", Outage),
            ("57P02", Outage),
            ("57P03", Outage),
            ("58030", Outage),
            ("58P01", Outage),
            ("28P01", Misconfigured),
            ("28000", Misconfigured),
            ("3D000", Misconfigured),
            ("3F000", Misconfigured),
            ("25006", Misconfigured),
            ("55000", Misconfigured),
            ("42501", Misconfigured),
            ("42P01", Misconfigured),
            ("42703", Misconfigured),
            ("40001", Retry),
            ("40P01", Retry),
            ("55P03", Retry),
            ("25P03", Reconnect),
            ("40003", Reconnect),
            ("26000", Reconnect),
            ("0A000", Reconnect),
            ("57014", Smaller),
            ("53200", Smaller),
            ("25P04", Smaller),
            ("22P02", Data),
            ("22003", Data),
            ("22021", Data),
            ("22P05", Data),
            ("54001", Data),
            ("23514", Data),
            ("21000", Bug),
            ("25P02", Bug),
            ("23505", Bug),
            ("23502", Bug),
            ("XX000", Bug),
            ("", Bug),
        ] {
            assert_eq!(judge_sqlstate(code), verdict, "SQLSTATE {code:?}");
        }
    }

    #[test]
    fn values_quoted_in_a_message_are_left_out() {
        for (message, shown) in [
            (
                "invalid input syntax for type integer: \"a \"b\"\"",
                "invalid input syntax for type integer: [value]",
            ),
            (
                "value \"99\" is out of range for type integer",
                "value [value] is out of range for type integer",
            ),
            ("numeric field overflow", "numeric field overflow"),
        ] {
            assert_eq!(without_quoted(message), shown);
        }
    }

    #[test]
    fn a_broken_connection_is_an_outage() {
        let error = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert_eq!(judge(&error), Verdict::Outage);
        assert!(!surely_not_committed(&error), "a lost answer proves nothing about COMMIT");
    }
}
