//! What a move would do, and whether it may: pure decisions over what Postgres and Kafka say.

use crate::apply::moves::{Effect, Position, Step};
use crate::commands::offsets::args::{MoveArgs, Target};
use crate::commands::offsets::logs::Log;
use crate::types::{Offset, TopicPartition};

/// A move of one partition, before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) effect: Effect,
    pub(super) step: Step,
}

/// Why a partition may not be moved there. The text says what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "{partition} has no offset {to}: its log is {}..{}; choose one within (or its end), or add --clamp to take \
         the nearest", .log.span.start, .log.span.end
    )]
    Outside { partition: TopicPartition, to: i128, log: Log },
    #[error(
        "{partition} was never read, so there is no position to shift: name a target, such as --to-offset"
    )]
    NeverRead { partition: TopicPartition },
    #[error(
        "{partition} is at epoch {}, not {wanted} (--if-epoch): it was claimed or moved since; look again with \
         `user-events-worker offsets`", .found.map_or("none".to_owned(), |found| found.to_string())
    )]
    Epoch { partition: TopicPartition, wanted: i64, found: Option<i64> },
    #[error(
        "moving {partition} to {to} skips {skipped} offsets, which will never be read: add --skip if that is meant"
    )]
    Skips { partition: TopicPartition, to: Offset, skipped: i64 },
}

/// Plans the move of one partition; `position` is none when Postgres has no row for it.
///
/// # Errors
/// A clear refusal, except that of skipping: see [`Plan::permitted`].
pub(super) fn plan(
    args: &MoveArgs,
    source: &TopicPartition,
    position: Option<&Position>,
    log: &Log,
) -> Result<Plan, Refusal> {
    let found = position.map(|position| position.epoch.0);
    if let Some(wanted) = args.if_epoch
        && found != Some(wanted)
    {
        return Err(Refusal::Epoch { partition: source.clone(), wanted, found });
    }
    let from = position.and_then(|position| position.next);
    let target = match args.target() {
        Target::Earliest => i128::from(log.span.start.0),
        Target::Latest => i128::from(log.span.end.0),
        Target::Offset(offset) => i128::from(offset.0),
        Target::Time(_) => i128::from(log.at_time.unwrap_or(log.span.end).0),
        Target::Shift(by) => {
            let from = from.ok_or(Refusal::NeverRead { partition: source.clone() })?;
            i128::from(from.0) + i128::from(by)
        }
    };
    let to = within(target, log, args.clamp).ok_or_else(|| Refusal::Outside {
        partition: source.clone(),
        to: target,
        log: log.clone(),
    })?;
    let step = Step {
        source: source.clone(),
        viewed: position.map(|position| position.epoch),
        from,
        to,
        log: log.span.clone(),
    };
    Ok(Plan { effect: Effect::of(from, to, &log.span), step })
}

/// The end itself is a position, too: nothing is left to read there.
fn within(target: i128, log: &Log, clamp: bool) -> Option<Offset> {
    let (start, end) = (i128::from(log.span.start.0), i128::from(log.span.end.0));
    let nearest = target.clamp(start, end.max(start));
    if nearest != target && !clamp {
        return None;
    }
    i64::try_from(nearest).ok().map(Offset)
}

impl Plan {
    /// Whether it may be carried out.
    ///
    /// # Errors
    /// When it skips and nobody said that it may.
    pub(super) fn permitted(&self, skip: bool) -> Result<(), Refusal> {
        if self.effect.skipped == 0 || skip {
            return Ok(());
        }
        Err(Refusal::Skips {
            partition: self.step.source.clone(),
            to: self.step.to,
            skipped: self.effect.skipped,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;
    use time::OffsetDateTime;

    use super::*;
    use crate::types::Epoch;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: MoveArgs,
    }

    fn source() -> TopicPartition {
        TopicPartition::new("t", 0)
    }

    fn planned(line: &str, next: Option<i64>) -> Result<Plan, Refusal> {
        let line = format!("move --topic t --partition 0 {line}");
        let args = Cli::try_parse_from(line.split_whitespace()).unwrap().args;
        let position = Position {
            source: source(),
            next: next.map(Offset),
            epoch: Epoch(7),
            claimed_by: "w".into(),
            claimed_at: OffsetDateTime::UNIX_EPOCH,
        };
        let log = Log { span: Offset(10)..Offset(40), at_time: Some(Offset(25)) };
        plan(&args, &source(), Some(&position), &log)
    }

    fn to(line: &str) -> i64 {
        planned(line, Some(20)).unwrap().step.to.0
    }

    fn outside(to: i128) -> Refusal {
        let log = Log { span: Offset(10)..Offset(40), at_time: Some(Offset(25)) };
        Refusal::Outside { partition: source(), to, log }
    }

    #[test]
    fn every_target_names_an_offset() {
        assert_eq!(to("--to-earliest"), 10);
        assert_eq!(to("--to-latest"), 40);
        assert_eq!(to("--to-offset 40"), 40, "the end is a position");
        assert_eq!(to("--to-datetime 2026-01-31T12:00:00Z"), 25);
        assert_eq!(to("--shift-by -3"), 17);
    }

    #[test]
    fn a_target_outside_the_log_is_refused_or_clamped_when_asked() {
        assert_eq!(planned("--to-offset 9", Some(20)), Err(outside(9)));
        assert_eq!(planned("--to-offset 41", Some(20)), Err(outside(41)));
        assert_eq!(planned("--shift-by -11", Some(20)), Err(outside(9)));
        let greatest = format!("--shift-by {}", i64::MAX);
        assert_eq!(planned(&greatest, Some(20)), Err(outside(i128::from(i64::MAX) + 20)));
        assert_eq!(to("--to-offset 9 --clamp"), 10);
        assert_eq!(to(&format!("{greatest} --clamp")), 40);
        let told = outside(41).to_string();
        assert!(told.contains("10..40") && told.contains("--clamp"), "{told}");
    }

    #[test]
    fn forward_needs_leave_and_back_does_not() {
        let forward = planned("--to-latest", Some(20)).unwrap();
        let refusal = forward.permitted(false).unwrap_err();
        assert!(refusal.to_string().contains("skips 20 offsets"), "{refusal}");
        assert_eq!(forward.permitted(true), Ok(()));
        assert_eq!(planned("--to-earliest", Some(20)).unwrap().permitted(false), Ok(()));
        let expired = planned("--to-earliest", Some(4)).unwrap();
        assert!(expired.permitted(false).is_err(), "what expired unread is skipped, too");
    }

    #[test]
    fn what_was_never_read_has_nothing_to_shift() {
        let refusal = planned("--shift-by 1", None).unwrap_err();
        assert_eq!(refusal, Refusal::NeverRead { partition: source() });
        assert_eq!(planned("--to-offset 12", None).unwrap().effect.skipped, 2);
    }

    #[test]
    fn an_epoch_that_is_not_the_one_expected_is_refused() {
        assert!(planned("--to-earliest --if-epoch 7", Some(20)).is_ok());
        let refusal = planned("--to-earliest --if-epoch 6", Some(20)).unwrap_err();
        assert_eq!(refusal, Refusal::Epoch { partition: source(), wanted: 6, found: Some(7) });
    }
}
