//! The account of what was produced, written from the broker's acknowledgements.

use std::collections::BTreeMap;

use anyhow::ensure;

use super::events::Content;

/// Partition and offset.
pub type Position = (i32, i64);

/// Every record the broker has acknowledged, by its position.
#[derive(Clone, Debug, Default)]
pub struct Ledger(BTreeMap<Position, Content>);

impl Ledger {
    /// Writes one down.
    ///
    /// # Errors
    /// The broker gave this position to another record before.
    pub fn note(&mut self, at: Position, content: Content) -> anyhow::Result<()> {
        let (partition, offset) = at;
        let before = self.0.insert(at, content);
        ensure!(before.is_none(), "the broker gave offset {offset} of [{partition}] twice");
        Ok(())
    }

    /// Takes one out, as if it had never been acknowledged: for tests of the checker.
    pub fn forget(&mut self, at: Position) -> Option<Content> {
        self.0.remove(&at)
    }

    /// In the order of each partition.
    pub fn iter(&self) -> impl Iterator<Item = (Position, &Content)> {
        self.0.iter().map(|(at, content)| (*at, content))
    }

    /// What is at a position.
    pub fn get(&self, at: Position) -> Option<&Content> {
        self.0.get(&at)
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
