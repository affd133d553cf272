//! A lane: gathers records of its partitions, and has one job at a time on its own connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;

use crate::apply::{
    AfterFence, Applied, ApplyError, Batch, Caps, Claim, Content, DeadLetter, Fenced, Fingerprint,
    Held, Outcome, ReadyBatch, Resolution, Writer, WriterOptions,
};
use crate::batch::breaker::{Breaker, BreakerLimits};
use crate::batch::gather::{Gathering, Limits};
use crate::batch::retry::{Retry, RetryOptions};
use crate::batch::{Control, Delivery, Generation, LaneInbox, Notice, span};
use crate::event::{Decoded, RawRecord, Rules, decode};
use crate::failpoint::{self, Guard, Mishap};
use crate::observe::Heartbeat;
use crate::observe::batch_span::BatchSpan;
use crate::observe::board::{Health, StatusBoard};
use crate::observe::metrics::PipelineMetrics;
use crate::observe::rate_limit::LogGate;
use crate::types::{ByPartition, Epoch, Offset, TopicPartition};

/// A beat shows that the lane's loop turns, whatever Postgres does.
const BEAT: Duration = Duration::from_secs(1);
/// A lane asks Postgres about its claims this often, busy or not: it proves that Postgres answers,
/// and notices when a partition that is halted or has no traffic was moved by an operator, or by a
/// database that lost its last transactions.
const PROBE: Duration = Duration::from_secs(2);
/// A job may take so many statement time-outs; beyond that the server is gone.
const GONE: u32 = 4;
/// Deliveries taken from the queue at once.
const TAKE: usize = 256;

/// What a lane needs to know.
#[derive(Clone)]
pub struct LaneOptions {
    /// Number of the lane, from 0.
    pub index: usize,
    /// Consumer group, for spans.
    pub group: String,
    /// When a batch is ready.
    pub limits: Limits,
    /// The contract's configurable edges.
    pub rules: Rules,
    /// How much of a dead letter is kept.
    pub caps: Caps,
    /// When to stop at dead letters.
    pub breaker: BreakerLimits,
    /// When to try again.
    pub retry: RetryOptions,
    /// For the lane's writer.
    pub writer: WriterOptions,
}

/// A partition of this lane.
pub(super) struct Owned {
    pub(super) generation: Generation,
    pub(super) epoch: Epoch,
    /// The end of what was gathered: where the next batch begins.
    pub(super) next: Option<Offset>,
    /// Where Postgres stood at our last claim or commit.
    pub(super) stored: Option<Offset>,
    /// Record timestamp (ms) of the oldest record being written, and of the oldest gathered.
    pub(super) writing_since: Option<i64>,
    pub(super) gathered_since: Option<i64>,
    pub(super) breaker: Breaker,
    /// The breaker has tripped: nothing more of it is taken under this claim.
    pub(super) held_back: bool,
}

impl Owned {
    fn takes(&self, generation: Generation) -> bool {
        let current = self.generation == generation || failpoint::is_off(Guard::Generation);
        current && !self.held_back
    }
}

/// What the writer is doing.
#[expect(clippy::large_enum_variant, reason = "there is one at a time per lane")]
pub(super) enum Job {
    Claim(HashMap<TopicPartition, Generation>),
    Apply(ReadyBatch, BatchSpan),
    Resolve(Batch, Option<Applied>),
    Probe(Vec<Held>),
}

/// What came of it.
pub(super) enum Done {
    Claimed(HashMap<TopicPartition, Generation>, Result<Vec<Claim>, ApplyError>),
    Applied(Batch, Outcome, Duration),
    Resolved(Batch, Option<Applied>, Result<Resolution, ApplyError>),
    Probed(Result<Vec<Fenced>, ApplyError>),
}

/// The running job, if any: on a task of its own, so that it goes on while the lane decodes and
/// prepares the next batch. Dropped, it ends at its next wait; until then the fence decides.
type Running = JoinSet<(Writer, Done)>;

