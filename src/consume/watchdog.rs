//! The watch on progress: records of a partition wait, nothing is in their way that we know of, and
//! yet they are not applied. Pure decisions over what the board shows; the clock is an argument.
//!
//! ```text
//! watching --patience--> rebuild the consumer --patience--> give up: fail /livez
//!     ^                        |                               |
//!     +---- it moves again ----+--- it moves, or has a reason -+
//! ```
//!
//! Time is counted in looks: a process that was frozen has not watched meanwhile.
//!
//! **Whose turn it is.** A lane takes what comes, whatever partition it is of, and writes all of it
//! with the next batch. What comes is librdkafka's choice, and it is not fair: under a backlog it
//! may fetch one partition after another to its end. So a partition is not held to stand while
//! another one works off a backlog: a good while ago there were records in its log which it has not
//! reached yet, though it moves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::observe::progress::{PartitionProgress, Progress};
use crate::types::{Offset, TopicPartition};

/// How often to look.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// After a look that comes so late the watch begins anew: the process was frozen, or so short of
/// time that nobody in it could work.
const LATE: Duration = Duration::from_secs(5);
/// This part of the patience is the good while after which there is a backlog.
const BACKLOG: u32 = 4;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Leave the group and join it anew, with a new consumer: these stand.
    Rebuild(Vec<TopicPartition>),
    /// That did not help: let the orchestrator restart the process. These stand; none, if the
    /// group did not take the new consumer in.
    GiveUp(Vec<TopicPartition>),
    /// They go on after all, or there is a reason now why they do not.
    Recovered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Watching,
    Rebuilt,
    GivenUp,
}

/// A partition, as of the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    position: Option<Offset>,
    reasons: u64,
    /// Looks for which it has stood without a known reason.
    stood: u32,
    /// Where the log ended a while ago, and the looks for which that was not reached.
    goal: Option<Offset>,
    short: u32,
}

impl Watched {
    /// The same at the next look.
    fn next(self, seen: &PartitionProgress) -> Self {
        let stands = seen.behind && self.position == seen.position && self.reasons == seen.reasons;
        let reached = self.goal.is_none() || seen.position >= self.goal;
        Self {
            position: seen.position,
            reasons: seen.reasons,
            stood: if stands { self.stood.saturating_add(1) } else { 0 },
            goal: if reached { seen.end } else { self.goal },
            short: if reached { 0 } else { self.short.saturating_add(1) },
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// In looks; zero: off.
    patience: u32,
    stage: Stage,
    looked: Option<Instant>,
    troubles: u64,
    watched: BTreeMap<TopicPartition, Watched>,
    /// Looks for which the group has not taken the rebuilt consumer in.
    outside: u32,
    /// For whom the consumer was rebuilt, and where they stood.
    stood: BTreeMap<TopicPartition, Option<Offset>>,
    /// Looks since then at which nobody stood.
    calm: u32,
}

impl Watchdog {
    pub(super) fn new(patience: Duration) -> Self {
        let looks = patience.as_millis().div_ceil(LOOK.as_millis());
        Self {
            patience: u32::try_from(looks).unwrap_or(u32::MAX),
            stage: Stage::Watching,
            looked: None,
            troubles: 0,
            watched: BTreeMap::new(),
            outside: 0,
            stood: BTreeMap::new(),
            calm: 0,
        }
    }

    /// Looks at the progress made until `now`.
    pub(super) fn look(&mut self, now: Instant, seen: &Progress) -> Option<Act> {
        if self.patience == 0 {
            return None;
        }
        let before = self.looked.replace(now);
        let late = before.is_some_and(|before| now.saturating_duration_since(before) > LATE);
        let troubles = std::mem::replace(&mut self.troubles, seen.troubles) != seen.troubles;
        let excused = late || troubles || seen.hampered;
        let backlog = self.note(seen);
        for watched in self.watched.values_mut() {
            // Who has stood for too long already does not wait for a turn.
            if excused || (backlog && watched.stood < self.patience) {
                watched.stood = 0;
            }
        }
        // A group that never hands out anything again leaves nothing that could be behind.
        let outside = self.stage != Stage::Watching && !seen.joined && !excused;
        self.outside = if outside { self.outside.saturating_add(1) } else { 0 };
        self.decide(seen)
    }

    /// How long each partition that stands has done so.
    pub(super) fn standing(&self) -> BTreeMap<TopicPartition, Duration> {
        let standing = self.watched.iter().filter(|(_, watched)| watched.stood > 0);
        standing.map(|(source, watched)| (source.clone(), LOOK * watched.stood)).collect()
    }

    /// Notes how far each partition has come; true when one of them works off a backlog.
    fn note(&mut self, seen: &Progress) -> bool {
        let mut backlog = false;
        let mut before = std::mem::take(&mut self.watched);
        for partition in &seen.partitions {
            let first = Watched { goal: partition.end, ..Watched::default() };
            let old = before.remove(&partition.source).unwrap_or(first);
            let new = old.next(partition);
            backlog |=
                old.position != new.position && new.short >= (self.patience / BACKLOG).max(1);
            self.watched.insert(partition.source.clone(), new);
        }
        backlog
    }

    fn decide(&mut self, seen: &Progress) -> Option<Act> {
        let too_long = |(source, watched): (&TopicPartition, &Watched)| {
            (watched.stood >= self.patience).then(|| source.clone())
        };
        let standing: Vec<_> = self.watched.iter().filter_map(too_long).collect();
        let stuck = !standing.is_empty() || self.outside >= self.patience;
        let helped = self.stage == Stage::Rebuilt && self.has_helped(seen);
        let (stage, act) = match self.stage {
            Stage::Watching if stuck => {
                self.begin_anew(&standing);
                (Stage::Rebuilt, Some(Act::Rebuild(standing)))
            }
            Stage::Rebuilt if stuck => (Stage::GivenUp, Some(Act::GiveUp(standing))),
            Stage::Rebuilt if helped => (Stage::Watching, None),
            Stage::GivenUp if !stuck => (Stage::Watching, Some(Act::Recovered)),
            same => (same, None),
        };
        self.stage = stage;
        act
    }

    /// Gives everybody time once more, now that the consumer is rebuilt for those who stand.
    fn begin_anew(&mut self, standing: &[TopicPartition]) {
        let position = |source| self.watched.get(source).and_then(|watched| watched.position);
        self.stood = standing.iter().map(|source| (source.clone(), position(source))).collect();
        self.calm = 0;
        self.watched.values_mut().for_each(|watched| watched.stood = 0);
    }

    /// Whether everybody has moved for whom the consumer was rebuilt. A rebuild is itself a reason
    /// for a while, and takes partitions away: only to be calm for long is as good.
    fn has_helped(&mut self, seen: &Progress) -> bool {
        for partition in &seen.partitions {
            let moved = |stood: &Option<Offset>| {
                partition.position.is_some() && partition.position != *stood
            };
            if self.stood.get(&partition.source).is_some_and(moved) {
                self.stood.remove(&partition.source);
            }
        }
        let calm = self.outside == 0 && self.watched.values().all(|watched| watched.stood == 0);
        self.calm = if calm { self.calm.saturating_add(1) } else { 0 };
        self.stood.is_empty() || self.calm >= self.patience
    }
}

#[cfg(test)]
#[path = "watchdog_tests.rs"]
mod tests;
