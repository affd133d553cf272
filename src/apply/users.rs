//! The projection: stale events filtered, the rest folded per user, one row write per user.

use std::collections::HashMap;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::apply::batch::Batch;
use crate::apply::ledger::{self, Fresh};
use crate::event::{
    Event, ProfileChange, Sequence, SequenceGate, Touch, UserChange, UserId, Verdict,
};

/// Which users are locked before the first is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockFirst {
    /// Those whose version decides: enough while one user's events keep to one partition.
    Versioned,
    /// All, in one order: where they do not, a lane that locked some and then writes others would
    /// meet one that does so crosswise, and each deadlock costs a second to be noticed.
    All,
}

/// Applies the fresh events of a batch to `users`; answers how many of them were stale.
pub(super) async fn project(
    conn: &mut PgConnection,
    batch: &Batch,
    fresh: &Fresh,
    lock_first: LockFirst,
) -> sqlx::Result<u64> {
    let events: Vec<&Event> =
        ledger::events(batch).filter(|(i, _)| fresh.contains(*i)).map(|(_, e)| e).collect();
    let last = lock_sequences(conn, &events, lock_first).await?;
    let (changes, stale) = fold(&events, last);
    let mut writes = Writes::default();
    for (user, change) in &changes {
        writes.add(user, change);
    }
    writes.count.count_only(conn).await?;
    writes.merge.merge(conn).await?;
    writes.replace.replace(conn).await?;
    writes.delete.delete(conn).await?;
    writes.remove.remove(conn).await?;
    Ok(stale)
}

/// Folds events in arrival order into one change per user, sorted by user.
fn fold<'a>(
    events: &[&'a Event],
    last: HashMap<&'a UserId, Option<Sequence>>,
) -> (Vec<(&'a UserId, UserChange)>, u64) {
    let mut gates: HashMap<&UserId, SequenceGate> =
        last.into_iter().map(|(user, last)| (user, SequenceGate::new(last))).collect();
    let mut stale = 0;
    let mut change = |event: &Event| {
        let verdict = match gates.get_mut(&event.user_id) {
            Some(gate) => gate.admit(event.sequence),
            None => Verdict::Fresh,
        };
        match verdict {
            Verdict::Fresh => UserChange::of(event),
            Verdict::Stale => {
                stale += 1;
                UserChange::stale(event)
            }
        }
    };
    // Sorting keeps the order of a user's events.
    let mut events = events.to_vec();
    events.sort_by_key(|event| &event.user_id);
    let of_one_user = events.chunk_by(|one, other| one.user_id == other.user_id);
    let changes = of_one_user.filter_map(|events| {
        let folded = events.iter().map(|event| change(event)).reduce(UserChange::then)?;
        Some((&events[0].user_id, folded))
    });
    (changes.collect(), stale)
}

/// Locks the users whose fresh events carry a `sequence`, and reads where theirs stands.
///
/// A user who does not exist yet has no row to lock, so an empty one is inserted first: whoever
/// comes second waits for it. Without events that carry a sequence, nothing is read.
async fn lock_sequences<'a>(
    conn: &mut PgConnection,
    events: &[&'a Event],
    lock_first: LockFirst,
) -> sqlx::Result<HashMap<&'a UserId, Option<Sequence>>> {
    let mut first_seen: HashMap<&UserId, OffsetDateTime> = HashMap::new();
    let mut wanted: Vec<&UserId> = Vec::new();
    for event in events {
        first_seen.entry(&event.user_id).or_insert(event.time);
        if event.sequence.is_some() || lock_first == LockFirst::All {
            wanted.push(&event.user_id);
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    let mut last = HashMap::with_capacity(wanted.len());
    // The second round reads rows that another writer inserted between our look and our insert.
    while !wanted.is_empty() {
        let found = lock_existing(conn, &wanted).await?;
        wanted.retain(|user| match found.get(user.as_str()) {
            Some(sequence) => {
                last.insert(*user, *sequence);
                false
            }
            None => true,
        });
        let inserted = insert_empty(conn, &wanted, &first_seen).await?;
        wanted.retain(|user| {
            let ours = inserted.iter().any(|id| id == user.as_str());
            if ours {
                last.insert(*user, None);
            }
            !ours
        });
    }
    Ok(last)
}

async fn lock_existing(
    conn: &mut PgConnection,
    users: &[&UserId],
) -> sqlx::Result<HashMap<String, Option<Sequence>>> {
    let ids: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
    let rows = sqlx::query!(
        "SELECT user_id, sequence FROM users WHERE user_id = ANY($1::text[])
         ORDER BY user_id FOR UPDATE",
        &ids as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.user_id, row.sequence.and_then(Sequence::new))).collect())
}

