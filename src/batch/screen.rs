//! The breaker at work in a lane: every batch is looked at before it is written, and remembered
//! once it was.

use tokio::time::Instant;

use crate::apply::{Batch, Content, Item, ReadyBatch};
use crate::batch::Notice;
use crate::batch::breaker::{Mark, Poisoned};
use crate::batch::lane::Lane;
use crate::types::{Offset, TopicPartition};

impl Lane {
    /// What is to be written next, without what the breaker holds back.
    pub(super) fn next_batch(&mut self) -> Option<ReadyBatch> {
        loop {
            let mut batch = match self.waiting.pop_front() {
                Some(batch) => batch.into(),
                None => self.gathered()?,
            };
            self.screen(&mut batch);
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }

    fn gathered(&mut self) -> Option<ReadyBatch> {
        let (batch, trigger) = self.gathering.take_ready(Instant::now(), self.draining)?;
        self.metrics.batch(trigger, batch.items.len());
        for range in &batch.ranges {
            if let Some(owned) = self.owned.get_mut(&range.source) {
                owned.writing_since = owned.gathered_since.take();
            }
        }
        Some(batch)
    }

    /// Cuts out of the batch what would trip a breaker. Everything before the first dead letter
    /// is written, so that an operator who moves on from there passes over no good record.
    fn screen(&mut self, batch: &mut ReadyBatch) {
        if !batch.items.iter().any(|item| Mark::of(&item.content) == Mark::Bad) {
            return;
        }
        for (source, poisoned) in self.poisoned(batch) {
            let oldest = since(batch, &source, poisoned.from);
            batch.change().cut(&source, poisoned.from);
            self.hold_back(&source);
            let Some(owned) = self.owned.get_mut(&source) else { continue };
            owned.held_back = true;
            // What was gathered behind the cut is gone, and younger.
            owned.gathered_since = oldest.or(owned.writing_since);
            if !batch.ranges.iter().any(|range| range.source == source) {
                owned.writing_since = None;
                self.board.pending(&source, owned.gathered_since);
            }
            let generation = owned.generation;
            self.notify(Notice::Poisoned(generation, source, poisoned));
        }
    }

    /// The partitions of a batch whose breaker trips over it.
    fn poisoned(&self, batch: &Batch) -> Vec<(TopicPartition, Poisoned)> {
        let trip = |(index, range): (usize, &crate::apply::OffsetRange)| {
            let owned = self.owned.get(&range.source).filter(|o| o.epoch == range.epoch)?;
            let items = || batch.items.iter().filter(move |item| item.range == index);
            let (at, trip) = owned.breaker.look(items().map(|item| Mark::of(&item.content)))?;
            let first = items().find(|item| Mark::of(&item.content) == Mark::Bad)?;
            let Content::DeadLetter(last) = &items().nth(at)?.content else { return None };
            let reason = last.rejection.reason.code();
            let from = Offset(first.record.offset.0);
            Some((range.source.clone(), Poisoned { trip, reason, from }))
        };
        batch.ranges.iter().enumerate().filter_map(trip).collect()
    }

    /// Drops what waits behind the cut. It was never stored, and is read again after a new claim.
    fn hold_back(&mut self, source: &TopicPartition) {
        self.gathering.drop_partition(source);
        self.drop_from_waiting(source);
    }

    /// Lets the breakers know what was stored.
    pub(super) fn remember(&mut self, batch: &Batch) {
        for item in &batch.items {
            let range = &batch.ranges[item.range];
            if let Some(owned) = self.owned.get_mut(&range.source)
                && owned.epoch == range.epoch
            {
                owned.breaker.remember(Mark::of(&item.content));
            }
        }
    }
}

/// Timestamp (ms) of the first record that is held back.
fn since(batch: &Batch, source: &TopicPartition, from: Offset) -> Option<i64> {
    let of = |item: &&Item| {
        &batch.ranges[item.range].source == source && Offset(item.record.offset.0) == from
    };
    let record = batch.items.iter().find(of)?.record;
    Some(record.timestamp_ms).filter(|ms| *ms >= 0)
}