/// See the module.
pub struct Lane {
    pub(super) options: LaneOptions,
    inbox: LaneInbox,
    pub(super) notices: Sender<Notice>,
    pub(super) board: StatusBoard,
    pub(super) metrics: Arc<PipelineMetrics>,
    heartbeat: Heartbeat,
    pub(super) log: LogGate,
    pub(super) owned: ByPartition<Owned>,
    /// Assigned, and not yet claimed.
    pub(super) wanted: HashMap<TopicPartition, Generation>,
    pub(super) gathering: Gathering,
    /// Batches to write before anything newly gathered: a failed one, or the halves of it.
    pub(super) waiting: VecDeque<Batch>,
    /// A batch whose fate or claims must be settled before anything else is written.
    pub(super) unsettled: Option<(Batch, Option<Applied>)>,
    pub(super) writer: Option<Writer>,
    pub(super) retry: Retry,
    pub(super) not_before: Option<Instant>,
    pub(super) probed_at: Instant,
    /// A claim lost against somebody's lock: a batch goes first, once.
    pub(super) claim_waits: bool,
    job_since: Instant,
    /// Whether it pays to prepare the next batch while one is written.
    expects_new: bool,
    pub(super) draining: bool,
}

impl Lane {
    /// A lane that owns nothing yet.
    pub fn new(
        options: LaneOptions,
        inbox: LaneInbox,
        notices: Sender<Notice>,
        board: StatusBoard,
        metrics: Arc<PipelineMetrics>,
    ) -> Self {
        let heartbeat = board.heartbeat(format!("lane {}", options.index));
        Self {
            gathering: Gathering::new(options.limits),
            retry: Retry::new(options.retry),
            inbox,
            notices,
            board,
            metrics,
            heartbeat,
            log: LogGate::new(Duration::from_secs(10)),
            owned: ByPartition::default(),
            wanted: HashMap::new(),
            waiting: VecDeque::new(),
            unsettled: None,
            writer: Some(Writer::new(options.writer.clone())),
            not_before: None,
            probed_at: Instant::now() - PROBE,
            claim_waits: false,
            job_since: Instant::now(),
            expects_new: true,
            draining: false,
            options,
        }
    }

