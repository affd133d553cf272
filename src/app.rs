//! All wiring of `run`: who starts, who stops, in which order.
//!
//! Start: HTTP (so that probes are answered at once), then Postgres (migrations, and how far away it
//! is), then Kafka (its cluster id), then whose schema it is, then lanes, then polling. Stop:
//! readiness drops, polling stops reading, lanes finish, offsets are mirrored, the group is left,
//! HTTP ends last.

mod lanes;
mod prepare;

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use time::{Date, OffsetDateTime};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, info, warn};

use crate::apply::{Caps, SessionOptions, Writer, WriterOptions};
use crate::batch::{self, BreakerLimits, Lane, LaneHandle, LaneOptions, Limits, RetryOptions};
use crate::config::{Config, PostgresConfig};
use crate::consume::{Client, PollOptions, PollThread, Stopped};
use crate::event::Rules;
use crate::observe::board::{self, Lifecycle, StatusBoard};
use crate::observe::http::{self, HttpState};
use crate::observe::metrics::{self, PipelineMetrics};
use crate::observe::rate_limit::LogGate;

/// Records between the poll thread and a lane: enough to keep a lane busy over a poll's wait.
const QUEUE_RECORDS: usize = 2048;
/// How often months are prepared ahead of time.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);

/// A worker at work.
pub struct RunningWorker {
    /// Where health, status and metrics are served.
    pub http_addr: SocketAddr,
    drain: watch::Sender<bool>,
    work: JoinHandle<anyhow::Result<()>>,
}

impl RunningWorker {
    /// Asks the worker to stop reading, finish and leave.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Waits until the worker has ended.
    ///
    /// # Errors
    /// What ended it, unless it was asked to.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        (&mut self.work).await.context("the worker's main task died")?
    }

    /// Drains and waits.
    ///
    /// # Errors
    /// When it did not end in order within its grace.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.drain();
        self.ended().await
    }
}

/// Starts a worker. It is not ready yet: `/readyz` tells when it is.
///
/// # Errors
/// When the HTTP address is taken or the configuration cannot be used; never because Kafka or
/// Postgres is away, for which it waits.
pub async fn start(config: Config) -> anyhow::Result<RunningWorker> {
    let worker = worker_id();
    info!(%worker, config = %config.redacted_dump(), "starting");
    let prometheus = metrics::install().context("installing the metrics recorder")?;
    let identity =
        board::Identity { group: config.kafka.group_id.clone(), worker_id: worker.clone() };
    let board = StatusBoard::new(identity);
    let listener = TcpListener::bind(config.http.listen)
        .await
        .with_context(|| format!("listening on http.listen = {}", config.http.listen))?;
    let http_addr = listener.local_addr()?;
    let state = HttpState {
        board: board.clone(),
        metrics: prometheus,
        loop_stall: config.watch.loop_stall,
    };
    let (http_end, mut http_ended) = watch::channel(());
    let server = tokio::spawn(http::serve(listener, state, async move {
        // An error means the sender is gone, which is an end, too.
        drop(http_ended.changed().await);
    }));
    let (drain, drained) = watch::channel(false);
    let session = session_options(&config.postgres)?;
    let log = LogGate::new(Duration::from_secs(10));
    let job = Work { config, worker, session, board, drain: drained, log };
    let work = tokio::spawn(async move {
        let result = job.run().await;
        drop(http_end);
        match server.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "http server ended with an error"),
            Err(error) => warn!(%error, "http server died"),
        }
        result
    });
    Ok(RunningWorker { http_addr, drain, work })
}

/// How to reach Postgres, from the configuration.
///
/// # Errors
/// When the URL cannot be parsed.
pub fn session_options(config: &PostgresConfig) -> anyhow::Result<SessionOptions> {
    let mut connect = PgConnectOptions::from_str(config.url.expose())
        .context("postgres.url cannot be parsed")?
        .application_name("user-events-worker")
        // A start-up parameter that PgBouncer would refuse; the worker reads no floats.
        .extra_float_digits(None)
        .disable_statement_logging();
    if !config.statement_cache {
        connect = connect.statement_cache_capacity(0);
    }
    Ok(SessionOptions {
        connect,
        schema: config.schema.clone(),
        connect_timeout: config.connect_timeout,
        statement_timeout: config.statement_timeout,
        lock_timeout: config.lock_timeout,
        idle_in_transaction_timeout: config.idle_in_transaction_timeout,
        statement_cache: config.statement_cache,
    })
}

/// A name for this process that no other has: it stands in `claimed_by`.
fn worker_id() -> String {
    let host = hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{host}-{}-{:08x}", std::process::id(), rand::random::<u32>())
}

/// All that the worker's main task needs.
struct Work {
    config: Config,
    worker: String,
    session: SessionOptions,
    board: StatusBoard,
    drain: watch::Receiver<bool>,
    log: LogGate,
}

