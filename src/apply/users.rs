//! The projection: stale events filtered, the rest folded per user, one row write per user.

mod writes;

use std::collections::HashMap;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::apply::batch::Batch;
use crate::apply::ledger::{self, Fresh};
use crate::apply::prepared::{Statement, Users};
use crate::apply::users::writes::Writes;
use crate::event::{Event, Sequence, SequenceGate, UserChange, UserId, Verdict};

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
    write(conn, Writes::of(&changes).statement()).await?;
    Ok(stale)
}

/// Runs what [`write_of_all`] prepared.
pub(super) async fn write(
    conn: &mut PgConnection,
    statement: Option<Statement>,
) -> sqlx::Result<()> {
    match statement {
        Some(statement) => statement.execute(conn).await.map(drop),
        None => Ok(()),
    }
}

/// What is to be written when all events are fresh.
pub(super) fn write_of_all(batch: &Batch) -> Users {
    let events: Vec<&Event> = ledger::events(batch).map(|(_, event)| event).collect();
    if events.iter().any(|event| event.sequence.is_some()) {
        return Users::AfterReading;
    }
    let (changes, _) = fold(&events, HashMap::new());
    Users::Statement(Writes::of(&changes).statement())
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
    let events = by_user(events);
    let mut changes = Vec::with_capacity(events.len());
    for of_one_user in events.chunk_by(|one, other| one.user_id == other.user_id) {
        let folded = of_one_user.iter().map(|event| change(event)).reduce(UserChange::then);
        changes.extend(folded.map(|folded| (&of_one_user[0].user_id, folded)));
    }
    (changes, stale)
}

/// Sorted by user, each user's events in their order.
fn by_user<'a>(events: &[&'a Event]) -> Vec<&'a Event> {
    // The beginning of an id decides nearly always, and lies at hand.
    let mut keyed: Vec<_> = events.iter().map(|event| (event.user_id.prefix(), *event)).collect();
    keyed.sort_by(|(one, event), (other, than)| {
        one.cmp(other).then_with(|| event.user_id.cmp(&than.user_id))
    });
    keyed.into_iter().map(|(_, event)| event).collect()
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
    let is_wanted = |event: &&&Event| event.sequence.is_some() || lock_first == LockFirst::All;
    let mut wanted: Vec<&UserId> =
        events.iter().filter(is_wanted).map(|event| &event.user_id).collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    wanted.sort_unstable();
    wanted.dedup();
    let mut first_seen: HashMap<&UserId, OffsetDateTime> = HashMap::new();
    for event in events {
        first_seen.entry(&event.user_id).or_insert(event.time);
    }
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
