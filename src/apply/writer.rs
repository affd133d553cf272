//! One lane's writer: its connection, and what it can be asked to do with it.

use std::collections::HashSet;

use sqlx::PgConnection;
use time::Date;

use crate::apply::batch::{Batch, Content, OffsetRange};
use crate::apply::claims::{self, Claim, Fenced, Holder};
use crate::apply::dead_letters::{self, Caps, DeadLetter};
use crate::apply::ledger::{self, Fresh, Inserted};
use crate::apply::months::Checked;
use crate::apply::outcome::{Applied, ApplyError, Outcome, Resolution};
use crate::apply::prepared::{Prepared, ReadyBatch, Users};
use crate::apply::session::{Session, SessionOptions};
use crate::apply::users::{self, LockFirst};
use crate::apply::verdict::{self, Verdict};
use crate::failpoint::{self, Guard, Point};
use crate::types::{Epoch, Offset, TopicPartition};

/// What a writer needs to know.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// How to reach Postgres.
    pub session: SessionOptions,
    /// Consumer group, the first part of the key of `source_offsets`.
    pub group: String,
    /// This process's name in `claimed_by`.
    pub worker: String,
    /// How much of a dead letter is kept.
    pub caps: Caps,
}

/// A partition as this worker believes its row to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The partition.
    pub source: TopicPartition,
    /// Our claim.
    pub epoch: Epoch,
    /// Where our last claim found it or our last commit left it.
    pub next: Option<Offset>,
}

impl Held {
    /// Whether its row is as we left it.
    pub(crate) fn is_still_so(&self, row: &Holder) -> bool {
        (&row.source, row.epoch, row.next) == (&self.source, self.epoch, self.next)
    }
}

/// What writing a batch, up to its COMMIT, came to.
enum Written {
    All(Applied),
    /// These partitions are no longer under our newest claim.
    Fenced(Vec<TopicPartition>),
    /// An event is in the ledger already, which was not expected.
    Duplicate,
}

/// After a deadlock, so many batches lock all their users before they write.
const CAREFUL_BATCHES: u32 = 1000;
/// After a duplicate, so many batches expect another one: retries and rewinds come in crowds, and a
/// batch that meets one unprepared is written twice.
const WARY_BATCHES: u32 = 100;

/// A connection with a memory of which ledger months exist.
pub struct Writer {
    pub(super) options: WriterOptions,
    pub(super) session: Session,
    pub(super) months: HashSet<Date>,
    careful: u32,
    wary: u32,
}

impl Writer {
    /// A writer that has not connected yet.
    pub fn new(options: WriterOptions) -> Self {
        let session = Session::new(options.session.clone());
        Self { options, session, months: HashSet::new(), careful: 0, wary: 0 }
    }

    /// Whether a batch is best prepared ahead: after a duplicate or a deadlock it is written
    /// otherwise for a while.
    pub fn expects_new(&self) -> bool {
        self.wary == 0 && self.careful == 0
    }

    /// Applies a batch in one transaction, by its statements where they were prepared.
    ///
    /// Records whose month was dropped for its age become dead letters before anything is written:
    /// whoever judges dead letters is to see them first.
    pub async fn apply(&mut self, batch: &mut ReadyBatch) -> Outcome {
        match self.ensure_months(batch).await {
            Ok(Checked::AsItWas) => {}
            Ok(Checked::Changed) => return Outcome::Changed,
            Err(error) => return self.failed(error).await,
        }
        if self.wary == 0 {
            batch.prepare();
        }
        let mut prepared = batch.take_prepared().filter(|_| self.wary == 0);
        let applied = loop {
            match self.write(batch, prepared.take()).await {
                Ok(Written::All(applied)) => break applied,
                Ok(Written::Fenced(fenced)) => return self.judge_fenced(batch, fenced).await,
                // The second time nothing is prepared, which takes duplicates as they come.
                Ok(Written::Duplicate) => self.session.roll_back().await,
                Err(error) => return self.failed(error).await,
            }
        };
        failpoint::reach(Point::BeforeCommit);
        match self.session.commit().await {
            Ok(()) => {
                failpoint::reach(Point::AfterCommit);
                self.careful = self.careful.saturating_sub(1);
                self.wary = match (applied.duplicates, applied.applied) {
                    (0, 0) => self.wary,
                    (0, _) => self.wary.saturating_sub(1),
                    _ => WARY_BATCHES,
                };
                Outcome::Applied(applied)
            }
            Err(error) if verdict::surely_not_committed(&error) => {
                self.failed(ApplyError::at("commit")(error)).await
            }
            Err(source) => {
                self.session.discard();
                let verdict = Verdict::Reconnect;
                Outcome::InDoubt(applied, ApplyError { verdict, step: "commit", source })
            }
        }
    }