impl Work {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut drain = self.drain.clone();
        let (client, lanes) = tokio::select! {
            prepared = self.prepare() => prepared?,
            // Nothing was claimed yet and the connections used so far are dropped, not kept.
            _ = drain.wait_for(|drain| *drain) => {
                self.board.lifecycle(Lifecycle::Stopping);
                info!("asked to stop before work began");
                return Ok(());
            }
        };
        let housekeeping = self.spawn_housekeeping();
        let result = self.work(client, lanes).await;
        housekeeping.abort();
        result
    }

    async fn work(&mut self, client: Client, lanes: usize) -> anyhow::Result<()> {
        let metrics = Arc::new(PipelineMetrics::new());
        let (notices_tx, notices) = channel();
        let mut running = JoinSet::new();
        let mut handles: Vec<LaneHandle> = Vec::new();
        let queue_bytes = self.max_batch_bytes() / 4;
        for index in 0..lanes {
            let (handle, inbox) = batch::connect(QUEUE_RECORDS, queue_bytes);
            let lane = Lane::new(
                self.lane_options(index),
                inbox,
                notices_tx.clone(),
                self.board.clone(),
                metrics.clone(),
            );
            running.spawn(lane.run());
            handles.push(handle);
        }
        let mut poll = PollThread::start(
            self.poll_options(),
            client,
            handles,
            notices,
            self.board.clone(),
            metrics,
        )?;
        info!(topics = ?self.config.kafka.topics, group = self.config.kafka.group_id, "running");
        let mut drain = self.drain.clone();
        let lane_ended = tokio::select! {
            _ = drain.wait_for(|drain| *drain) => None,
            stopped = poll.stopped() => return ended(stopped),
            lane = running.join_next() => Some(lane),
        };
        match lane_ended {
            None => {}
            // A dying polling thread lets go of its lanes first, closes its consumer, and only
            // then says why it ended.
            Some(Some(Ok(()))) => return ended(poll.stopped().await),
            // But for that a lane ends only when told to; anything else is a panic.
            Some(lane) => {
                error!(?lane, "a lane died, stopping");
                self.board.lifecycle(Lifecycle::Stopping);
                bail!("a lane died: its panic message is in the log");
            }
        }
        self.board.lifecycle(Lifecycle::Stopping);
        info!("stopping: finishing the batches begun");
        poll.drain();
        match tokio::time::timeout(self.config.shutdown.grace, poll.stopped()).await {
            Ok(stopped) => ended(stopped),
            Err(_) => bail!(
                "not finished within shutdown.grace = {:?}; what was not applied will be read again",
                self.config.shutdown.grace
            ),
        }
    }

    /// Creates ledger months ahead of time, now and then.
    fn spawn_housekeeping(&self) -> JoinHandle<()> {
        let options = self.writer_options();
        let ahead = self.config.ledger.months_ahead;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(HOUSEKEEPING).await;
                let months = months_from(OffsetDateTime::now_utc(), ahead);
                // A connection for the moment only. The batch that needs a month creates it, too.
                if let Err(error) = Writer::new(options.clone()).prepare_months(&months).await {
                    warn!(%error, "could not prepare ledger months ahead of time");
                }
            }
        })
    }

    fn max_batch_bytes(&self) -> usize {
        bytes(self.config.batch.max_bytes.as_u64())
    }

    fn retry_options(&self) -> RetryOptions {
        RetryOptions { initial: self.config.retry.initial, max: self.config.retry.max }
    }

    fn caps(&self) -> Caps {
        let caps = &self.config.dead_letters;
        Caps {
            key: bytes(caps.max_key_bytes.as_u64()),
            value: bytes(caps.max_value_bytes.as_u64()),
            headers: bytes(caps.max_header_bytes.as_u64()),
        }
    }

    fn writer_options(&self) -> WriterOptions {
        WriterOptions {
            session: self.session.clone(),
            group: self.config.kafka.group_id.clone(),
            worker: self.worker.clone(),
            caps: self.caps(),
        }
    }

    fn lane_options(&self, index: usize) -> LaneOptions {
        let events = &self.config.events;
        LaneOptions {
            index,
            group: self.config.kafka.group_id.clone(),
            limits: Limits {
                max_events: self.config.batch.max_events,
                max_bytes: self.max_batch_bytes(),
                linger: self.config.batch.linger,
            },
            rules: Rules {
                max_record_bytes: bytes(events.max_record_bytes.as_u64()),
                max_future: events.max_future,
                retention: self.config.ledger.retention,
                tombstones: events.tombstones,
            },
            caps: self.caps(),
            breaker: BreakerLimits {
                consecutive: self.config.dead_letters.breaker_consecutive,
                window: self.config.dead_letters.breaker_window,
                ratio: self.config.dead_letters.breaker_ratio,
            },
            retry: self.retry_options(),
            writer: self.writer_options(),
        }
    }

    fn poll_options(&self) -> PollOptions {
        let kafka = &self.config.kafka;
        PollOptions {
            topics: kafka.topics.clone(),
            start_from: kafka.start_from,
            claim_patience: kafka.claim_patience,
            session_timeout: kafka.session_timeout,
            commit_interval: kafka.commit_interval,
            lag_interval: kafka.lag_interval,
            progress: self.config.watch.progress,
        }
    }
}

fn ended(stopped: Option<Stopped>) -> anyhow::Result<()> {
    match stopped {
        Some(Stopped::Drained) => Ok(()),
        Some(Stopped::Fatal(error)) => {
            Err(error).context("kafka will not have this member any more")
        }
        None => bail!("the polling thread died: its panic message is in the log"),
    }
}

/// The month of `now` and the `ahead` after it, each by its first day.
fn months_from(now: OffsetDateTime, ahead: u32) -> Vec<Date> {
    let mut months = vec![now.date().replace_day(1).unwrap_or(now.date())];
    for _ in 0..ahead {
        let Some(last) = months.last() else { break };
        let days = i64::from(last.month().length(last.year()));
        months.push(*last + time::Duration::days(days));
    }
    months
}

fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::{date, datetime};

    #[test]
    fn months_ahead_cross_the_year() {
        assert_eq!(
            months_from(datetime!(2026-12-31 23:00 UTC), 2),
            [date!(2026 - 12 - 01), date!(2027 - 01 - 01), date!(2027 - 02 - 01)]
        );
    }
}
