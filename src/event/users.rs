//! What events do to a user: folding many into one change.
//!
//! A batch may hold thousands of events of one hot user. Folded first, they cost one row write. The
//! fold is an algebra of its own: it does not know the stored row, only that there is one or none,
//! and so every case that depends on it ("if the user is not deleted") stays open in the change
//! until Postgres closes it. [`model`](super::model) says the same rules one event at a time,
//! and property tests hold the two against each other.

use time::OffsetDateTime;

use super::envelope::{Event, EventKind};
use super::ids::Sequence;
pub use super::members::{Members, Patch};

/// Whether an event may still change the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Fresh,
    /// The user is already at that version or beyond: the event only counts.
    Stale,
}

/// Tells fresh events of one user from stale ones. An event without a sequence is always fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceGate {
    last: Option<Sequence>,
}

impl SequenceGate {
    /// Starts from the stored version; `None` when there is none, or no such user.
    pub fn new(last: Option<Sequence>) -> Self {
        Self { last }
    }

    /// Judges the next event in order and remembers its version if it is fresh.
    pub fn admit(&mut self, sequence: Option<Sequence>) -> Verdict {
        if sequence.is_some() {
            // `None` orders before every version.
            if sequence <= self.last {
                return Verdict::Stale;
            }
            self.last = sequence;
        }
        Verdict::Fresh
    }
}

/// What becomes of the profile. A user who is not stored yet counts as live with an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileChange {
    /// It stays as it is.
    Keep,
    /// If the stored user is live: the patch applies and `updated_at` becomes `at`.
    /// If deleted: nothing.
    Merge {
        /// What changes.
        patch: Patch,
        /// Time of the last update.
        at: OffsetDateTime,
    },
    /// The user is live with exactly these members, and `updated_at` becomes `at`.
    Replace {
        /// The whole profile, without nulls.
        members: Members,
        /// Time of the creation, or of the last update after it.
        at: OffsetDateTime,
    },
    /// The user is deleted and the profile empty.
    Empty {
        /// Time of the last deletion.
        deleted_at: OffsetDateTime,
        /// What changes before it did to `updated_at`, which a deletion itself leaves alone.
        updated: Touch,
    },
}

/// What becomes of `updated_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// It stays as it is.
    Keep,
    /// It becomes this if the stored user is live.
    IfLive(OffsetDateTime),
    /// It becomes this.
    Always(OffsetDateTime),
}

impl ProfileChange {
    /// What becomes of `updated_at`.
    pub fn touch(&self) -> Touch {
        match *self {
            Self::Keep => Touch::Keep,
            Self::Merge { at, .. } => Touch::IfLive(at),
            Self::Replace { at, .. } => Touch::Always(at),
            Self::Empty { updated, .. } => updated,
        }
    }

    /// This change and then another, as one.
    fn then(self, next: Self) -> Self {
        match (self, next) {
            (this, Self::Keep) => this,
            (Self::Keep, next) => next,
            (_, next @ Self::Replace { .. }) => next,
            (Self::Merge { patch: first, .. }, Self::Merge { patch, at }) => {
                Self::Merge { patch: first.then(patch), at }
            }
            (Self::Replace { mut members, .. }, Self::Merge { patch, at }) => {
                members.apply(patch);
                Self::Replace { members, at }
            }
            (this @ Self::Empty { .. }, Self::Merge { .. }) => this,
            (this, Self::Empty { deleted_at, updated }) => {
                Self::Empty { deleted_at, updated: this.then_touch(updated) }
            }
        }
    }

    /// What this change and then a touch do to `updated_at`. The touch asks whether the user is
    /// live after this change, the answer asks whether the user was live before it.
    fn then_touch(&self, next: Touch) -> Touch {
        match (self, next) {
            (_, Touch::Keep) | (Self::Empty { .. }, Touch::IfLive(_)) => self.touch(),
            (Self::Replace { .. }, Touch::IfLive(at)) => Touch::Always(at),
            (Self::Keep | Self::Merge { .. }, Touch::IfLive(_)) | (_, Touch::Always(_)) => next,
        }
    }
}

/// What one or more events, in their order, do to one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserChange {
    /// How many events: adds to `event_count`. At least 1.
    pub events: i64,
    /// Time of the first event in order: becomes `created_at` if the user is not stored yet.
    pub first_at: OffsetDateTime,
    /// The greatest time: `last_event_at` becomes this unless it is greater.
    pub last_at: OffsetDateTime,
    /// The version the user reaches; `None` leaves it as it is.
    pub sequence: Option<Sequence>,
    /// What becomes of `profile`, `deleted_at` and `updated_at`.
    pub profile: ProfileChange,
}

impl UserChange {
    /// What one fresh event does.
    pub fn of(event: &Event) -> Self {
        let at = event.time;
        let profile = match &event.kind {
            EventKind::Created => {
                ProfileChange::Replace { members: Members::of(&event.data).without_nulls(), at }
            }
            EventKind::Updated => ProfileChange::Merge { patch: Patch::of(&event.data), at },
            EventKind::Deleted => ProfileChange::Empty { deleted_at: at, updated: Touch::Keep },
            EventKind::Activity(_) => ProfileChange::Keep,
        };
        Self { sequence: event.sequence, profile, ..Self::stale(event) }
    }

    /// What one stale event does: it only counts.
    pub fn stale(event: &Event) -> Self {
        Self {
            events: 1,
            first_at: event.time,
            last_at: event.time,
            sequence: None,
            profile: ProfileChange::Keep,
        }
    }

    /// This change and then another of the same user, as one. Associative.
    pub fn then(self, next: Self) -> Self {
        Self {
            events: self.events + next.events,
            first_at: self.first_at,
            last_at: self.last_at.max(next.last_at),
            sequence: next.sequence.or(self.sequence),
            profile: self.profile.then(next.profile),
        }
    }
}

#[cfg(test)]
mod tests;