    /// Everything between BEGIN and COMMIT.
    async fn write(
        &mut self,
        batch: &Batch,
        prepared: Option<Prepared>,
    ) -> Result<Written, ApplyError> {
        let lock_first = if self.careful > 0 { LockFirst::All } else { LockFirst::Versioned };
        let mut conn = self.session.begin().await.map_err(ApplyError::at("begin"))?;
        failpoint::reach(Point::BeforeFence);
        let fenced = claims::fence(conn, &self.options.group, &batch.ranges)
            .await
            .map_err(ApplyError::at("fence"))?;
        if !fenced.is_empty() {
            return Ok(Written::Fenced(fenced));
        }
        failpoint::reach(Point::AfterFence);
        if failpoint::is_off(Guard::Transaction) {
            self.session.commit().await.map_err(ApplyError::at("half way"))?;
            conn = self.session.begin().await.map_err(ApplyError::at("half way"))?;
        }
        let inserted = insert(conn, batch, prepared).await.map_err(ApplyError::at("ledger"))?;
        let Some((fresh, users)) = inserted else { return Ok(Written::Duplicate) };
        let stale = match users {
            Users::Statement(statement) if lock_first == LockFirst::Versioned => {
                users::write(conn, statement).await.map(|()| 0)
            }
            _ => users::project(conn, batch, &fresh, lock_first).await,
        };
        let stale = stale.map_err(ApplyError::at("users"))?;
        dead_letters::insert(conn, batch).await.map_err(ApplyError::at("dead letters"))?;
        Ok(Written::All(count(batch, &fresh, stale)))
    }

    /// Claims partitions for this worker, fencing every earlier owner.
    ///
    /// # Errors
    /// When nothing was claimed, or that is unknown: claiming again is safe either way.
    pub async fn claim(&mut self, sources: &[TopicPartition]) -> Result<Vec<Claim>, ApplyError> {
        let claimed = async {
            let conn = self.session.begin().await?;
            let claims =
                claims::claim(conn, &self.options.group, &self.options.worker, sources).await?;
            self.session.commit().await?;
            Ok(claims)
        };
        let result = claimed.await.map_err(ApplyError::at("claim"));
        self.cleaned(result).await
    }

    /// Decides a batch in doubt, and renews the claims that still hold.
    ///
    /// # Errors
    /// When the answer is still unknown: ask again.
    pub async fn resolve(&mut self, ranges: &[OffsetRange]) -> Result<Resolution, ApplyError> {
        let renewed = async {
            let conn = self.session.begin().await?;
            let renewed = claims::renew(conn, &self.options.group, ranges).await?;
            self.session.commit().await?;
            Ok(renewed)
        };
        let result = renewed.await.map_err(ApplyError::at("resolve"));
        let renewed = self.cleaned(result).await?;
        let gone: Vec<_> = ranges
            .iter()
            .filter(|range| !renewed.iter().any(|(source, ..)| *source == range.source))
            .map(|range| (range.source.clone(), range.epoch))
            .collect();
        let lost = self.judge(&gone, |_| true).await.map_err(ApplyError::at("resolve"));
        let lost = self.cleaned(lost).await?;
        let committed = committed(ranges, &renewed) && !failpoint::is_off(Guard::Resolve);
        Ok(Resolution { committed, held: epochs(renewed), lost })
    }