async fn insert_empty(
    conn: &mut PgConnection,
    users: &[&UserId],
    first_seen: &HashMap<&UserId, OffsetDateTime>,
) -> sqlx::Result<Vec<String>> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(&str, OffsetDateTime)> = users
        .iter()
        .filter_map(|user| first_seen.get(user).map(|time| (user.as_str(), *time)))
        .collect();
    let (ids, times): (Vec<&str>, Vec<OffsetDateTime>) = rows.into_iter().unzip();
    sqlx::query_scalar!(
        "INSERT INTO users (user_id, created_at, last_event_at, event_count)
         SELECT w.user_id, w.at, w.at, 0 FROM UNNEST($1::text[], $2::timestamptz[]) AS w(user_id, at)
         ON CONFLICT DO NOTHING RETURNING user_id",
        &ids as _,
        &times,
    )
    .fetch_all(conn)
    .await
}

/// The changes of a batch by the statement they need, each sorted by user.
///
/// ON CONFLICT sees only the columns of `users`, not how a change wants them combined, so each
/// kind of change is a statement of its own; the common one, events that leave the profile alone,
/// is also the cheapest. A user is in exactly one of the first four.
#[derive(Default)]
struct Writes<'a> {
    count: Rows<'a>,
    merge: Rows<'a>,
    replace: Rows<'a>,
    delete: Rows<'a>,
    remove: Removals<'a>,
}

impl<'a> Writes<'a> {
    fn add(&mut self, user: &'a UserId, change: &'a UserChange) {
        match &change.profile {
            ProfileChange::Keep => self.count.push(user, change, None),
            ProfileChange::Merge { patch, .. } => {
                self.merge.push(user, change, None);
                self.merge.profiles.push(patch.set().to_json());
                let keys: Vec<&str> = patch.remove().collect();
                if !keys.is_empty() {
                    self.remove.users.push(user.as_str());
                    self.remove.keys.push(keys.into());
                }
            }
            ProfileChange::Replace { members, .. } => {
                self.replace.push(user, change, None);
                self.replace.profiles.push(members.to_json());
            }
            // Touched whatever the stored row says (a created and a deleted event in one batch):
            // the same statement as a replacement by nothing.
            ProfileChange::Empty { deleted_at, updated } => match updated {
                Touch::Always(_) => {
                    self.replace.push(user, change, Some(*deleted_at));
                    self.replace.profiles.push("{}".into());
                }
                Touch::Keep | Touch::IfLive(_) => self.delete.push(user, change, Some(*deleted_at)),
            },
        }
    }
}

