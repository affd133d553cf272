//! A member of the group: real lanes, and as much of the poll loop as talks to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use crate::apply::verdict::Verdict;
use crate::apply::{AfterFence, Claim, Fingerprint};
use crate::batch::lane::{Done, Job, Lane, LaneOptions};
use crate::batch::{Control, Delivery, Generation, Notice, connect};
use crate::config::StartFrom;
use crate::consume::start::{LogEnds, Start, decide};
use crate::observe::board::{Identity, StatusBoard};
use crate::observe::metrics::PipelineMetrics;
use crate::types::Offset;

use super::database::{Commit, Database};
use super::{LANES, Log, failure, source};

/// Deliveries a lane's queue holds.
const QUEUE: usize = 6;

/// What Kafka tells a member, sooner or later.
#[derive(Clone, Copy, Debug)]
pub(super) enum GroupEvent {
    Assigned(i32),
    Revoked(i32),
}

/// How a lane's job ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// As Postgres says, and if it is a batch, by this commit.
    Served(Commit),
    /// Nothing was done, for this reason.
    Refused(Verdict),
    /// It was done (a batch: not), and the answer got lost.
    Unheard,
}

enum Phase {
    Claiming,
    Reading { start: Start, at: i64 },
    Fenced,
}

struct Reader {
    lane: usize,
    generation: Generation,
    phase: Phase,
}

struct LaneSeat {
    lane: Lane,
    notices: Receiver<Notice>,
    running: Option<Job>,
    /// On the way to the lane: what it holds may be out of date when it arrives.
    queue: VecDeque<Delivery>,
}

pub(super) struct Member {
    pub(super) name: String,
    pub(super) asleep: bool,
    /// Told by Kafka, and not yet heard.
    pub(super) inbox: VecDeque<GroupEvent>,
    seats: Vec<LaneSeat>,
    readers: BTreeMap<i32, Reader>,
    generations: u64,
}

impl Member {
    pub(super) fn new(name: String, options: &LaneOptions, metrics: &Arc<PipelineMetrics>) -> Self {
        let identity = Identity { group: "g".into(), worker_id: name.clone() };
        let board = StatusBoard::new(identity, LANES);
        let seat = |index| {
            let (_, inbox) = connect(64, 1 << 20);
            let (notices_tx, notices) = channel();
            let options = LaneOptions { index, ..options.clone() };
            let lane = Lane::new(options, inbox, notices_tx, board.clone(), metrics.clone());
            LaneSeat { lane, notices, running: None, queue: VecDeque::new() }
        };
        Self {
            name,
            asleep: false,
            inbox: VecDeque::new(),
            seats: (0..LANES).map(seat).collect(),
            readers: BTreeMap::new(),
            generations: 0,
        }
    }

    /// Hears one thing from Kafka.
    pub(super) fn hear(&mut self) {
        match self.inbox.pop_front() {
            Some(GroupEvent::Assigned(partition)) => {
                let load = |lane: &usize| self.readers.values().filter(|r| r.lane == *lane).count();
                let lane = (0..LANES).min_by_key(load).unwrap_or(0);
                let reader =
                    Reader { lane, generation: Generation::default(), phase: Phase::Claiming };
                self.readers.insert(partition, reader);
                self.claim(partition);
            }
            Some(GroupEvent::Revoked(partition)) => {
                if let Some(reader) = self.readers.remove(&partition) {
                    let revoke = Control::Revoke(vec![source(partition)]);
                    self.seats[reader.lane].lane.on_control(revoke);
                }
            }
            None => {}
        }
    }

    fn claim(&mut self, partition: i32) {
        self.generations += 1;
        let Some(reader) = self.readers.get_mut(&partition) else { return };
        reader.generation = Generation(self.generations);
        reader.phase = Phase::Claiming;
        let wanted = vec![(source(partition), reader.generation)];
        self.seats[reader.lane].lane.on_control(Control::Claim(wanted));
    }

    /// A fenced partition that has long been ours without dispute is claimed again.
    pub(super) fn confirm(&mut self, partition: i32) {
        if self.readers.get(&partition).is_some_and(|r| matches!(r.phase, Phase::Fenced)) {
            self.claim(partition);
        }
    }

    /// Takes the lanes' answers.
    pub(super) fn take_notices(&mut self, logs: &[Log]) {
        let notices: Vec<Notice> =
            self.seats.iter().flat_map(|seat| seat.notices.try_iter()).collect();
        for notice in notices {
            match notice {
                Notice::Claimed(generation, claim) => self.begin(generation, &claim, logs),
                Notice::Fenced(generation, source, after) => {
                    let Some(reader) = self.readers.get_mut(&source.partition) else { continue };
                    if reader.generation != generation {
                        continue;
                    }
                    match after {
                        AfterFence::ClaimAgain => self.claim(source.partition),
                        AfterFence::WaitForKafka => reader.phase = Phase::Fenced,
                    }
                }
                Notice::Committed(_) | Notice::Drained { .. } => {}
                Notice::Poisoned(..) => unreachable!("no breaker is set"),
            }
        }
    }

