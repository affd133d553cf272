//! Postgres as the simulation has it: rows under locks, transactions that commit, fail or linger.

use std::collections::{BTreeMap, BTreeSet};

use crate::apply::{
    Applied, Batch, Claim, Fenced, Fingerprint, Held, Holder, OPERATOR, OffsetRange, Outcome,
    Resolution, judge_fence,
};
use crate::types::{Epoch, Offset, TopicPartition};

use super::{failure, source};

/// A row of `source_offsets`.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) next: Option<Offset>,
    epoch: Epoch,
    claimed_by: String,
    last: Option<Fingerprint>,
    last_next: Option<Offset>,
    /// The epoch as the last claim or move made it; renewals to settle a doubt raised it since.
    claim: Epoch,
}

/// What a transaction would store.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    ranges: Vec<OffsetRange>,
    /// Partition and offset of every record.
    records: Vec<(i32, i64)>,
}

/// Committed state. Cloned, it is a replica that lags.
#[derive(Clone, Debug, Default)]
pub(super) struct Database {
    pub(super) rows: BTreeMap<i32, Row>,
    /// The records that took effect: partition and offset.
    pub(super) effects: BTreeSet<(i32, i64)>,
    /// COMMIT was sent, the session is gone, and the server is still at it: the rows are locked.
    lingering: Vec<Transaction>,
    /// Once the tail was lost, nothing can be said about what a member believes.
    failed_over: bool,
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
            fenced.iter().for_each(|range| self.has_a_cause(worker, range));
            let held = fenced.into_iter().map(|range| (&range.source, range.epoch));
            return Outcome::Fenced(held.map(|(s, epoch)| self.judge(worker, s, epoch)).collect());
        }
        let records = batch
            .items
            .iter()
            .map(|item| (batch.ranges[item.range].source.partition, item.record.offset.0))
            .collect();
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
        Outcome::InDoubt(applied, failure(crate::apply::verdict::Verdict::Reconnect))
    }

    fn passes(&self, range: &OffsetRange) -> bool {
        self.rows
            .get(&range.source.partition)
            .is_some_and(|row| row.epoch == range.epoch && row.next == range.from)
    }

    /// A fence keeps a mistake from doing harm, and so would hide it: it must come of a later claim
    /// or move, never of a lane that lost its own thread.
    fn has_a_cause(&self, worker: &str, range: &OffsetRange) {
        let Some(row) = self.rows.get(&range.source.partition) else { return };
        assert!(self.failed_over || range.epoch < row.claim, "{worker}: {range:?} at {row:?}");
    }

    fn commit(&mut self, transaction: Transaction) {
        for range in transaction.ranges {
            if let Some(row) = self.rows.get_mut(&range.source.partition) {
                row.last = range.last.or(row.last.filter(|_| row.last_next == row.next));
                row.next = Some(range.to);
                row.last_next = Some(range.to);
            }
        }
        for record in transaction.records {
            assert!(self.effects.insert(record), "took effect twice: {record:?}");
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
            let row = self.rows.entry(source.partition).or_insert_with(|| Row {
                next: None,
                epoch: Epoch(0),
                claimed_by: String::new(),
                last: None,
                last_next: None,
                claim: Epoch(0),
            });
            row.epoch = Epoch(row.epoch.0 + 1);
            row.claim = row.epoch;
            row.claimed_by = worker.to_owned();
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
        let mut resolution = Resolution { committed: false, held: Vec::new(), lost: Vec::new() };
        for range in ranges {
            match self.rows.get_mut(&range.source.partition) {
                Some(row) if row.epoch == range.epoch => {
                    row.epoch = Epoch(row.epoch.0 + 1);
                    let moved = row.next == Some(range.to) && range.from != Some(range.to);
                    resolution.committed |= moved;
                    resolution.held.push((range.source.clone(), row.epoch));
                }
                _ => resolution.lost.push(self.judge(worker, &range.source, range.epoch)),
            }
        }
        resolution
    }

    pub(super) fn probe(&self, worker: &str, held: &[Held]) -> Vec<Fenced> {
        let ours = |held: &&Held| {
            self.rows
                .get(&held.source.partition)
                .is_some_and(|row| row.epoch == held.epoch && row.next == held.next)
        };
        let not_ours = held.iter().filter(|held| !ours(held));
        not_ours.map(|held| self.judge(worker, &held.source, held.epoch)).collect()
    }

    fn judge(&self, worker: &str, source: &TopicPartition, epoch: Epoch) -> Fenced {
        let holder = self.rows.get(&source.partition).map(|row| Holder {
            source: source.clone(),
            epoch: row.epoch,
            claimed_by: row.claimed_by.clone(),
            next: row.next,
        });
        let after = judge_fence(epoch, worker, holder.as_ref());
        Fenced { source: source.clone(), epoch, after }
    }

    /// An operator moves a partition: what lies beyond is meant to take effect (again) or not.
    pub(super) fn move_to(&mut self, partition: i32, to: Offset) {
        self.wait_for(std::iter::once(&source(partition)));
        let Some(row) = self.rows.get_mut(&partition) else { return };
        row.next = Some(to);
        row.epoch = Epoch(row.epoch.0 + 1);
        row.claim = row.epoch;
        row.last = None;
        row.last_next = None;
        row.claimed_by = OPERATOR.to_owned();
        self.effects.retain(|(p, offset)| *p != partition || *offset < to.0);
    }

    /// A replica takes over: what it had not received is gone, lingering transactions with it.
    pub(super) fn fail_over(&mut self, replica: &Self) {
        *self = Self { lingering: Vec::new(), failed_over: true, ..replica.clone() };
    }
}