/// Columns of one statement, grown together row by row.
#[derive(Default)]
struct Rows<'a> {
    users: Vec<&'a str>,
    sequences: Vec<Option<i64>>,
    created: Vec<OffsetDateTime>,
    last: Vec<OffsetDateTime>,
    events: Vec<i64>,
    updated: Vec<Option<OffsetDateTime>>,
    deleted: Vec<Option<OffsetDateTime>>,
    profiles: Vec<String>,
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

    /// Events that leave the profile alone.
    async fn count_only(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            r#"INSERT INTO users AS u (user_id, sequence, created_at, last_event_at, event_count)
               SELECT UNNEST($1::text[]), UNNEST($2::bigint[]), UNNEST($3::timestamptz[]),
                      UNNEST($4::timestamptz[]), UNNEST($5::bigint[])
               ON CONFLICT (user_id) DO UPDATE
               SET sequence = COALESCE(excluded.sequence, u.sequence),
                   last_event_at = GREATEST(u.last_event_at, excluded.last_event_at),
                   event_count = u.event_count + excluded.event_count"#,
            &self.users as _,
            &self.sequences as _,
            &self.created,
            &self.last,
            &self.events,
        )
        .execute(conn)
        .await
        .map(drop)
    }

    /// `user.updated`: members replaced one by one, unless the stored user is deleted.
    async fn merge(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            r#"INSERT INTO users AS u (user_id, sequence, created_at, last_event_at, event_count,
                                       updated_at, profile)
               SELECT UNNEST($1::text[]), UNNEST($2::bigint[]), UNNEST($3::timestamptz[]),
                      UNNEST($4::timestamptz[]), UNNEST($5::bigint[]), UNNEST($6::timestamptz[]),
                      UNNEST($7::text[])::jsonb
               ON CONFLICT (user_id) DO UPDATE
               SET sequence = COALESCE(excluded.sequence, u.sequence),
                   last_event_at = GREATEST(u.last_event_at, excluded.last_event_at),
                   event_count = u.event_count + excluded.event_count,
                   updated_at = CASE WHEN u.deleted_at IS NULL THEN excluded.updated_at
                                     ELSE u.updated_at END,
                   profile = CASE WHEN u.deleted_at IS NULL THEN u.profile || excluded.profile
                                  ELSE u.profile END"#,
            &self.users as _,
            &self.sequences as _,
            &self.created,
            &self.last,
            &self.events,
            &self.updated as _,
            &self.profiles,
        )
        .execute(conn)
        .await
        .map(drop)
    }

    /// `user.created`: the profile is what the event says, and the user lives (or, when a deletion
    /// followed in the same batch, is deleted).
    async fn replace(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            r#"INSERT INTO users AS u (user_id, sequence, created_at, last_event_at, event_count,
                                       updated_at, deleted_at, profile)
               SELECT UNNEST($1::text[]), UNNEST($2::bigint[]), UNNEST($3::timestamptz[]),
                      UNNEST($4::timestamptz[]), UNNEST($5::bigint[]), UNNEST($6::timestamptz[]),
                      UNNEST($7::timestamptz[]), UNNEST($8::text[])::jsonb
               ON CONFLICT (user_id) DO UPDATE
               SET sequence = COALESCE(excluded.sequence, u.sequence),
                   last_event_at = GREATEST(u.last_event_at, excluded.last_event_at),
                   event_count = u.event_count + excluded.event_count,
                   updated_at = excluded.updated_at,
                   deleted_at = excluded.deleted_at,
                   profile = excluded.profile"#,
            &self.users as _,
            &self.sequences as _,
            &self.created,
            &self.last,
            &self.events,
            &self.updated as _,
            &self.deleted as _,
            &self.profiles,
        )
        .execute(conn)
        .await
        .map(drop)
    }

    /// `user.deleted`: emptied. An update before it in the same batch shows in `updated_at` only
    /// where the stored user was not deleted already.
    async fn delete(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            r#"INSERT INTO users AS u (user_id, sequence, created_at, last_event_at, event_count,
                                       updated_at, deleted_at)
               SELECT UNNEST($1::text[]), UNNEST($2::bigint[]), UNNEST($3::timestamptz[]),
                      UNNEST($4::timestamptz[]), UNNEST($5::bigint[]), UNNEST($6::timestamptz[]),
                      UNNEST($7::timestamptz[])
               ON CONFLICT (user_id) DO UPDATE
               SET sequence = COALESCE(excluded.sequence, u.sequence),
                   last_event_at = GREATEST(u.last_event_at, excluded.last_event_at),
                   event_count = u.event_count + excluded.event_count,
                   updated_at = CASE WHEN u.deleted_at IS NULL
                                     THEN COALESCE(excluded.updated_at, u.updated_at)
                                     ELSE u.updated_at END,
                   deleted_at = excluded.deleted_at,
                   profile = '{}'"#,
            &self.users as _,
            &self.sequences as _,
            &self.created,
            &self.last,
            &self.events,
            &self.updated as _,
            &self.deleted as _,
        )
        .execute(conn)
        .await
        .map(drop)
    }
}

/// Members taken out by a null: the rare rest of a merge, which an upsert cannot carry.
#[derive(Default)]
struct Removals<'a> {
    users: Vec<&'a str>,
    keys: Vec<serde_json::Value>,
}

impl Removals<'_> {
    async fn remove(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            r#"UPDATE users u
               SET profile = u.profile - ARRAY(SELECT jsonb_array_elements_text(w.keys))
               FROM UNNEST($1::text[], $2::jsonb[]) AS w(user_id, keys)
               WHERE u.user_id = w.user_id AND u.deleted_at IS NULL"#,
            &self.users as _,
            &self.keys,
        )
        .execute(conn)
        .await
        .map(drop)
    }
}
