//! What a lane does with the outcome of a job.

use std::collections::HashMap;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::apply::verdict::{self, Verdict};
use crate::apply::{Applied, ApplyError, Batch, Claim, Fenced, OffsetRange, Outcome, Resolution};
use crate::batch::breaker::Breaker;
use crate::batch::lane::{Done, Lane, Owned, millis};
use crate::batch::{Generation, Notice, span};
use crate::failpoint::{self, Guard};
use crate::observe::board::Health;
use crate::types::{Epoch, Offset, TopicPartition};

/// Conflicts in a row that are worth a line in the log.
const PERSISTENT: u32 = 3;
/// Tries of a batch that takes too long before it is cut in two.
const TRIES_BEFORE_SPLIT: u32 = 3;

impl Lane {
    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Claimed(asked, Ok(claims)) => self.on_claimed(&asked, claims),
            // What is still wanted is asked for again.
            Done::Claimed(asked, Err(error)) => {
                self.claim_waits = error.verdict == Verdict::Retry;
                self.wait_after(&error, &asked.into_keys().collect::<Vec<_>>());
            }
            Done::Applied(batch, outcome, took) => {
                self.metrics.apply_duration(took);
                self.on_outcome(batch, outcome);
            }
            Done::Resolved(batch, applied, Ok(resolution)) => {
                self.on_resolved(batch, applied, resolution);
            }
            Done::Resolved(batch, applied, Err(error)) => {
                self.wait_after(&error, &batch_sources(&batch));
                self.unsettled = Some((batch, applied));
            }
            Done::Probed(Ok(fenced)) => {
                self.answered();
                self.on_fenced(fenced);
            }
            Done::Probed(Err(error)) => self.wait_after(&error, &[]),
        }
        // What is tried again, whole or in parts, goes before all else of this lane.
        if self.unsettled.is_some() || !self.waiting.is_empty() {
            self.board.wait(self.owned.keys());
        }
    }

    /// Takes the claims over, but for partitions revoked while the claim was under way.
    fn on_claimed(&mut self, asked: &HashMap<TopicPartition, Generation>, claims: Vec<Claim>) {
        self.answered();
        for claim in claims {
            let Some(generation) = asked.get(&claim.source).copied() else { continue };
            if self.wanted.get(&claim.source) != Some(&generation) {
                continue;
            }
            self.wanted.remove(&claim.source);
            let owned = Owned {
                generation,
                epoch: claim.epoch,
                next: claim.next,
                stored: claim.next,
                writing_since: None,
                gathered_since: None,
                breaker: Breaker::new(self.options.breaker),
                held_back: false,
            };
            self.owned.insert(claim.source.clone(), owned);
            self.notify(Notice::Claimed(generation, claim));
        }
    }

    fn on_outcome(&mut self, batch: Batch, outcome: Outcome) {
        match outcome {
            Outcome::Applied(applied) => {
                self.answered();
                self.committed(&batch, &applied);
            }
            Outcome::Changed => {
                self.answered();
                self.again(batch);
            }
            Outcome::Fenced(fenced) => {
                self.answered();
                self.again(batch);
                self.on_fenced(fenced);
            }
            Outcome::InDoubt(applied, error) => {
                self.wait_after(&error, &batch_sources(&batch));
                self.unsettled = Some((batch, Some(applied)));
            }
            Outcome::Failed(error) => self.on_failed(batch, error),
        }
    }

    /// Counts and reports what is known to be in Postgres.
    fn committed(&mut self, batch: &Batch, applied: &Applied) {
        self.count(batch, applied);
        self.remember(batch);
        let mut offsets: Vec<(TopicPartition, Offset)> = Vec::with_capacity(batch.ranges.len());
        for range in &batch.ranges {
            let more =
                self.waiting.iter().any(|b| b.ranges.iter().any(|r| r.source == range.source));
            let owned = self.owned.get_mut(&range.source);
            // Under a later claim, here or elsewhere, the position may be further on by now.
            let Some(owned) = owned.filter(|owned| owned.epoch == range.epoch) else { continue };
            offsets.push((range.source.clone(), range.to));
            owned.stored = Some(range.to);
            if !more {
                owned.writing_since = None;
                self.board.pending(&range.source, owned.gathered_since);
            }
        }
        self.board.applied(&offsets);
        self.notify(Notice::Committed(offsets));
    }

    fn count(&self, batch: &Batch, applied: &Applied) {
        self.metrics.outcomes(&span::counts(applied));
        for (reason, records) in &applied.dead_letters {
            self.metrics.dead_letters(reason, *records);
        }
        let now_ms = millis(OffsetDateTime::now_utc());
        for item in batch.items.iter().filter(|item| item.record.timestamp_ms >= 0) {
            let age = now_ms.saturating_sub(item.record.timestamp_ms).max(0);
            self.metrics.end_to_end(Duration::from_millis(age.unsigned_abs()), 1);
        }
    }

    /// Lets fenced partitions go; the others carry on at once.
    ///
    /// A claim may have been followed by a newer one of our own (revoked and assigned again while
    /// a batch was under way), which is not concerned.
    fn on_fenced(&mut self, fenced: Vec<Fenced>) {
        for Fenced { source, epoch, after } in fenced {
            let current = self.owned.get(&source).filter(|owned| owned.epoch == epoch);
            let Some(generation) = current.map(|owned| owned.generation) else { continue };
            self.metrics.fenced(1);
            warn!(partition = %source, %epoch, ?after, "partition fenced");
            self.forget(&source);
            self.notify(Notice::Fenced(generation, source, after));
        }
    }

    fn on_resolved(&mut self, mut batch: Batch, applied: Option<Applied>, resolution: Resolution) {
        self.answered();
        for (source, epoch) in &resolution.held {
            self.renew(source, *epoch);
            batch.renew(source, *epoch);
        }
        if resolution.committed {
            info!(records = batch.items.len(), "a batch in doubt was found committed");
            if let Some(applied) = &applied {
                self.committed(&batch, applied);
            }
        } else {
            info!(records = batch.items.len(), "a batch in doubt was found not committed");
            self.again(batch);
        }
        self.on_fenced(resolution.lost);
    }

    /// A batch that was not written waits for its next try.
    fn again(&mut self, mut batch: Batch) {
        self.drop_let_go(&mut batch);
        if !batch.is_empty() {
            self.waiting.push_front(batch);
        }
    }

    /// Drops what is no longer under our newest claim: it was taken away while the batch was under
    /// way, and no breaker watches over it any more.
    fn drop_let_go(&self, batch: &mut Batch) {
        for OffsetRange { source, epoch, .. } in batch.ranges.clone() {
            if self.owned.get(&source).is_none_or(|owned| owned.epoch != epoch) {
                batch.drop_partition(&source);
            }
        }
    }

    fn renew(&mut self, source: &TopicPartition, epoch: Epoch) {
        if let Some(owned) = self.owned.get_mut(source) {
            owned.epoch = epoch;
            self.board.renewed(source, epoch);
        }
        self.gathering.renew(source, epoch);
        for batch in &mut self.waiting {
            batch.renew(source, epoch);
        }
    }

    /// Nothing was written: the verdict says how to go on.
    fn on_failed(&mut self, mut batch: Batch, error: ApplyError) {
        self.wait_after(&error, &batch_sources(&batch));
        if error.verdict == Verdict::Reconnect {
            self.unsettled = Some((batch, None));
            return;
        }
        let all = batch.items.len();
        self.drop_let_go(&mut batch);
        if batch.is_empty() {
            return;
        }
        // What was taken away meanwhile may have been to blame: the rest is tried as it is.
        if batch.items.len() < all {
            self.waiting.push_front(batch);
            return;
        }
        let in_two = match error.verdict {
            Verdict::Data => !failpoint::is_off(Guard::Bisect),
            Verdict::Smaller => self.retry.failures() >= TRIES_BEFORE_SPLIT,
            _ => false,
        };
        if in_two && batch.items.len() > 1 {
            let (first, second) = batch.split();
            self.waiting.push_front(second);
            self.waiting.push_front(first);
        } else {
            if error.verdict == Verdict::Data && !self.refuse(&mut batch, &error) {
                self.not_before = Some(Instant::now() + self.retry.after_misconfiguration());
                self.hold(&error, &batch_sources(&batch));
            }
            self.waiting.push_front(batch);
        }
    }

    fn refuse(&self, batch: &mut Batch, error: &ApplyError) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.refuse(batch, error))
    }

    /// Postgres answered.
    fn answered(&mut self) {
        self.retry.succeeded();
        self.board.postgres(self.options.index, Health::Up);
    }

    /// Counts, reports and schedules: how long to wait, and who must know why.
    fn wait_after(&mut self, error: &ApplyError, sources: &[TopicPartition]) {
        self.metrics.apply_error(error.verdict.kind());
        let wait = match error.verdict {
            Verdict::Data => Duration::ZERO,
            Verdict::Retry | Verdict::MissingMonth => self.retry.after_conflict(),
            Verdict::Outage | Verdict::Smaller | Verdict::Reconnect => self.retry.after_outage(),
            Verdict::Misconfigured | Verdict::Bug => self.retry.after_misconfiguration(),
        };
        self.not_before = Some(Instant::now() + wait);
        let kind = error.verdict.kind();
        match error.verdict {
            Verdict::Outage | Verdict::Reconnect => {
                self.board.postgres(self.options.index, Health::down(error.to_string()));
            }
            Verdict::Misconfigured => {
                let reason = format!("{error}: {}", verdict::advice(&error.source));
                self.board.postgres(self.options.index, Health::down(reason));
            }
            Verdict::Smaller => {
                for source in sources {
                    self.board.error(source, error.to_string());
                }
            }
            _ => {}
        }
        match error.verdict {
            Verdict::Misconfigured | Verdict::Bug => self.hold(error, sources),
            Verdict::Data => {}
            // Now and then is routine; again and again is somebody's lock.
            Verdict::Retry | Verdict::MissingMonth if self.retry.failures() < PERSISTENT => {}
            Verdict::Retry | Verdict::MissingMonth => {
                for source in sources {
                    self.board.error(source, error.to_string());
                }
                if let Some(suppressed) = self.log.pass(kind) {
                    let failures = self.retry.failures();
                    warn!(kind, %error, failures, suppressed, "losing against another transaction, still trying");
                }
            }
            _ => {
                if let Some(suppressed) = self.log.pass(kind) {
                    warn!(kind, %error, ?wait, suppressed, "postgres unavailable, will try again");
                }
            }
        }
    }

    /// Says loudly that somebody must act.
    fn hold(&mut self, error: &ApplyError, sources: &[TopicPartition]) {
        let kind = error.verdict.kind();
        for source in sources {
            self.board.error(source, error.to_string());
        }
        if let Some(suppressed) = self.log.pass(kind) {
            let advice = verdict::advice(&error.source);
            error!(kind, %error, suppressed, advice, "postgres refuses the worker, holding");
        }
    }
}

fn batch_sources(batch: &Batch) -> Vec<TopicPartition> {
    batch.ranges.iter().map(|range| range.source.clone()).collect()
}
