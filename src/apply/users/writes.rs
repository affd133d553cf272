//! The changes of a batch, written by one statement.

use std::borrow::Cow;

use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::apply::column::Column;
use crate::apply::prepared::Statement;
use crate::event::{ProfileChange, Sequence, Touch, UserChange, UserId};

/// Changes by how they combine with what is stored, each kind sorted by user. A user is in exactly
/// one of them.
///
/// ON CONFLICT sees only the columns of `users`, not how a change wants them combined, so each
/// kind is an INSERT of its own; the common one, events that leave the profile alone, is also the
/// cheapest. They are parts of one statement, for a round trip is worth hundreds of rows.
#[derive(Default)]
pub(super) struct Writes<'a> {
    count: Rows<'a>,
    merge: Rows<'a>,
    trim: Rows<'a>,
    /// The members that each user of `trim` loses.
    trimmed: Map<String, Value>,
    replace: Rows<'a>,
    delete: Rows<'a>,
}

impl<'a> Writes<'a> {
    /// `changes` are sorted by user.
    pub(super) fn of(changes: &'a [(&'a UserId, UserChange)]) -> Self {
        let mut writes = Self::default();
        for (user, change) in changes {
            writes.add(user, change);
        }
        writes
    }

    fn add(&mut self, user: &'a UserId, change: &'a UserChange) {
        match &change.profile {
            ProfileChange::Keep => self.count.push(user, change, None),
            ProfileChange::Merge { patch, .. } => {
                let keys: Vec<&str> = patch.remove().collect();
                let rows = if keys.is_empty() { &mut self.merge } else { &mut self.trim };
                rows.push(user, change, None);
                rows.profiles.push(patch.set().to_json());
                if !keys.is_empty() {
                    self.trimmed.insert(user.as_str().to_owned(), keys.into());
                }
            }
            ProfileChange::Replace { members, .. } => {
                self.replace.push(user, change, None);
                self.replace.profiles.push(members.to_json());
            }
            // Touched whatever the stored row says (a created and a deleted event in one batch):
            // the same as a replacement by nothing.
            ProfileChange::Empty { deleted_at, updated } => match updated {
                Touch::Always(_) => {
                    self.replace.push(user, change, Some(*deleted_at));
                    self.replace.profiles.push("{}".into());
                }
                Touch::Keep | Touch::IfLive(_) => self.delete.push(user, change, Some(*deleted_at)),
            },
        }
    }

    fn is_empty(&self) -> bool {
        let all = [&self.count, &self.merge, &self.trim, &self.replace, &self.delete];
        all.iter().all(|rows| rows.users.is_empty())
    }

    /// The statement, or nothing when nothing is to be written. UNNEST in the select list streams
    /// its rows; in FROM it would first store them all.
    ///
    /// `counted`: events that leave the profile alone. `merged`: `user.updated`, members replaced
    /// one by one, unless the stored user is deleted; `trimmed`: the same where a null takes members
    /// out. `replaced`: `user.created`, the profile is what the event says and the user lives (or,
    /// when a deletion followed in the same batch, is deleted). The rest is `user.deleted`: emptied;
    /// an update before it in the same batch shows in `updated_at` only where the stored user was
    /// not deleted already. In which order Postgres runs them does not matter.
    pub(super) fn statement(self) -> Option<Statement> {
        if self.is_empty() {
            return None;
        }
        let Self { count, merge, trim, trimmed, replace, delete } = self;
        Some(sqlx::query!(
            r#"WITH counted AS (
                 INSERT INTO users AS u (user_id, sequence, created_at, last_event_at, event_count)
                 SELECT UNNEST($1::text[]), UNNEST($2::bigint[]), UNNEST($3::timestamptz[]),
                        UNNEST($4::timestamptz[]), UNNEST($5::bigint[])
                 ON CONFLICT (user_id) DO UPDATE
                 SET sequence = COALESCE(excluded.sequence, u.sequence),
                     last_event_at = GREATEST(u.last_event_at, excluded.last_event_at),
                     event_count = u.event_count + excluded.event_count
               ), merged AS (
                 INSERT INTO users AS u (user_id, sequence, created_at, last_event_at, event_count,
                                         updated_at, profile)
                 SELECT UNNEST($6::text[]), UNNEST($7::bigint[]), UNNEST($8::timestamptz[]),
                        UNNEST($9::timestamptz[]), UNNEST($10::bigint[]),
                        UNNEST($11::timestamptz[]), UNNEST($12::text[])::jsonb
                 ON CONFLICT (user_id) DO UPDATE
                 SET sequence = COALESCE(excluded.sequence, u.sequence),
                     last_event_at = GREATEST(u.last_event_at, excluded.last_event_at),
                     event_count = u.event_count + excluded.event_count,
                     updated_at = CASE WHEN u.deleted_at IS NULL THEN excluded.updated_at
                                       ELSE u.updated_at END,
                     profile = CASE WHEN u.deleted_at IS NULL THEN u.profile || excluded.profile
                                    ELSE u.profile END
               ), trimmed AS (
                 INSERT INTO users AS u (user_id, sequence, created_at, last_event_at, event_count,
                                         updated_at, profile)
                 SELECT UNNEST($13::text[]), UNNEST($14::bigint[]), UNNEST($15::timestamptz[]),
                        UNNEST($16::timestamptz[]), UNNEST($17::bigint[]),
                        UNNEST($18::timestamptz[]), UNNEST($19::text[])::jsonb
                 ON CONFLICT (user_id) DO UPDATE
                 SET sequence = COALESCE(excluded.sequence, u.sequence),
                     last_event_at = GREATEST(u.last_event_at, excluded.last_event_at),
                     event_count = u.event_count + excluded.event_count,
                     updated_at = CASE WHEN u.deleted_at IS NULL THEN excluded.updated_at
                                       ELSE u.updated_at END,
                     profile = CASE WHEN u.deleted_at IS NULL
                                    THEN (u.profile || excluded.profile) - ARRAY(
                                      SELECT jsonb_array_elements_text($20::jsonb -> u.user_id))
                                    ELSE u.profile END
               ), replaced AS (
                 INSERT INTO users AS u (user_id, sequence, created_at, last_event_at, event_count,
                                         updated_at, deleted_at, profile)
                 SELECT UNNEST($21::text[]), UNNEST($22::bigint[]), UNNEST($23::timestamptz[]),
                        UNNEST($24::timestamptz[]), UNNEST($25::bigint[]),
                        UNNEST($26::timestamptz[]), UNNEST($27::timestamptz[]),
                        UNNEST($28::text[])::jsonb
                 ON CONFLICT (user_id) DO UPDATE
                 SET sequence = COALESCE(excluded.sequence, u.sequence),
                     last_event_at = GREATEST(u.last_event_at, excluded.last_event_at),
                     event_count = u.event_count + excluded.event_count,
                     updated_at = excluded.updated_at,
                     deleted_at = excluded.deleted_at,
                     profile = excluded.profile
               )
               INSERT INTO users AS u (user_id, sequence, created_at, last_event_at, event_count,
                                       updated_at, deleted_at)
               SELECT UNNEST($29::text[]), UNNEST($30::bigint[]), UNNEST($31::timestamptz[]),
                      UNNEST($32::timestamptz[]), UNNEST($33::bigint[]),
                      UNNEST($34::timestamptz[]), UNNEST($35::timestamptz[])
               ON CONFLICT (user_id) DO UPDATE
               SET sequence = COALESCE(excluded.sequence, u.sequence),
                   last_event_at = GREATEST(u.last_event_at, excluded.last_event_at),
                   event_count = u.event_count + excluded.event_count,
                   updated_at = CASE WHEN u.deleted_at IS NULL
                                     THEN COALESCE(excluded.updated_at, u.updated_at)
                                     ELSE u.updated_at END,
                   deleted_at = excluded.deleted_at,
                   profile = '{}'"#,
            Column(&count.users) as _,
            Column(&count.sequences) as _,
            Column(&count.created) as _,
            Column(&count.last) as _,
            Column(&count.events) as _,
            Column(&merge.users) as _,
            Column(&merge.sequences) as _,
            Column(&merge.created) as _,
            Column(&merge.last) as _,
            Column(&merge.events) as _,
            Column(&merge.updated) as _,
            Column(&merge.profiles) as _,
            Column(&trim.users) as _,
            Column(&trim.sequences) as _,
            Column(&trim.created) as _,
            Column(&trim.last) as _,
            Column(&trim.events) as _,
            Column(&trim.updated) as _,
            Column(&trim.profiles) as _,
            Value::Object(trimmed),
            Column(&replace.users) as _,
            Column(&replace.sequences) as _,
            Column(&replace.created) as _,
            Column(&replace.last) as _,
            Column(&replace.events) as _,
            Column(&replace.updated) as _,
            Column(&replace.deleted) as _,
            Column(&replace.profiles) as _,
            Column(&delete.users) as _,
            Column(&delete.sequences) as _,
            Column(&delete.created) as _,
            Column(&delete.last) as _,
            Column(&delete.events) as _,
            Column(&delete.updated) as _,
            Column(&delete.deleted) as _,
        ))
    }
}

/// Columns of one kind of change, grown together row by row.
#[derive(Default)]
struct Rows<'a> {
    users: Vec<&'a str>,
    sequences: Vec<Option<i64>>,
    created: Vec<OffsetDateTime>,
    last: Vec<OffsetDateTime>,
    events: Vec<i64>,
    updated: Vec<Option<OffsetDateTime>>,
    deleted: Vec<Option<OffsetDateTime>>,
    profiles: Vec<Cow<'a, str>>,
}

impl<'a> Rows<'a> {
    fn push(&mut self, user: &'a UserId, change: &UserChange, deleted: Option<OffsetDateTime>) {
        self.users.push(user.as_str());
        self.sequences.push(change.sequence.map(Sequence::get));
        self.created.push(change.first_at);
        self.last.push(change.last_at);
        self.events.push(change.events);
        self.updated.push(match change.profile.touch() {
            Touch::Keep => None,
            Touch::IfLive(at) | Touch::Always(at) => Some(at),
        });
        self.deleted.push(deleted);
    }
}