    /// Asks the table about partitions held, and answers those whose row no longer carries our
    /// epoch, or stands elsewhere than we left it: notices while nothing flows what an operator
    /// moved or a failover lost, and proves that Postgres answers.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn probe(&mut self, held: &[Held]) -> Result<Vec<Fenced>, ApplyError> {
        let claims: Vec<_> = held.iter().map(|held| (held.source.clone(), held.epoch)).collect();
        let moved = |holder: Option<&Holder>| {
            !holder.is_some_and(|row| held.iter().any(|held| held.is_still_so(row)))
        };
        let result = self.judge(&claims, moved).await.map_err(ApplyError::at("probe"));
        self.cleaned(result).await
    }

    /// Turns the only record of a batch into a dead letter, or answers false when there is not
    /// exactly one event to blame.
    pub fn refuse(&self, batch: &mut Batch, error: &ApplyError) -> bool {
        let blamed = match batch.items.as_mut_slice() {
            one @ [_] => one,
            all if failpoint::is_off(Guard::Bisect) => all,
            _ => return false,
        };
        let mut refused = false;
        for item in blamed {
            match std::mem::replace(&mut item.content, Content::Skipped) {
                Content::Event(_, raw) => {
                    let sqlstate = verdict::sqlstate(&error.source);
                    let message = verdict::describe(&error.source);
                    let letter = DeadLetter::refused(raw, sqlstate, &message, self.options.caps);
                    item.content = Content::DeadLetter(Box::new(letter));
                    refused = true;
                }
                other => item.content = other,
            }
        }
        refused
    }

    async fn judge_fenced(&mut self, batch: &Batch, fenced: Vec<TopicPartition>) -> Outcome {
        self.session.roll_back().await;
        let held: Vec<_> = batch
            .ranges
            .iter()
            .filter(|range| fenced.contains(&range.source))
            .map(|range| (range.source.clone(), range.epoch))
            .collect();
        match self.judge(&held, |_| true).await {
            Ok(judged) => Outcome::Fenced(judged),
            Err(error) => self.failed(ApplyError::at("fence")(error)).await,
        }
    }

    /// Judges the partitions for which `wanted` says so, given their rows.
    async fn judge(
        &mut self,
        held: &[(TopicPartition, Epoch)],
        wanted: impl Fn(Option<&Holder>) -> bool,
    ) -> sqlx::Result<Vec<Fenced>> {
        let sources: Vec<_> = held.iter().map(|(source, _)| source.clone()).collect();
        let conn = self.session.begin().await?;
        let holders = claims::holders(conn, &self.options.group, &sources).await?;
        self.session.commit().await?;
        Ok(held
            .iter()
            .filter_map(|(source, epoch)| {
                let holder = holders.iter().find(|holder| &holder.source == source);
                let after = claims::judge_fence(*epoch, &self.options.worker, holder);
                wanted(holder).then(|| Fenced { source: source.clone(), epoch: *epoch, after })
            })
            .collect())
    }

    async fn failed(&mut self, error: ApplyError) -> Outcome {
        self.clean_up(&error).await;
        Outcome::Failed(error)
    }

    pub(super) async fn cleaned<T>(
        &mut self,
        result: Result<T, ApplyError>,
    ) -> Result<T, ApplyError> {
        if let Err(error) = &result {
            self.clean_up(error).await;
        }
        result
    }

    /// Leaves no transaction open, and no connection that cannot be trusted.
    async fn clean_up(&mut self, error: &ApplyError) {
        if verdict::is_deadlock(&error.source) {
            self.careful = CAREFUL_BATCHES;
        }
        match error.verdict {
            Verdict::Outage | Verdict::Misconfigured | Verdict::Reconnect | Verdict::Bug => {
                self.session.discard();
            }
            Verdict::MissingMonth => {
                // Somebody dropped a month we remember.
                self.months.clear();
                self.session.roll_back().await;
            }
            Verdict::Retry | Verdict::Smaller | Verdict::Data => self.session.roll_back().await,
        }
    }
}

/// Inserts the events into the ledger: as prepared, or else those that are missing. Answers which
/// are fresh, and what to do about the users; `None` when an event was there against expectation.
async fn insert(
    conn: &mut PgConnection,
    batch: &Batch,
    prepared: Option<Prepared>,
) -> sqlx::Result<Option<(Fresh, Users)>> {
    let Some(Prepared { ledger, users, .. }) = prepared else {
        let fresh = ledger::insert_missing(conn, batch).await?;
        return Ok(Some((fresh, Users::AfterReading)));
    };
    let inserted = match ledger {
        Some(insert) => ledger::insert_all(conn, insert).await?,
        None => Inserted::All,
    };
    Ok((inserted == Inserted::All).then_some((Fresh::All, users)))
}

/// Compares what the table says with where the batch began and would have ended.
///
/// One transaction moved all offsets or none, so one partition still held decides for all. When
/// none is held any more the batch counts as not committed: its next owner reads on from the truth.
pub(crate) fn committed(
    ranges: &[OffsetRange],
    renewed: &[(TopicPartition, Epoch, Option<Offset>)],
) -> bool {
    renewed.iter().any(|(source, _, next)| {
        ranges.iter().any(|r| &r.source == source && *next == Some(r.to) && r.from != Some(r.to))
    })
}

fn epochs(renewed: Vec<(TopicPartition, Epoch, Option<Offset>)>) -> Vec<(TopicPartition, Epoch)> {
    renewed.into_iter().map(|(source, epoch, _)| (source, epoch)).collect()
}

fn count(batch: &Batch, fresh: &ledger::Fresh, stale: u64) -> Applied {
    let mut counts = Applied { stale, ..Applied::default() };
    for (index, item) in batch.items.iter().enumerate() {
        match &item.content {
            Content::Event(..) if fresh.contains(index) => counts.applied += 1,
            Content::Event(..) => counts.duplicates += 1,
            Content::DeadLetter(letter) => {
                *counts.dead_letters.entry(letter.rejection.reason.code()).or_default() += 1;
            }
            Content::Skipped => counts.skipped += 1,
        }
    }
    counts.applied -= stale;
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(partition: i32, from: i64, to: i64) -> OffsetRange {
        OffsetRange {
            source: TopicPartition::new("t", partition),
            epoch: Epoch(1),
            from: Some(Offset(from)),
            to: Offset(to),
            last: None,
        }
    }

    fn renewed(partition: i32, next: i64) -> (TopicPartition, Epoch, Option<Offset>) {
        (TopicPartition::new("t", partition), Epoch(2), Some(Offset(next)))
    }

    #[test]
    fn an_offset_at_the_end_of_the_batch_means_it_was_committed() {
        let ranges = [range(0, 5, 9), range(1, 0, 3)];
        assert!(committed(&ranges, &[renewed(1, 3)]), "one partition still held decides for both");
        assert!(!committed(&ranges, &[renewed(1, 0)]));
        assert!(!committed(&ranges, &[]));
    }
}
