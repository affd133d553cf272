//! The polling thread: the one place that talks to the consumer group.
//!
//! It polls without ever waiting for Postgres. A lane whose queue is full holds up the poll for a
//! moment (fetched records stay in librdkafka's queue, which is bounded); when that lasts, the
//! lane's partitions are paused and polling goes on, so that membership is never lost. Pausing at
//! once would be wasteful: it throws away what librdkafka has fetched ahead.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::batch::{Control, Delivery, LaneHandle, Notice};
use crate::config::StartFrom;
use crate::consume::assignment::{Assignment, Phase};
use crate::consume::begin::{Pending, partition_list};
use crate::consume::client::{Client, subscribe};
use crate::consume::context::{Event, Events, WorkerConsumer};
use crate::consume::log_ends::LogEndsThread;
use crate::consume::slot::LaneSlot;
use crate::consume::watchdog::Watchdog;
use crate::failpoint::{self, Guard, Mishap};
use crate::observe::Heartbeat;
use crate::observe::board::{Health, StatusBoard};
use crate::observe::metrics::PipelineMetrics;
use crate::observe::rate_limit::LogGate;
use crate::types::{Offset, TopicPartition};

/// How long one poll waits for a record: the latency of a notice when nothing flows. Most of what an
/// idle worker costs is waking up here.
const POLL: Duration = Duration::from_millis(25);
/// How long a full lane may hold up the poll before its partitions are paused.
const HOLD: Duration = Duration::from_millis(250);
/// How often a held-up poll looks whether there is room again.
const LOOK: Duration = Duration::from_millis(1);
/// Records taken one after the other before anything else is looked after.
const BURST: usize = 64;
/// How often the slower duties are looked after.
const CHORES: Duration = Duration::from_millis(50);

/// What the polling thread needs to know.
#[derive(Clone, Debug)]
pub struct PollOptions {
    /// Topics to subscribe to.
    pub topics: Vec<String>,
    /// Where a partition never read begins.
    pub start_from: StartFrom,
    /// How long a rebalance waits for claims before partitions are assigned paused.
    pub claim_patience: Duration,
    /// The group's session time-out: ownership undisturbed for so long counts as confirmed.
    pub session_timeout: Duration,
    /// How often offsets are mirrored to Kafka.
    pub commit_interval: Duration,
    /// How often the ends of the logs are asked for, for lag.
    pub lag_interval: Duration,
    /// How long records may wait without progress or a known reason; zero: for ever.
    pub progress: Duration,
}

/// Why the thread ended.
#[derive(Debug)]
pub enum Stopped {
    /// It was asked to, every lane has drained, the offsets are mirrored and the group is left.
    Drained,
    /// Kafka will not have this member any more.
    Fatal(KafkaError),
}

/// The running thread.
pub struct PollThread {
    drain: Arc<AtomicBool>,
    stopped: oneshot::Receiver<Stopped>,
}

impl PollThread {
    /// Subscribes and starts polling.
    ///
    /// # Errors
    /// When the subscription is refused or no thread can be started.
    pub fn start(
        options: PollOptions,
        client: Client,
        lanes: Vec<LaneHandle>,
        notices: Receiver<Notice>,
        board: StatusBoard,
        metrics: Arc<PipelineMetrics>,
    ) -> anyhow::Result<Self> {
        let Client { consumer, events, properties } = client;
        subscribe(&consumer, &options.topics)?;
        let log_ends = LogEndsThread::start(
            consumer.clone(),
            board.clone(),
            options.topics.clone(),
            options.lag_interval,
        )?;
        let drain = Arc::new(AtomicBool::new(false));
        let (stopped_tx, stopped) = oneshot::channel();
        let now = Instant::now();
        let poll = PollLoop {
            heartbeat: board.heartbeat("poll"),
            watchdog: Watchdog::new(options.progress),
            watched_at: now,
            lanes: lanes.into_iter().map(LaneSlot::new).collect(),
            options,
            consumer,
            properties,
            events,
            notices,
            log_ends,
            board,
            metrics,
            log: LogGate::new(Duration::from_secs(10)),
            assignment: Assignment::default(),
            pending: None,
            mirror: BTreeMap::new(),
            mirror_due: false,
            mirrored_at: now,
            chores_at: now,
            last_error: now,
            drain: drain.clone(),
            draining: false,
        };
        std::thread::Builder::new().name("kafka-poll".into()).spawn(move || {
            let stopped = poll.run();
            // The receiver is gone only when the process is being torn down.
            drop(stopped_tx.send(stopped));
        })?;
        Ok(Self { drain, stopped })
    }

