//! What the worker has yet to apply, by partition: so that the producer can wait for it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::commands::produce::Delivered;

/// Bytes the worker may be behind in one partition. The embedded broker forgets beyond 5 MiB, and
/// another one may be on its way to it.
const MOST_BEHIND: usize = 3 << 20;
/// What a record takes beside key and value: headers and the broker's own.
const OVERHEAD: usize = 256;

/// Records delivered and not yet applied.
#[derive(Debug)]
pub struct Backlog(Mutex<State>);

#[derive(Debug)]
struct State {
    partitions: Vec<Partition>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Partition {
    /// Offset and size of what waits, oldest first.
    waiting: VecDeque<(i64, usize)>,
    bytes: usize,
    applied: i64,
}

/// How far things are, over all partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records acknowledged by the broker.
    pub produced: u64,
    /// Records the worker has passed, by its position in Postgres.
    pub applied: u64,
}

impl Totals {
    /// Records not yet passed.
    pub fn lag(&self) -> u64 {
        self.produced.saturating_sub(self.applied)
    }
}

impl Backlog {
    /// Nothing waits.
    pub fn new(partitions: i32) -> Self {
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        Self(Mutex::new(State { partitions, totals: Totals::default() }))
    }

    /// A record has arrived at the broker.
    pub fn delivered(&self, record: Delivered) {
        let mut state = self.lock();
        state.totals.produced += 1;
        let Some(partition) = state.partition(record.partition) else { return };
        let bytes = record.bytes + OVERHEAD;
        if record.offset >= partition.applied {
            partition.waiting.push_back((record.offset, bytes));
            partition.bytes += bytes;
        }
    }

    /// The worker's position in a partition: everything before it is applied.
    pub fn applied(&self, partition: i32, next_offset: i64) {
        let mut state = self.lock();
        let Some(partition) = state.partition(partition) else { return };
        while let Some((_, bytes)) = partition.waiting.pop_front_if(|(at, _)| *at < next_offset) {
            partition.bytes -= bytes;
        }
        let advance = next_offset.saturating_sub(partition.applied);
        partition.applied = next_offset;
        state.totals.applied = state.totals.applied.saturating_add_signed(advance);
    }

    /// Whether the producer must wait.
    pub fn is_full(&self) -> bool {
        self.lock().partitions.iter().any(|partition| partition.bytes > MOST_BEHIND)
    }

    /// How far things are.
    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here can leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn partition(&mut self, partition: i32) -> Option<&mut Partition> {
        self.partitions.get_mut(usize::try_from(partition).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(partition: i32, offset: i64, bytes: usize) -> Delivered {
        Delivered { partition, offset, bytes, timestamp_ms: None }
    }

    #[test]
    fn it_is_full_while_one_partition_is_far_behind() {
        let backlog = Backlog::new(2);
        for offset in 0..3 {
            backlog.delivered(delivered(1, offset, 1 << 20));
        }
        assert!(backlog.is_full());
        assert_eq!(backlog.totals(), Totals { produced: 3, applied: 0 });
        backlog.applied(0, 0);
        backlog.applied(1, 2);
        assert!(!backlog.is_full());
        assert_eq!(backlog.totals(), Totals { produced: 3, applied: 2 });
        assert_eq!(backlog.totals().lag(), 1);
    }

    #[test]
    fn an_acknowledgement_may_come_after_the_worker_was_quicker() {
        let backlog = Backlog::new(1);
        backlog.applied(0, 10);
        backlog.delivered(delivered(0, 9, 4 << 20));
        assert!(!backlog.is_full());
        backlog.delivered(delivered(0, 10, 4 << 20));
        assert!(backlog.is_full());
    }
}