    fn begin(&mut self, generation: Generation, claim: &Claim, logs: &[Log]) {
        let partition = claim.source.partition;
        let Some(reader) = self.readers.get_mut(&partition) else { return };
        if reader.generation != generation {
            return;
        }
        let high = Offset(logs[partition as usize].end);
        let ends = LogEnds { low: Offset(0), high, committed: None };
        let start = decide(claim, ends, StartFrom::Earliest).expect("the log only grows");
        reader.phase = Phase::Reading { start, at: start.fetch.0 };
        if claim.next.is_none() {
            let advance = Delivery::Advance(generation, claim.source.clone(), start.next);
            self.seats[reader.lane].queue.push_back(advance);
        }
    }

    /// Everything that needs no answer from Postgres.
    pub(super) fn work(&mut self, logs: &[Log]) {
        self.take_notices(logs);
        for (partition, log) in logs.iter().enumerate() {
            for _ in 0..QUEUE {
                self.read(partition as i32, log);
            }
        }
        for lane in 0..LANES {
            self.deliver(lane);
            self.start(lane);
        }
    }

    /// Reads the next record of a partition, or past the end of it.
    pub(super) fn read(&mut self, partition: i32, log: &Log) {
        let Some(reader) = self.readers.get_mut(&partition) else { return };
        let Phase::Reading { start, at } = &mut reader.phase else { return };
        let queue = &mut self.seats[reader.lane].queue;
        if *at >= log.end || queue.len() >= QUEUE {
            return;
        }
        let delivery = match log.records.range(*at..).next() {
            Some((offset, record)) => {
                *at = offset + 1;
                let admitted = start.admit(|| Fingerprint::of(record), Offset(*offset));
                if !admitted.expect("the log is the one it was") {
                    return;
                }
                Delivery::Record(reader.generation, record.clone())
            }
            None => {
                *at = log.end;
                Delivery::Advance(reader.generation, source(partition), Offset(log.end))
            }
        };
        queue.push_back(delivery);
    }

    /// Reads again from where reading began.
    pub(super) fn step_back(&mut self, partition: i32) {
        if let Some(Reader { phase: Phase::Reading { start, at }, .. }) =
            self.readers.get_mut(&partition)
        {
            *at = start.fetch.0;
        }
    }

    /// A lane takes what is queued for it, as far as it has room.
    pub(super) fn deliver(&mut self, lane: usize) {
        let seat = &mut self.seats[lane];
        for _ in 0..seat.lane.room().min(seat.queue.len()) {
            seat.lane.on_delivery(seat.queue.pop_front().expect("counted"), super::now());
        }
    }

    /// Starts a lane's next job, if there is one and the lane is idle.
    pub(super) fn start(&mut self, lane: usize) {
        let seat = &mut self.seats[lane];
        if seat.running.is_none() {
            seat.running = seat.lane.next_job();
        }
    }

    /// Ends a lane's job. `check` sees every batch that is about to be committed.
    pub(super) fn finish(
        &mut self,
        lane: usize,
        fate: Fate,
        database: &mut Database,
        logs: &[Log],
    ) {
        let seat = &mut self.seats[lane];
        let Some(job) = seat.running.take() else { return };
        let done = match job {
            Job::Claim(wanted) => {
                let sources: Vec<_> = wanted.keys().cloned().collect();
                Done::Claimed(wanted, answer(fate, || database.claim(&self.name, &sources)))
            }
            Job::Apply(batch, _) => {
                super::is_complete(&batch, logs);
                let outcome = match fate {
                    Fate::Served(commit) => database.apply(&self.name, &batch, commit),
                    Fate::Unheard => database.apply(&self.name, &batch, Commit::LostUnheard),
                    Fate::Refused(verdict) => crate::apply::Outcome::Failed(failure(verdict)),
                };
                Done::Applied(batch, outcome, std::time::Duration::ZERO)
            }
            Job::Resolve(batch, applied) => {
                let resolved = answer(fate, || database.resolve(&self.name, &batch.ranges));
                Done::Resolved(batch, applied, resolved)
            }
            Job::Probe(held) => Done::Probed(answer(fate, || database.probe(&self.name, &held))),
        };
        seat.lane.on_done(done);
    }

    /// Dies with whatever it was doing: a transaction it had sent off may or may not be committed.
    pub(super) fn die(&mut self, commit: Commit, database: &mut Database) {
        for seat in &mut self.seats {
            if let Some(Job::Apply(batch, _)) = seat.running.take() {
                drop(database.apply(&self.name, &batch, commit));
            }
        }
    }
}

fn answer<T>(fate: Fate, act: impl FnOnce() -> T) -> Result<T, crate::apply::ApplyError> {
    match fate {
        Fate::Served(_) => Ok(act()),
        Fate::Refused(verdict) => Err(failure(verdict)),
        Fate::Unheard => {
            act();
            Err(failure(Verdict::Reconnect))
        }
    }
}
