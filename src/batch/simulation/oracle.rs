//! What must hold besides: the breaker, told apart from the one at work, and what drained lanes and
//! their notices claim to be stored.

use crate::batch::breaker::{Mark, by_looking_back};
use crate::batch::lane::Owned;
use crate::types::{Epoch, Offset, TopicPartition};

use super::database::Database;
use super::log::Log;
use super::{BREAKER, MAX_EVENTS};

impl Database {
    /// Nothing may be stored that the breaker has to hold back, nor anything behind what it held.
    pub(super) fn was_let_through(&self, partition: i32) {
        let Some(row) = self.rows.get(&partition).filter(|_| !self.failed_over) else { return };
        assert!(row.held_from.is_none_or(|from| row.next <= Some(from)), "held back: {row:?}");
        if row.marks.contains(&Mark::Bad) {
            assert_eq!(by_looking_back(BREAKER, &row.marks), None, "let through: {row:?}");
        }
    }

    /// A breaker tripped: what was stored under its claim and the batch that begins (or goes on)
    /// at `from` must give it cause.
    pub(super) fn has_cause_to_trip(
        &mut self,
        source: &TopicPartition,
        claim: Epoch,
        from: Offset,
        log: &Log,
    ) {
        if self.failed_over {
            return;
        }
        let row = self.rows.get_mut(&source.partition).filter(|row| row.claim == claim);
        let Some(row) = row else { return };
        assert!(row.next.is_none_or(|next| next <= from), "stored beyond {from}: {row:?}");
        let before = log.records.range(row.next.map_or(0, |next| next.0)..from.0);
        let batch = log.records.range(from.0..).take(MAX_EVENTS);
        let unstored = before.chain(batch).map(|(_, (nature, _))| nature.mark());
        let marks: Vec<Mark> = row.marks.iter().copied().chain(unstored).collect();
        assert!(by_looking_back(BREAKER, &marks).is_some(), "tripped at {from}: {row:?} {marks:?}");
        row.held_from = Some(from);
    }

    /// What a lane took under a claim that still stands is stored, before it ends.
    pub(super) fn has_all_of(&self, source: &TopicPartition, owned: &Owned) {
        let row = self.rows.get(&source.partition).filter(|row| row.claim <= owned.epoch);
        let Some(row) = row.filter(|_| !owned.held_back && !self.failed_over) else { return };
        assert_eq!(row.next, owned.next, "left behind: {source} {row:?}");
    }

    /// What is mirrored to Kafka was in Postgres at least once.
    pub(super) fn has_seen(&self, offsets: &[(TopicPartition, Offset)]) {
        for (source, to) in offsets {
            let seen = self.failed_over || self.reached.contains(&(source.partition, *to));
            assert!(seen, "never stored: {source} {to}");
        }
    }
}