    /// Runs until drained, or until the poll thread is gone.
    ///
    /// A running job is awaited, not cancelled, with one exception: a server that has not answered
    /// for far longer than its own time-outs allow is gone, and its connection is dropped with the
    /// job. The order of the arms: control first (rare,
    /// and it decides what the others mean), then the job (once per batch), the beat, and records
    /// last, because they never run out.
    pub async fn run(mut self) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running = Running::new();
        let mut taken = Vec::with_capacity(TAKE);
        loop {
            if running.is_empty() {
                self.start_job(&mut running);
                // A task just spawned waits for its spawner, which could go on for long.
                tokio::task::yield_now().await;
            }
            if !running.is_empty() && self.expects_new {
                self.gathering.prepare();
            }
            if running.is_empty() && self.is_drained() {
                self.notify(Notice::Drained { lane: self.options.index });
                self.heartbeat.finish();
                return;
            }
            let room = self.room();
            let wake = self.wake();
            tokio::select! {
                biased;
                control = self.inbox.control.recv() => match control {
                    Some(control) => self.on_control(control),
                    None => return,
                },
                Some(ended) = running.join_next() => {
                    let Some((writer, done)) = returned(ended) else { return };
                    self.expects_new = writer.expects_new();
                    self.writer = Some(writer);
                    self.on_done(done);
                }
                _ = beat.tick() => {
                    self.heartbeat.beat();
                    if !running.is_empty() && self.is_silent() {
                        running = Running::new();
                        self.start_over();
                    }
                }
                count = self.inbox.deliveries.recv_many(&mut taken, room), if room > 0 => {
                    if count == 0 {
                        return;
                    }
                    let now = OffsetDateTime::now_utc();
                    for delivery in taken.drain(..) {
                        self.inbox.queued.took(&delivery);
                        self.on_delivery(delivery, now);
                    }
                }
                () = tokio::time::sleep_until(wake), if running.is_empty() => {}
            }
        }
    }

    /// How many deliveries may be taken now.
    pub(super) fn room(&self) -> usize {
        if self.draining { 0 } else { self.gathering.room().min(TAKE) }
    }

    /// When an idle lane must look again without being told.
    fn wake(&self) -> Instant {
        let work = match self.not_before {
            Some(at) => Some(at),
            None => self.gathering.due(),
        };
        work.unwrap_or(self.probed_at + PROBE).min(Instant::now() + PROBE)
    }

    pub(super) fn is_drained(&self) -> bool {
        self.draining
            && self.unsettled.is_none()
            && self.waiting.is_empty()
            && self.gathering.is_empty()
    }

    fn start_job(&mut self, running: &mut Running) {
        if self.writer.is_some()
            && let Some(job) = self.next_job()
            && let Some(writer) = self.writer.take()
        {
            self.job_since = Instant::now();
            running.spawn(perform(writer, job));
        }
    }

    /// Picks the next job: settle what is in doubt, claim, ask around now and then, write.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        if self.not_before.is_some_and(|at| at > Instant::now()) {
            return None;
        }
        self.not_before = None;
        if let Some((batch, applied)) = self.unsettled.take() {
            Some(Job::Resolve(batch, applied))
        } else if !self.wanted.is_empty() && !std::mem::take(&mut self.claim_waits) {
            Some(Job::Claim(self.wanted.clone()))
        } else if self.may_probe() {
            self.probed_at = Instant::now();
            let held = |(source, owned): (&TopicPartition, &Owned)| Held {
                source: source.clone(),
                epoch: owned.epoch,
                next: owned.stored,
            };
            Some(Job::Probe(self.owned.iter().map(held).collect()))
        } else {
            let batch = self.next_batch()?;
            let span = span::start(&self.options, &batch);
            Some(Job::Apply(batch, span))
        }
    }

    /// While a batch keeps failing, only that batch can tell when it is over.
    fn may_probe(&self) -> bool {
        let failing = self.retry.failures() > 0 && !self.waiting.is_empty();
        self.probed_at.elapsed() >= PROBE && !self.draining && !failing
    }

    /// Whether the server has been silent for so long that it must be gone: a machine that lost its
    /// power closes no connection, and sqlx 0.9 sets no TCP keepalive. Says so on the way.
    fn is_silent(&self) -> bool {
        let silent = self.job_since.elapsed();
        let session = &self.options.writer.session;
        if silent > session.statement_timeout + session.lock_timeout {
            let reason = format!("no answer for {} s", silent.as_secs());
            self.board.postgres(self.options.index, Health::down(reason));
        }
        silent > session.statement_timeout * GONE
    }

    /// Drops the connection and claims everything again: the claims wait for what the old
    /// connection may have left open, and then tell where to go on.
    pub(super) fn start_over(&mut self) {
        warn!(lane = self.options.index, "postgres is silent: new connection, new claims");
        self.writer = Some(Writer::new(self.options.writer.clone()));
        self.unsettled = None;
        self.waiting.clear();
        let owned: Vec<_> = self.owned.iter().map(|(s, o)| (s.clone(), o.generation)).collect();
        for (source, generation) in owned {
            self.forget(&source);
            self.notify(Notice::Fenced(generation, source, AfterFence::ClaimAgain));
        }
    }

    pub(super) fn on_control(&mut self, control: Control) {
        match control {
            Control::Claim(partitions) => {
                for (source, _) in &partitions {
                    self.forget(source);
                }
                self.wanted.extend(partitions);
            }
            Control::Revoke(sources) => sources.iter().for_each(|source| self.forget(source)),
            Control::Drain => {
                self.draining = true;
                self.wanted.clear();
            }
        }
    }

    /// Drops all that was gathered of a partition. What is being written goes its way: the fence
    /// decides, and should it come back unwritten, `drop_let_go` does.
    pub(super) fn forget(&mut self, source: &TopicPartition) {
        self.owned.remove(source);
        self.wanted.remove(source);
        self.gathering.drop_partition(source);
        self.drop_from_waiting(source);
    }

    pub(super) fn drop_from_waiting(&mut self, source: &TopicPartition) {
        for batch in &mut self.waiting {
            batch.drop_partition(source);
        }
        self.waiting.retain(|batch| !batch.is_empty());
    }

    pub(super) fn on_delivery(&mut self, delivery: Delivery, now: OffsetDateTime) {
        match delivery {
            Delivery::Record(generation, record) => self.on_record(generation, record, now),
            Delivery::Advance(generation, source, to) => {
                let Some(owned) = self.owned.get_mut(&source) else { return };
                if owned.takes(generation) && owned.next.is_none_or(|next| next < to) {
                    self.gathering.advance(&source, owned.epoch, owned.next, to);
                    owned.next = Some(to);
                }
            }
        }
    }

    /// Accepts a record only under the partition's current generation and in order.
    fn on_record(&mut self, generation: Generation, record: RawRecord, now: OffsetDateTime) {
        let Some(owned) = self.owned.get_mut(&record.source) else { return };
        let next = record.offset.next();
        if !owned.takes(generation) || owned.next.is_some_and(|at| next <= at) {
            return;
        }
        if owned.gathered_since.is_none() {
            owned.gathered_since = Some(record.timestamp_ms.unwrap_or_else(|| millis(now)));
            if owned.writing_since.is_none() {
                self.board.pending(&record.source, owned.gathered_since);
            }
        }
        let range = self.gathering.range(&record.source, owned.epoch, owned.next);
        let fingerprint = Fingerprint::of(&record);
        self.gathering.push(range, fingerprint, content(record, &self.options, now));
        owned.next = Some(next);
    }

    pub(super) fn notify(&self, notice: Notice) {
        // The poll thread outlives its lanes but for a crash, and then there is nobody to tell.
        drop(self.notices.send(notice));
    }
}

