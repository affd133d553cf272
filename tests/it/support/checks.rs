//! What the contract's tests ask of a scene, by SQL, and the times they speak of.

use time::{Duration, OffsetDateTime};

use super::{Scene, Worker, eventually};

/// So long before now, as `timestamptz` holds it.
pub fn ago(span: Duration) -> OffsetDateTime {
    let at = OffsetDateTime::now_utc() - span;
    at.replace_nanosecond(at.nanosecond() / 1000 * 1000).unwrap()
}

impl Scene {
    /// Creates the schema, for a test that changes it before the worker comes.
    pub async fn migrate(&self) {
        let (code, _, log) = self.worker().command(&["migrate"]).output().await;
        assert_eq!(code, Some(0), "{log}");
    }

    /// A number by SQL.
    pub async fn count(&self, sql: &str) -> i64 {
        self.fetch_one::<(i64,)>(sql).await.0
    }

    /// Every column of every row of `users` and `user_events`, in short: equal before and after
    /// means that nothing was written.
    pub async fn fingerprint(&self) -> (String, String) {
        self.fetch_one(
            "SELECT (SELECT coalesce(md5(string_agg(u::text, '|' ORDER BY user_id)), '') FROM users u),
                    (SELECT coalesce(md5(string_agg(e::text, '|' ORDER BY event_id, occurred_at)), '')
                     FROM user_events e)",
        )
        .await
    }

    /// Waits until so many connections wait for a row of a table.
    pub async fn waiting_for(&self, table: &str, connections: i64) {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
               AND query LIKE '%{table}%' AND pid IN
                 (SELECT pid FROM pg_locks WHERE relation = '\"{}\".{table}'::regclass)",
            self.schema
        );
        eventually(&format!("{connections} connections wait for {table}"), async || {
            (self.count(&sql).await >= connections).then_some(())
        })
        .await;
    }

    /// Rewinds every partition by SQL, as somebody without the `offsets` command would.
    pub async fn rewind(&self) {
        self.execute("UPDATE source_offsets SET epoch = epoch + 1, next_offset = 0").await;
    }
}

impl Worker {
    /// Waits until it has counted exactly so many records under an outcome: counters move after
    /// the commit that `caught_up` sees.
    pub async fn counted(&self, outcome: &str, records: usize) {
        let labels = format!("outcome=\"{outcome}\"");
        eventually(&format!("{records} records are counted as {outcome}"), async || {
            let found = self.metric("user_events_outcomes_total", &labels).await;
            (found == records as f64).then_some(())
        })
        .await;
    }
}
