//! Whatever breaks and is mended: nothing is lost, nothing doubled, and the lag returns to zero
//! without a human, except where only a human can know what is right.

mod kafka_away;
mod load;
mod log_changes;
mod postgres_away;
mod privileges;
mod start_from;
mod transactions;

use serde_json::Value;

use crate::support::{Scene, Worker, eventually};

/// The brokers all tests share.
pub(crate) fn shared_brokers() -> String {
    std::env::var("KAFKA_BOOTSTRAP_SERVERS").expect("KAFKA_BOOTSTRAP_SERVERS is set")
}

/// The Postgres all tests share.
fn shared_postgres() -> String {
    std::env::var("DATABASE_URL").expect("DATABASE_URL is set")
}

/// `postgres://user@host/database`, with parts replaced.
pub(crate) fn url_with(url: &str, user: Option<&str>, database: Option<&str>) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (login, place) = rest.split_once('@').unwrap_or(("", rest));
    let (host, name) = place.split_once('/').unwrap_or((place, "postgres"));
    let (login, name) = (user.unwrap_or(login), database.unwrap_or(name));
    format!("{scheme}://{login}@{host}/{name}")
}

/// Waits until `/readyz` says no; answers its reasons.
pub(crate) async fn unready(worker: &Worker) -> String {
    eventually("readiness drops", async || {
        let (code, reasons) = worker.get("/readyz").await;
        (code == 503).then_some(reasons)
    })
    .await
}

/// Waits until `/readyz` says yes.
pub(crate) async fn ready(worker: &Worker) {
    eventually("readiness comes back", async || {
        (worker.get("/readyz").await.0 == 200).then_some(())
    })
    .await;
}

/// One partition's row of `/status`.
pub(crate) async fn row(worker: &Worker, topic: &str, partition: i32) -> Option<Value> {
    let status = worker.status().await;
    let rows = status["partitions"].as_array()?;
    rows.iter().find(|row| row["topic"] == topic && row["partition"] == partition).cloned()
}

/// Waits until a partition is halted; answers the reason shown to operators, after checking that
/// it is shouted everywhere it should be.
pub(crate) async fn halted(worker: &Worker, scene: &Scene, partition: i32) -> String {
    let reason = eventually("the partition is halted", async || {
        let row = row(worker, &scene.topic, partition).await?;
        (row["state"] == "halted").then(|| row["last_error"].as_str().unwrap_or("").to_owned())
    })
    .await;
    assert!(worker.metric("user_events_partitions_halted", "").await >= 1.0);
    let source = format!("{}[{partition}]", scene.topic);
    let told = worker.log().lines().any(|line| {
        line.contains("ERROR") && line.contains("partition halted") && line.contains(&source)
    });
    assert!(told, "an error in the log names the partition");
    reason
}

/// Waits until every partition's lag is known and zero, as the worker itself reports it.
pub(crate) async fn no_lag(worker: &Worker, partitions: usize) {
    eventually("the worker reports no lag", async || {
        let status = worker.status().await;
        let rows = status["partitions"].as_array()?;
        let none = rows.len() == partitions && rows.iter().all(|row| row["lag_records"] == 0);
        none.then_some(())
    })
    .await;
}
