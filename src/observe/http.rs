//! `/livez`, `/readyz`, `/metrics` and `/status`.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tower_http::timeout::TimeoutLayer;
use tracing::info;

use super::board::{Health, Lifecycle, PartitionState, PartitionView, StatusBoard};
use super::gauges;

/// No answer here takes longer: everything is in memory.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often the recorder tidies up, scraped or not: histograms keep every value until then.
const UPKEEP: Duration = Duration::from_secs(1);
/// The media type of Prometheus' text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const INDEX: &str = "user-events-worker\n\n\
    /livez    the loops turn, and what waits is applied\n\
    /readyz   everything assigned is claimed, and Postgres answers\n\
    /metrics  for Prometheus\n\
    /status   every partition, as JSON\n";

/// What the routes show.
#[derive(Clone)]
pub struct HttpState {
    /// Health, status and gauges.
    pub board: StatusBoard,
    /// Counters and histograms.
    pub metrics: PrometheusHandle,
    /// Silence after which a loop fails `/livez`.
    pub loop_stall: Duration,
}

/// The routes.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, TIMEOUT))
        .with_state(state)
}

/// Serves the routes until `shutdown` resolves, and lets the metrics recorder tidy up meanwhile.
pub async fn serve(
    listener: TcpListener,
    state: HttpState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    info!(addr = %listener.local_addr()?, "http listening");
    let upkeep = upkeep(state.metrics.clone());
    let server = axum::serve(listener, router(state)).with_graceful_shutdown(shutdown);
    tokio::select! {
        served = server.into_future() => served,
        never = upkeep => match never {},
    }
}

async fn upkeep(metrics: PrometheusHandle) -> Infallible {
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}

async fn livez(State(state): State<HttpState>) -> Response {
    verdict(state.board.liveness(state.loop_stall))
}

async fn readyz(State(state): State<HttpState>) -> Response {
    verdict(state.board.readiness())
}

async fn metrics(State(state): State<HttpState>) -> Response {
    let page = state.metrics.render() + &gauges::render(&state.board);
    ([(header::CONTENT_TYPE, METRICS_TEXT)], page).into_response()
}

async fn status(State(state): State<HttpState>) -> Json<Status> {
    Json(Status::of(&state.board))
}

/// The body of `/status`, for whoever wants it without asking over HTTP.
pub fn status_json(board: &StatusBoard) -> serde_json::Value {
    // Texts and numbers only: there is nothing that could fail.
    serde_json::to_value(Status::of(board)).unwrap_or_default()
}

/// 200 `ok`, or 503 with a reason per line.
fn verdict(verdict: Result<(), Vec<String>>) -> Response {
    match verdict {
        Ok(()) => "ok\n".into_response(),
        Err(reasons) => {
            (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
        }
    }
}

/// The body of `/status`. Its names are a contract with whoever reads it.
#[derive(Serialize)]
struct Status {
    version: &'static str,
    group: String,
    worker_id: String,
    lifecycle: Lifecycle,
    uptime_seconds: u64,
    kafka: HealthStatus,
    /// One per lane.
    postgres: Vec<HealthStatus>,
    partitions: Vec<PartitionRow>,
}

#[derive(Serialize)]
struct HealthStatus {
    up: bool,
    /// Why not.
    reason: Option<String>,
}

#[derive(Serialize)]
struct PartitionRow {
    topic: String,
    partition: i32,
    state: PartitionState,
    epoch: Option<i64>,
    applied: Option<i64>,
    end: Option<i64>,
    lag_records: Option<i64>,
    lag_seconds: Option<f64>,
    withheld_records: Option<i64>,
    withheld_seconds: Option<f64>,
    last_error: Option<String>,
    standing_seconds: u64,
}

impl Status {
    fn of(board: &StatusBoard) -> Self {
        let (kafka, lanes) = board.health();
        let identity = board.identity();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            group: identity.group.clone(),
            worker_id: identity.worker_id.clone(),
            lifecycle: board.current_lifecycle(),
            uptime_seconds: board.uptime().as_secs(),
            kafka: kafka.into(),
            postgres: lanes.into_iter().map(HealthStatus::from).collect(),
            partitions: board.partitions().into_iter().map(PartitionRow::from).collect(),
        }
    }
}

impl From<Health> for HealthStatus {
    fn from(health: Health) -> Self {
        match health {
            Health::Up => Self { up: true, reason: None },
            Health::Down { reason } => Self { up: false, reason: Some(reason) },
        }
    }
}

impl From<PartitionView> for PartitionRow {
    fn from(view: PartitionView) -> Self {
        Self {
            topic: view.source.topic.to_string(),
            partition: view.source.partition,
            state: view.status.state,
            epoch: view.status.epoch.map(|epoch| epoch.0),
            applied: view.status.applied.map(|offset| offset.0),
            end: view.status.end.map(|offset| offset.0),
            lag_records: view.lag_records,
            lag_seconds: view.lag_seconds,
            withheld_records: view.withheld_records,
            withheld_seconds: view.withheld_seconds,
            last_error: view.status.last_error,
            standing_seconds: view.status.standing.as_secs(),
        }
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
