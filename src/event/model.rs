//! The executable form of the contract on users: one event at a time, as plainly as possible.
//!
//! Nothing in the worker runs on this. Property tests, integration tests and the checker compare
//! what the worker wrote with what this says.

use time::OffsetDateTime;

use super::envelope::{Event, EventKind};
use super::ids::Sequence;
use super::users::{Members, Patch, ProfileChange, Touch, UserChange, Verdict};

/// A row of `users`, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// The profile; empty while deleted.
    pub profile: Members,
    /// The version, once a producer has counted one.
    pub sequence: Option<Sequence>,
    /// Time of the first event processed, whichever it was.
    pub created_at: OffsetDateTime,
    /// Time of the last creation or update that took effect.
    pub updated_at: Option<OffsetDateTime>,
    /// Time of the deletion, while deleted.
    pub deleted_at: Option<OffsetDateTime>,
    /// The greatest time of all events.
    pub last_event_at: OffsetDateTime,
    /// How many events, stale ones too.
    pub event_count: i64,
}

impl UserRow {
    /// A user of whom nothing is known but that an event happened at this time.
    fn new(at: OffsetDateTime) -> Self {
        Self {
            profile: Members::default(),
            sequence: None,
            created_at: at,
            updated_at: None,
            deleted_at: None,
            last_event_at: at,
            event_count: 0,
        }
    }
}

/// What one event makes of a user who is stored, or is not.
pub fn apply_one(row: Option<UserRow>, event: &Event, verdict: Verdict) -> UserRow {
    let mut row = row.unwrap_or_else(|| UserRow::new(event.time));
    row.event_count += 1;
    row.last_event_at = row.last_event_at.max(event.time);
    if verdict == Verdict::Stale {
        return row;
    }
    if event.sequence.is_some() {
        row.sequence = event.sequence;
    }
    match event.kind {
        EventKind::Created => {
            row.profile = Members::of(&event.data).without_nulls();
            row.deleted_at = None;
            row.updated_at = Some(event.time);
        }
        EventKind::Updated if row.deleted_at.is_none() => {
            row.profile.apply(Patch::of(&event.data));
            row.updated_at = Some(event.time);
        }
        EventKind::Deleted => {
            row.profile = Members::default();
            row.deleted_at = Some(event.time);
        }
        EventKind::Updated | EventKind::Activity(_) => {}
    }
    row
}

impl UserChange {
    /// What this change makes of a user who is stored, or is not: what the upsert in SQL must do.
    pub fn apply_to(self, row: Option<UserRow>) -> UserRow {
        let mut row = row.unwrap_or_else(|| UserRow::new(self.first_at));
        let live = row.deleted_at.is_none();
        row.event_count += self.events;
        row.last_event_at = row.last_event_at.max(self.last_at);
        row.sequence = self.sequence.or(row.sequence);
        match self.profile.touch() {
            Touch::IfLive(at) if live => row.updated_at = Some(at),
            Touch::Always(at) => row.updated_at = Some(at),
            Touch::IfLive(_) | Touch::Keep => {}
        }
        match self.profile {
            ProfileChange::Merge { patch, .. } if live => row.profile.apply(patch),
            ProfileChange::Merge { .. } | ProfileChange::Keep => {}
            ProfileChange::Replace { members, .. } => {
                row.profile = members;
                row.deleted_at = None;
            }
            ProfileChange::Empty { deleted_at, .. } => {
                row.profile = Members::default();
                row.deleted_at = Some(deleted_at);
            }
        }
        row
    }
}
