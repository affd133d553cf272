//! What `users` must hold: recomputed one event at a time from what was acknowledged, in the order
//! of each partition. The contract's rules once more; nothing here is the worker's.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::events::{Content, Kind, Meant};
use super::ledger::{Ledger, Position};

/// A row of `users`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Whether the user's events are in more than one partition: then any of them may have been
    /// the first.
    pub crosses: bool,
    /// The highest version.
    pub sequence: Option<i64>,
    /// Time of the first event.
    pub created_at: OffsetDateTime,
    /// Time of the last change of the profile.
    pub updated_at: Option<OffsetDateTime>,
    /// Time of the deletion.
    pub deleted_at: Option<OffsetDateTime>,
    /// The latest time.
    pub last_event_at: OffsetDateTime,
    /// How many different events.
    pub event_count: i64,
    /// The profile.
    pub profile: Map<String, Value>,
}

/// What was acknowledged, thought to its end.
#[derive(Debug, Default)]
pub struct Expected {
    /// By user id.
    pub users: BTreeMap<String, Row>,
    /// Where the events are that came too late to change a profile.
    pub stale: BTreeSet<Position>,
}

impl Expected {
    /// Goes through everything.
    pub fn of(ledger: &Ledger) -> Self {
        let mut expected = Self::default();
        let mut seen = HashSet::new();
        for (position, content) in ledger.iter() {
            let Content::Event(event) = content else { continue };
            if !seen.insert(event.id) {
                continue;
            }
            let row = expected
                .users
                .entry(event.user.name())
                .or_insert_with(|| Row::unknown(event.user.crosses(), event.time));
            if row.apply(event) == Effect::Stale {
                expected.stale.insert(position);
            }
        }
        expected
    }
}

#[derive(PartialEq, Eq)]
enum Effect {
    Applied,
    Stale,
}

impl Row {
    fn unknown(crosses: bool, now: OffsetDateTime) -> Self {
        Self {
            crosses,
            sequence: None,
            created_at: now,
            updated_at: None,
            deleted_at: None,
            last_event_at: now,
            event_count: 0,
            profile: Map::new(),
        }
    }

    fn apply(&mut self, event: &Meant) -> Effect {
        self.event_count += 1;
        self.last_event_at = self.last_event_at.max(event.time);
        if let Some(version) = event.sequence {
            if self.sequence.is_some_and(|last| version <= last) {
                return Effect::Stale;
            }
            self.sequence = Some(version);
        }
        match event.kind {
            Kind::Viewed => {}
            Kind::Created => {
                self.profile.clear();
                self.merge(event);
                self.deleted_at = None;
            }
            // Only a creation brings a user back.
            Kind::Updated if self.deleted_at.is_some() => {}
            Kind::Updated => self.merge(event),
            Kind::Deleted => {
                self.profile.clear();
                self.deleted_at = Some(event.time);
            }
        }
        Effect::Applied
    }

    fn merge(&mut self, event: &Meant) {
        self.updated_at = Some(event.time);
        let Value::Object(members) = event.data() else { return };
        for (name, value) in members {
            match value {
                Value::Null => drop(self.profile.remove(&name)),
                value => drop(self.profile.insert(name, value)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use time::macros::datetime;
    use uuid::Uuid;

    use super::super::events::User;
    use super::*;

    /// A ledger with these events of one user, a second apart.
    fn of(events: &[(Kind, u32, Option<i64>)]) -> (Row, usize) {
        let mut ledger = Ledger::default();
        for (offset, (kind, number, sequence)) in (0..).zip(events) {
            let event = Meant {
                id: Uuid::from_u128(offset as u128 + 1),
                time: datetime!(2026-01-01 0:00 UTC) + time::Duration::seconds(offset),
                user: User::AtHome(1),
                kind: *kind,
                sequence: *sequence,
                number: *number,
            };
            let event = Content::Event(Arc::new(event));
            assert!(ledger.note((0, 2 * offset), event.clone()).is_ok());
            // Once more: no effect.
            assert!(ledger.note((0, 2 * offset + 1), event).is_ok());
        }
        let mut expected = Expected::of(&ledger);
        (expected.users.remove("home-0001").into_iter().next().into_row(), expected.stale.len())
    }

    trait IntoRow {
        fn into_row(self) -> Row;
    }

    impl IntoRow for Option<Row> {
        fn into_row(self) -> Row {
            self.unwrap_or_else(|| Row::unknown(false, datetime!(1970-01-01 0:00 UTC)))
        }
    }

    fn second(second: u8) -> Option<OffsetDateTime> {
        Some(datetime!(2026-01-01 0:00 UTC) + time::Duration::seconds(second.into()))
    }

    #[test]
    fn the_contracts_rules_hold() {
        use Kind::{Created, Deleted, Updated, Viewed};
        let (row, stale) = of(&[
            (Created, 8, None),    // name n8, a 8
            (Updated, 4, Some(5)), // a gone, b 4
            (Updated, 6, Some(5)), // stale
            (Viewed, 1, Some(7)),
        ]);
        assert_eq!((row.event_count, row.sequence, stale), (4, Some(7), 1));
        assert_eq!(Value::Object(row.profile), json!({"name": "n8", "b": 4}));
        assert_eq!((row.updated_at, row.deleted_at), (second(1), None));
        assert_eq!((Some(row.created_at), Some(row.last_event_at)), (second(0), second(3)));

        let (row, _) = of(&[(Created, 8, None), (Deleted, 1, None), (Updated, 6, Some(1))]);
        assert_eq!((row.deleted_at, row.updated_at), (second(1), second(0)));
        assert!(row.profile.is_empty() && row.sequence == Some(1));
        let (row, _) = of(&[(Deleted, 1, None), (Created, 8, None)]);
        assert_eq!((row.deleted_at, row.updated_at), (None, second(1)));
    }
}
