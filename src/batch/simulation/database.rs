//! Postgres as the simulation has it: rows under locks, transactions that commit, fail or linger.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::apply::moves::Effect;
use crate::apply::verdict::Verdict;
use crate::apply::{
    Applied, Batch, Claim, Fenced, Fingerprint, Held, Holder, Item, OPERATOR, OffsetRange, Outcome,
    Resolution, committed, judge_fence,
};
use crate::batch::breaker::Mark;
use crate::types::{Epoch, Offset, TopicPartition};

use super::log::is_refused;
use super::{failure, source};

/// A row of `source_offsets`.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) next: Option<Offset>,
    epoch: Epoch,
    claimed_by: String,
    last: Option<Fingerprint>,
    last_next: Option<Offset>,
    /// The epoch as the last claim or move made it; renewals to settle a doubt raised it since.
    pub(super) claim: Epoch,
    /// What was stored under this claim.
    pub(super) marks: Vec<Mark>,
    /// The breaker tripped under this claim: nothing from here on may be stored.
    pub(super) held_from: Option<Offset>,
}

/// What a transaction would store.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    ranges: Vec<OffsetRange>,
    /// Partition and offset of every record, and what it is.
    records: Vec<(i32, i64, Mark)>,
}

/// Committed state. Cloned, it is a replica that lags.
#[derive(Clone, Debug, Default)]
pub(super) struct Database {
    pub(super) rows: BTreeMap<i32, Row>,
    /// The records that took effect: partition and offset.
    pub(super) effects: BTreeSet<(i32, i64)>,
    /// The offsets an operator's recorded moves passed over.
    pub(super) skipped: BTreeSet<(i32, i64)>,
    /// Every position a batch ended at.
    pub(super) reached: BTreeSet<(i32, Offset)>,
    /// COMMIT was sent, the session is gone, and the server is still at it: the rows are locked.
    lingering: Vec<Transaction>,
    /// Once the tail was lost, nothing can be said about what a member believes.
    pub(super) failed_over: bool,
}

/// How an attempt to write ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commit {
    /// And its answer arrives.
    Answered,
    /// The answer is lost; it was committed.
    DoneUnheard,
    /// The answer is lost; it was not.
    LostUnheard,
    /// The answer is lost, and the server has yet to decide.
    Lingers,
}

impl Database {
    /// One batch, one transaction.
    pub(super) fn apply(&mut self, worker: &str, batch: &Batch, commit: Commit) -> Outcome {
        self.wait_for(batch.ranges.iter().map(|range| &range.source));
        let fenced: Vec<_> = batch.ranges.iter().filter(|range| !self.passes(range)).collect();
        if !fenced.is_empty() {
            let judge = |range: &OffsetRange| self.fenced(worker, &range.source, range.epoch);
            return Outcome::Fenced(fenced.into_iter().map(judge).collect());
        }
        if is_refused(batch) {
            return Outcome::Failed(failure(Verdict::Data));
        }
        let record = |item: &Item| {
            let partition = batch.ranges[item.range].source.partition;
            (partition, item.record.offset.0, Mark::of(&item.content))
        };
        let records = batch.items.iter().map(record).collect();
        let transaction = Transaction { ranges: batch.ranges.clone(), records };
        let applied = Applied { applied: batch.items.len() as u64, ..Applied::default() };
        match commit {
            Commit::Answered => {
                self.commit(transaction);
                return Outcome::Applied(applied);
            }
            Commit::DoneUnheard => self.commit(transaction),
            Commit::LostUnheard => {}
            Commit::Lingers => self.lingering.push(transaction),
        }
        Outcome::InDoubt(applied, failure(Verdict::Reconnect))
    }

    fn passes(&self, range: &OffsetRange) -> bool {
        self.rows
            .get(&range.source.partition)
            .is_some_and(|row| row.epoch == range.epoch && row.next == range.from)
    }

    /// A fence keeps a mistake from doing harm, and so would hide it: it must come of a later claim
    /// or move, never of a lane that lost its own thread.
    fn fenced(&self, worker: &str, source: &TopicPartition, epoch: Epoch) -> Fenced {
        if let Some(row) = self.rows.get(&source.partition) {
            assert!(self.failed_over || epoch < row.claim, "{worker}: {source} at {row:?}");
        }
        self.judge(worker, source, epoch)
    }

    fn commit(&mut self, transaction: Transaction) {
        for (partition, offset, mark) in transaction.records {
            let record = (partition, offset);
            assert!(!self.skipped.contains(&record), "skipped, and took effect: {record:?}");
            assert!(self.effects.insert(record), "took effect twice: {record:?}");
            if let Some(row) = self.rows.get_mut(&partition) {
                row.marks.push(mark);
            }
        }
        for range in transaction.ranges {
            let partition = range.source.partition;
            self.reached.insert((partition, range.to));
            let Some(row) = self.rows.get_mut(&partition) else { continue };
            row.last = range.last.or(row.last.filter(|_| row.last_next == row.next));
            row.next = Some(range.to);
            row.last_next = Some(range.to);
            self.was_let_through(partition);
        }
    }