    /// Asks the thread to stop reading, let the lanes finish and leave the group.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::Relaxed);
    }

    /// Waits for the end; `None` when the thread died without a word.
    pub async fn stopped(&mut self) -> Option<Stopped> {
        (&mut self.stopped).await.ok()
    }
}

pub(super) struct PollLoop {
    pub(super) options: PollOptions,
    /// For another consumer.
    pub(super) properties: BTreeMap<String, String>,
    pub(super) events: Events,
    notices: Receiver<Notice>,
    pub(super) lanes: Vec<LaneSlot>,
    // Before the consumer: dropped first, so that the consumer is closed on this thread.
    pub(super) log_ends: LogEndsThread,
    pub(super) consumer: Arc<WorkerConsumer>,
    pub(super) board: StatusBoard,
    pub(super) metrics: Arc<PipelineMetrics>,
    heartbeat: Heartbeat,
    pub(super) watchdog: Watchdog,
    pub(super) watched_at: Instant,
    pub(super) log: LogGate,
    pub(super) assignment: Assignment,
    pub(super) pending: Option<Pending>,
    /// What Postgres has.
    pub(super) mirror: BTreeMap<TopicPartition, Offset>,
    /// Kafka may not have all of it.
    pub(super) mirror_due: bool,
    mirrored_at: Instant,
    chores_at: Instant,
    pub(super) last_error: Instant,
    drain: Arc<AtomicBool>,
    pub(super) draining: bool,
}

impl PollLoop {
    fn run(mut self) -> Stopped {
        loop {
            self.heartbeat.beat();
            while failpoint::happens(Mishap::StuckPoll) {
                std::thread::sleep(POLL);
            }
            self.take_notices();
            if self.chores_at.elapsed() >= CHORES {
                self.chores();
            }
            if self.draining && self.lanes.iter().all(|lane| lane.drained) {
                self.leave();
                return Stopped::Drained;
            }
            if self.held_up() {
                if let Ok(notice) = self.notices.recv_timeout(LOOK) {
                    self.on_notice(notice);
                }
                continue;
            }
            if let Some(stopped) = self.take_records() {
                return stopped;
            }
            self.take_events();
        }
    }

    /// Waits for a record, and takes those behind it that have come already.
    fn take_records(&mut self) -> Option<Stopped> {
        let consumer = self.consumer.clone();
        let mut patience = POLL;
        for _ in 0..BURST {
            match consumer.poll(patience) {
                Some(Ok(message)) => self.on_message(&message),
                Some(Err(error)) => return self.on_error(error),
                None => break,
            }
            if self.lanes.iter().any(|lane| !lane.paused && !lane.held.is_empty()) {
                break;
            }
            patience = Duration::ZERO;
        }
        None
    }

