//! The assignment: what this worker may read, and how far each partition has come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use metrics::Counter;

use crate::apply::Claim;
use crate::batch::Generation;
use crate::consume::start::Start;
use crate::types::{Epoch, Offset, TopicPartition};

/// How far a partition has come.
///
/// ```text
/// Claiming -> Locating -> Ready -> Reading
///     ^                             | | |
///     +------ its log is in doubt --+ | +-> Halted
///     +--------- Fenced <-------------+
/// ```
#[derive(Debug)]
pub(super) enum Phase {
    /// A lane was asked to claim it in Postgres.
    Claiming,
    /// Claimed; the broker is asked where the log begins and ends.
    Locating { claim: Claim, ask_again: Option<Instant> },
    /// It is known where to begin; librdkafka has yet to be told.
    Ready { start: Start, first_ever: bool },
    /// Records flow. `recheck`: the log's ends were asked for again, because librdkafka stopped
    /// fetching somewhere.
    Reading { start: Start, recheck: Option<Recheck> },
    /// Another worker claimed it since.
    Fenced { since: Instant },
    /// It must not be read until somebody acts.
    Halted,
}

/// Whether the log still holds where we were.
#[derive(Debug)]
pub(super) struct Recheck {
    pub(super) at: Offset,
    pub(super) ask_again: Option<Instant>,
}

/// A partition assigned to this worker.
pub(super) struct Partition {
    pub(super) source: TopicPartition,
    pub(super) generation: Generation,
    pub(super) lane: usize,
    /// The claim's epoch, once there is one.
    pub(super) epoch: Option<Epoch>,
    pub(super) phase: Phase,
    /// librdkafka's `assign` was called for it.
    pub(super) assigned: bool,
    /// The next offset to hand to the lane.
    pub(super) next: Offset,
    pub(super) consumed: Counter,
}

impl Partition {
    /// The offset librdkafka is to fetch next, if it is known and to be read.
    pub(super) fn fetch_from(&self) -> Option<Offset> {
        match &self.phase {
            Phase::Ready { start, .. } => Some(start.fetch),
            // Until the first record was compared, it has to come again.
            Phase::Reading { start, .. } if start.check.is_some() => Some(start.fetch),
            Phase::Reading { .. } => Some(self.next),
            Phase::Claiming | Phase::Locating { .. } | Phase::Fenced { .. } | Phase::Halted => None,
        }
    }
}

/// All partitions assigned, found by topic and number as a message names them. Topics are few: to
/// compare their names takes less than to hash one.
#[derive(Default)]
pub(super) struct Assignment {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, Partition>>,
    generations: u64,
}

impl Assignment {
    /// The next generation: never given out before.
    pub(super) fn next_generation(&mut self) -> Generation {
        self.generations += 1;
        Generation(self.generations)
    }

    pub(super) fn insert(&mut self, partition: Partition) {
        let TopicPartition { topic, partition: number } = partition.source.clone();
        self.topics.entry(topic).or_default().insert(number, partition);
    }

    pub(super) fn remove(&mut self, source: &TopicPartition) -> Option<Partition> {
        self.topics.get_mut(&source.topic)?.remove(&source.partition)
    }

    pub(super) fn get(&self, source: &TopicPartition) -> Option<&Partition> {
        self.topics.get(&source.topic)?.get(&source.partition)
    }

    pub(super) fn get_mut(&mut self, source: &TopicPartition) -> Option<&mut Partition> {
        self.find(&source.topic, source.partition)
    }

    pub(super) fn find(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        self.topics.get_mut(topic)?.get_mut(&partition)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.topics.values().flat_map(BTreeMap::values)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.topics.values_mut().flat_map(BTreeMap::values_mut)
    }

    /// The partitions for which `wanted` says so.
    pub(super) fn which(&self, wanted: impl Fn(&Partition) -> bool) -> Vec<TopicPartition> {
        self.iter().filter(|p| wanted(p)).map(|p| p.source.clone()).collect()
    }

    /// The lane with the fewest partitions: a fixed rule such as `partition % lanes` would give
    /// all of them to one lane when Kafka hands this worker every second partition.
    pub(super) fn least_loaded(&self, lanes: usize) -> usize {
        let mut load = vec![0usize; lanes];
        self.iter().for_each(|p| load[p.lane] += 1);
        (0..lanes).min_by_key(|lane| load[*lane]).unwrap_or(0)
    }
}