    /// Row locks: whoever wants these rows waits until lingering transactions on them are over.
    /// One that nobody has decided by then is taken as committed.
    fn wait_for<'a>(&mut self, sources: impl Iterator<Item = &'a TopicPartition>) {
        let wanted: Vec<i32> = sources.map(|source| source.partition).collect();
        let touches =
            |t: &Transaction| t.ranges.iter().any(|r| wanted.contains(&r.source.partition));
        while let Some(index) = self.lingering.iter().position(touches) {
            self.decide(index, true);
        }
    }

    /// The server makes up its mind about a lingering transaction.
    pub(super) fn decide(&mut self, index: usize, committed: bool) {
        if index < self.lingering.len() {
            let transaction = self.lingering.remove(index);
            if committed {
                self.commit(transaction);
            }
        }
    }

    pub(super) fn claim(&mut self, worker: &str, sources: &[TopicPartition]) -> Vec<Claim> {
        self.wait_for(sources.iter());
        let claim = |source: &TopicPartition| {
            let row = self.rows.entry(source.partition).or_default();
            row.change_hands(worker);
            Claim {
                source: source.clone(),
                epoch: row.epoch,
                next: row.next,
                last: row.last.filter(|_| row.last_next == row.next),
            }
        };
        sources.iter().map(claim).collect()
    }

    /// Claims again what is still ours; tells whether the batch in question was committed.
    pub(super) fn resolve(&mut self, worker: &str, ranges: &[OffsetRange]) -> Resolution {
        self.wait_for(ranges.iter().map(|range| &range.source));
        let (mut renewed, mut lost) = (Vec::new(), Vec::new());
        for range in ranges {
            match self.rows.get_mut(&range.source.partition) {
                Some(row) if row.epoch == range.epoch => {
                    row.epoch = Epoch(row.epoch.0 + 1);
                    renewed.push((range.source.clone(), row.epoch, row.next));
                }
                _ => lost.push(self.judge(worker, &range.source, range.epoch)),
            }
        }
        let committed = committed(ranges, &renewed);
        let held = renewed.into_iter().map(|(source, epoch, _)| (source, epoch)).collect();
        Resolution { committed, held, lost }
    }

    pub(super) fn probe(&self, worker: &str, held: &[Held]) -> Vec<Fenced> {
        let ours =
            |held: &&Held| self.holder(&held.source).is_some_and(|row| held.is_still_so(&row));
        let not_ours = held.iter().filter(|held| !ours(held));
        not_ours.map(|held| self.fenced(worker, &held.source, held.epoch)).collect()
    }

    fn holder(&self, source: &TopicPartition) -> Option<Holder> {
        self.rows.get(&source.partition).map(|row| Holder {
            source: source.clone(),
            epoch: row.epoch,
            claimed_by: row.claimed_by.clone(),
            next: row.next,
        })
    }

    fn judge(&self, worker: &str, source: &TopicPartition, epoch: Epoch) -> Fenced {
        let after = judge_fence(epoch, worker, self.holder(source).as_ref());
        Fenced { source: source.clone(), epoch, after }
    }

    /// An operator moves a partition: what lies between is meant to take effect again, or never.
    pub(super) fn move_to(&mut self, partition: i32, to: i64, log_end: i64) {
        self.wait_for(std::iter::once(&source(partition)));
        let row = self.rows.entry(partition).or_default();
        let effect = Effect::of(row.next, Offset(to), &(Offset(0)..Offset(log_end)));
        let offsets = |range: Range<i64>| range.map(|offset| (partition, offset));
        for record in offsets(to..to + effect.repeated) {
            self.effects.remove(&record);
            self.skipped.remove(&record);
        }
        self.skipped.extend(offsets(to - effect.skipped..to));
        row.change_hands(OPERATOR);
        row.next = Some(Offset(to));
        row.last = None;
        row.last_next = None;
    }

    /// A replica takes over: what it had not received is gone, lingering transactions with it.
    pub(super) fn fail_over(&mut self, replica: &Self) {
        *self = Self { lingering: Vec::new(), failed_over: true, ..replica.clone() };
    }
}

impl Row {
    /// Whoever held it before is fenced, and their breaker is of no account any more.
    fn change_hands(&mut self, to: &str) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.claim = self.epoch;
        self.claimed_by = to.to_owned();
        self.marks.clear();
        self.held_from = None;
    }
}
