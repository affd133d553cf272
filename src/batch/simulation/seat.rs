//! A lane at its member: what is on the way to it, and how its jobs end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::apply::verdict::Verdict;
use crate::apply::{ApplyError, Outcome};
use crate::batch::lane::{Done, Job, Lane, LaneOptions};
use crate::batch::{Delivery, Notice, connect};
use crate::observe::board::StatusBoard;
use crate::observe::metrics::PipelineMetrics;

use super::database::{Commit, Database};
use super::failure;
use super::log::{Log, is_complete};

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

pub(super) struct Seat {
    pub(super) lane: Lane,
    pub(super) notices: Receiver<Notice>,
    /// On the way to the lane: what it holds may be out of date when it arrives.
    pub(super) queue: VecDeque<Delivery>,
    /// The lane has ended.
    pub(super) drained: bool,
    running: Option<Job>,
}

impl Seat {
    pub(super) fn new(
        options: LaneOptions,
        board: StatusBoard,
        metrics: Arc<PipelineMetrics>,
    ) -> Self {
        let (_, inbox) = connect(64, 1 << 20);
        let (notices_tx, notices) = channel();
        let lane = Lane::new(options, inbox, notices_tx, board, metrics);
        Self { lane, notices, running: None, queue: VecDeque::new(), drained: false }
    }

    /// The lane takes what is queued for it, as far as it has room.
    pub(super) fn deliver(&mut self) {
        for _ in 0..self.lane.room().min(self.queue.len()) {
            self.lane.on_delivery(self.queue.pop_front().expect("counted"), super::now());
        }
        // Whatever happens before its turn, what is prepared must stay true.
        self.lane.gathering.prepare();
    }

    /// Starts the lane's next job, if there is one and the lane is idle. With nothing left to do a
    /// draining lane ends, and then all that it took must be where it belongs.
    pub(super) fn start(&mut self, database: &Database) {
        if self.running.is_some() || self.drained {
            return;
        }
        self.running = self.lane.next_job();
        if self.running.is_none() && self.lane.is_drained() {
            self.drained = true;
            self.lane.owned.iter().for_each(|(source, owned)| database.has_all_of(source, owned));
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Ends the lane's job.
    pub(super) fn finish(
        &mut self,
        worker: &str,
        fate: Fate,
        database: &mut Database,
        logs: &[Log],
    ) {
        let Some(job) = self.running.take() else { return };
        let done = match job {
            Job::Claim(wanted) => {
                let sources: Vec<_> = wanted.keys().cloned().collect();
                Done::Claimed(wanted, answer(fate, || database.claim(worker, &sources)))
            }
            Job::Apply(batch, _) => {
                assert!(batch.agrees(), "prepared of other records");
                let batch = batch.into_batch();
                is_complete(&batch, logs);
                let outcome = match fate {
                    Fate::Served(commit) => database.apply(worker, &batch, commit),
                    Fate::Unheard => database.apply(worker, &batch, Commit::LostUnheard),
                    Fate::Refused(verdict) => Outcome::Failed(failure(verdict)),
                };
                Done::Applied(batch, outcome, Duration::ZERO)
            }
            Job::Resolve(batch, applied) => {
                let resolved = answer(fate, || database.resolve(worker, &batch.ranges));
                Done::Resolved(batch, applied, resolved)
            }
            Job::Probe(held) => Done::Probed(answer(fate, || database.probe(worker, &held))),
        };
        self.lane.on_done(done);
    }

    /// The connection is gone, or its owner is: what was sent may or may not be done.
    pub(super) fn cut_off(
        &mut self,
        worker: &str,
        commit: Commit,
        database: &mut Database,
    ) -> bool {
        let Some(job) = self.running.take() else { return false };
        match job {
            Job::Apply(batch, _) => drop(database.apply(worker, &batch, commit)),
            Job::Claim(_) | Job::Resolve(..) if commit == Commit::LostUnheard => {}
            Job::Claim(wanted) => {
                let sources: Vec<_> = wanted.into_keys().collect();
                drop(database.claim(worker, &sources));
            }
            Job::Resolve(batch, _) => drop(database.resolve(worker, &batch.ranges)),
            Job::Probe(_) => {}
        }
        true
    }
}

fn answer<T>(fate: Fate, act: impl FnOnce() -> T) -> Result<T, ApplyError> {
    match fate {
        Fate::Served(_) => Ok(act()),
        Fate::Refused(verdict) => Err(failure(verdict)),
        Fate::Unheard => {
            act();
            Err(failure(Verdict::Reconnect))
        }
    }
}