    /// Offers held records again; true while a lane that is not paused has no room.
    fn held_up(&mut self) -> bool {
        let mut held_up = false;
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if self.draining {
                lane.held.clear();
            }
            if lane.offer() {
                if lane.paused && !self.draining && lane.handle.has_room() {
                    self.resume_lane(index);
                }
            } else if !lane.paused {
                let lasts = lane.held_since.is_some_and(|since| since.elapsed() >= HOLD);
                if lasts && !failpoint::is_off(Guard::Pause) {
                    self.pause_lane(index);
                } else {
                    held_up = true;
                }
            }
        }
        held_up
    }

    fn on_message(&mut self, message: &BorrowedMessage<'_>) {
        let found = self.assignment.find(message.topic(), message.partition());
        let Some(partition) = found else { return };
        let Phase::Reading { start, .. } = &mut partition.phase else { return };
        if self.draining {
            return;
        }
        let lane = &mut self.lanes[partition.lane];
        let record = lane.memory.copy(message, partition.source.clone());
        let at = Offset(record.offset.0);
        match start.admit(|| crate::apply::Fingerprint::of(&record), at) {
            Ok(true) => {
                partition.next = record.offset.next();
                partition.consumed.increment(1);
                if record.source.partition == 0 && failpoint::happens(Mishap::LostDelivery) {
                    return;
                }
                lane.deliver(Delivery::Record(partition.generation, record));
            }
            Ok(false) => {}
            Err(halt) => {
                let source = record.source;
                self.halt(&source, halt);
            }
        }
    }

    /// Sorts errors: fatal ones end the thread, librdkafka retries the others by itself.
    fn on_error(&mut self, error: KafkaError) -> Option<Stopped> {
        self.last_error = Instant::now();
        match error {
            KafkaError::MessageConsumptionFatal(_) => return Some(Stopped::Fatal(error)),
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => self.recheck(),
            KafkaError::MessageConsumption(RDKafkaErrorCode::BadMessage) => self.read_again(&error),
            _ => {
                self.board.kafka(Health::down(error.to_string()));
                if let Some(suppressed) = self.log.pass("consume") {
                    warn!(%error, suppressed, "kafka answered with an error, librdkafka keeps trying");
                }
            }
        }
        None
    }

    fn take_events(&mut self) {
        while let Ok(event) = self.events.0.try_recv() {
            match event {
                Event::Rebalance(rebalance) => self.on_rebalance(rebalance),
                Event::CommitFailed(error) => self.commit_failed(&error),
                Event::Fetched(fetched) => self.on_fetched(fetched),
            }
        }
    }

    fn commit_failed(&mut self, error: &dyn Display) {
        self.mirror_due = true;
        self.metrics.offset_commit_failure();
        if let Some(suppressed) = self.log.pass("mirror") {
            warn!(%error, suppressed, "could not mirror offsets to kafka (postgres has them)");
        }
    }

    fn take_notices(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            self.on_notice(notice);
        }
        while let Ok(answer) = self.log_ends.answers.try_recv() {
            self.on_log_ends(answer);
        }
        while let Ok(source) = self.log_ends.suspects.try_recv() {
            self.verify(&source);
        }
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Claimed(generation, claim) => self.on_claimed(generation, claim),
            Notice::Fenced(generation, source, after) => self.on_fenced(generation, &source, after),
            Notice::Poisoned(generation, source, poisoned) => {
                self.on_poisoned(generation, &source, poisoned);
            }
            Notice::Committed(offsets) => {
                self.mirror.extend(offsets);
                self.mirror_due = true;
            }
            Notice::Drained { lane } => self.lanes[lane].drained = true,
        }
    }

    fn chores(&mut self) {
        self.chores_at = Instant::now();
        if self.drain.load(Ordering::Relaxed) && !self.draining {
            self.begin_drain();
        }
        self.serve_pending(false);
        self.steer();
        self.watch();
        if self.mirrored_at.elapsed() >= self.options.commit_interval {
            self.mirror_offsets(CommitMode::Async);
        }
    }

    fn begin_drain(&mut self) {
        self.draining = true;
        self.serve_pending(true);
        let assigned = self.assignment.which(|p| p.assigned);
        self.pause(&assigned);
        for lane in &mut self.lanes {
            // A lane that is gone has nothing left to finish.
            lane.drained = !lane.handle.control(Control::Drain);
        }
    }

    /// The last offsets, and good-bye: closing the consumer happens when this loop is dropped.
    fn leave(&mut self) {
        self.take_notices();
        self.serve_pending(true);
        self.mirror_offsets(CommitMode::Sync);
        info!("every lane has drained, leaving the consumer group");
    }

    /// Commits to Kafka what Postgres has, for lag tools and autoscalers. Only partitions still
    /// assigned: the others belong to somebody else now.
    fn mirror_offsets(&mut self, mode: CommitMode) {
        self.mirrored_at = Instant::now();
        if !std::mem::take(&mut self.mirror_due) {
            return;
        }
        let assignment = &self.assignment;
        self.mirror.retain(|source, _| assignment.get(source).is_some());
        let assigned = |source| assignment.get(source).is_some_and(|p| p.assigned);
        let offsets: Vec<_> = self.mirror.iter().filter(|(source, _)| assigned(source)).collect();
        // The others' turn comes when they are.
        self.mirror_due = offsets.len() < self.mirror.len();
        if offsets.is_empty() {
            return;
        }
        let list = partition_list(
            offsets.into_iter().map(|(source, next)| (source, rdkafka::Offset::Offset(next.0))),
        );
        match list.and_then(|list| self.consumer.commit(&list, mode)) {
            Ok(()) => {}
            Err(error) => self.commit_failed(&error),
        }
    }
}
