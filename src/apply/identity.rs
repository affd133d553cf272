//! Whose schema this is: one schema serves one consumer group on one Kafka cluster.

use sqlx::PgConnection;

use crate::apply::session::{Session, SessionOptions};

/// The group and cluster a schema belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Consumer group.
    pub group: String,
    /// Kafka's cluster id.
    pub cluster: String,
}

/// Two owners for one schema.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "schema belongs to consumer group {theirs_group:?} on Kafka cluster {theirs_cluster:?}, but this worker is \
     {ours_group:?} on {ours_cluster:?}; give it a schema of its own (postgres.schema) or mend kafka.group_id / \
     kafka.bootstrap_servers",
    theirs_group = .theirs.group, theirs_cluster = .theirs.cluster,
    ours_group = .ours.group, ours_cluster = .ours.cluster
)]
pub struct Mismatch {
    /// Who we are.
    pub ours: Identity,
    /// Whom the schema belongs to.
    pub theirs: Identity,
}

/// Reads whose schema this is; `None` when no worker has started on it yet.
///
/// # Errors
/// Postgres's own.
pub async fn read(conn: &mut PgConnection) -> sqlx::Result<Option<Identity>> {
    let row = sqlx::query!("SELECT consumer_group, cluster_id FROM worker_identity")
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|row| Identity { group: row.consumer_group, cluster: row.cluster_id }))
}

/// Takes the schema for `ours` if nobody has, and compares.
///
/// # Errors
/// The outer error is Postgres's own; the inner one a clear refusal.
pub async fn settle(
    options: &SessionOptions,
    ours: &Identity,
) -> sqlx::Result<Result<(), Mismatch>> {
    let mut session = Session::new(options.clone());
    let settled = take(session.begin().await?, ours).await?;
    session.commit().await?;
    Ok(settled)
}

/// The same, in the transaction that is open on `conn`.
///
/// # Errors
/// The outer error is Postgres's own; the inner one a clear refusal.
pub async fn take(conn: &mut PgConnection, ours: &Identity) -> sqlx::Result<Result<(), Mismatch>> {
    sqlx::query!(
        "INSERT INTO worker_identity (consumer_group, cluster_id) VALUES ($1, $2)
         ON CONFLICT DO NOTHING",
        ours.group,
        ours.cluster
    )
    .execute(&mut *conn)
    .await?;
    Ok(match read(conn).await? {
        Some(theirs) if theirs != *ours => Err(Mismatch { ours: ours.clone(), theirs }),
        _ => Ok(()),
    })
}