/// Decodes a record into what will be stored of it.
fn content(record: RawRecord, options: &LaneOptions, now: OffsetDateTime) -> Content {
    match decode(&record, &options.rules, now) {
        Decoded::Event(event) => Content::Event(event, record),
        Decoded::Skipped => Content::Skipped,
        Decoded::Rejected(rejection) => {
            Content::DeadLetter(Box::new(DeadLetter::new(record, rejection, options.caps)))
        }
    }
}

/// What a job came to; `None` when the process is being torn down. Its panic is the lane's.
fn returned(ended: Result<(Writer, Done), JoinError>) -> Option<(Writer, Done)> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(returned) => Some(returned),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_cancelled)) => None,
    }
}

async fn perform(mut writer: Writer, job: Job) -> (Writer, Done) {
    let done = match job {
        Job::Claim(partitions) => {
            let sources: Vec<_> = partitions.keys().cloned().collect();
            let claims = writer.claim(&sources).await;
            Done::Claimed(partitions, claims)
        }
        Job::Apply(mut batch, span) => {
            let started = Instant::now();
            let outcome = writer.apply(&mut batch).await;
            let batch = batch.into_batch();
            if failpoint::happens(Mishap::LostAnswer) {
                std::future::pending::<()>().await;
            }
            span::end(span, &outcome);
            Done::Applied(batch, outcome, started.elapsed())
        }
        Job::Resolve(batch, applied) => {
            let resolution = writer.resolve(&batch.ranges).await;
            Done::Resolved(batch, applied, resolution)
        }
        Job::Probe(held) => Done::Probed(writer.probe(&held).await),
    };
    (writer, done)
}

/// Milliseconds since 1970, as Kafka counts.
pub(super) fn millis(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
