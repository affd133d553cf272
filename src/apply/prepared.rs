//! A batch's statements, made before its transaction begins.

use std::ops::Deref;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use crate::apply::batch::Batch;
use crate::apply::{ledger, users};
#[cfg(test)]
use crate::types::RecordOffset;
use crate::types::{Epoch, TopicPartition};

/// A checked statement with its columns encoded: it borrows nothing of the batch.
pub(super) type Statement = Query<'static, Postgres, PgArguments>;

/// A batch on its way to Postgres, with its statements if there was time to make them. Whoever
/// changes the batch loses them, so that they always say what it says.
pub struct ReadyBatch {
    batch: Batch,
    prepared: Option<Prepared>,
}

impl From<Batch> for ReadyBatch {
    fn from(batch: Batch) -> Self {
        Self { batch, prepared: None }
    }
}

impl Deref for ReadyBatch {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        &self.batch
    }
}

impl ReadyBatch {
    /// The batch, to be changed.
    pub fn change(&mut self) -> &mut Batch {
        self.prepared = None;
        &mut self.batch
    }

    /// Only the batch.
    pub fn into_batch(self) -> Batch {
        self.batch
    }

    /// Moves a partition's epoch, which the fence reads, and nothing that is prepared.
    pub fn renew(&mut self, source: &TopicPartition, epoch: Epoch) {
        self.batch.renew(source, epoch);
    }

    /// Makes the statements, unless they are there already, or cannot be.
    pub fn prepare(&mut self) {
        if self.prepared.is_none() {
            self.prepared = Prepared::of(&self.batch);
        }
    }

    /// Whether its statements are there.
    pub fn is_prepared(&self) -> bool {
        self.prepared.is_some()
    }

    /// Whether its statements, if any, are those of its records.
    #[cfg(test)]
    pub(crate) fn agrees(&self) -> bool {
        self.prepared.as_ref().is_none_or(|prepared| prepared.of == self.batch.positions())
    }

    pub(super) fn take_prepared(&mut self) -> Option<Prepared> {
        self.prepared.take()
    }
}

/// What is to be written of a batch when none of its events was seen before, which is nearly
/// always so. Folding, sorting and encoding a full batch takes as long as a few statements, so it
/// is done while Postgres is busy with the batch before. The fence is not part of it: claims may
/// change until the last moment.
pub(super) struct Prepared {
    /// The insert into the ledger; nothing for a batch without events.
    pub(super) ledger: Option<Statement>,
    pub(super) users: Users,
    /// The records it was made of.
    #[cfg(test)]
    of: Vec<(TopicPartition, RecordOffset)>,
}

/// What is to be written to `users`.
pub(super) enum Users {
    /// This, if anything.
    Statement(Option<Statement>),
    /// What `sequence` makes of it: the stored ones must be locked and read first.
    AfterReading,
}

impl Prepared {
    /// `None` when the batch holds an event twice, so that not all can be new.
    fn of(batch: &Batch) -> Option<Self> {
        let ledger = ledger::insert_of_all(batch)?;
        Some(Self {
            ledger,
            users: users::write_of_all(batch),
            #[cfg(test)]
            of: batch.positions(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::batch::{Content, Fingerprint, Item, OffsetRange};
    use crate::types::Offset;

    #[test]
    fn a_batch_that_is_changed_loses_its_statements_and_one_under_a_new_epoch_keeps_them() {
        let source = TopicPartition::new("t", 0);
        let record = Fingerprint { offset: RecordOffset(0), timestamp_ms: -1, checksum: 0 };
        let epoch = Epoch(1);
        let range = OffsetRange {
            source: source.clone(),
            epoch,
            from: None,
            to: Offset(1),
            last: Some(record),
        };
        let items = vec![Item { range: 0, record, content: Content::Skipped }];
        let mut batch = ReadyBatch::from(Batch { items, ranges: vec![range] });
        batch.prepare();
        batch.renew(&source, Epoch(2));
        assert_eq!(batch.ranges[0].epoch, Epoch(2));
        assert!(batch.is_prepared());
        batch.change().drop_partition(&source);
        assert!(!batch.is_prepared());
    }
}
