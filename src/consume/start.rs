//! Where reading begins, or why it must not: pure decisions over a claim and the log's two ends.

use crate::apply::{Claim, Fingerprint};
use crate::batch;
use crate::config::StartFrom;
use crate::types::Offset;

/// The ends of a partition's log, as the broker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnds {
    /// Offset of the oldest record kept.
    pub low: Offset,
    /// Next offset to be written, as a read-committed reader sees it.
    pub high: Offset,
    /// The group's committed offset, when it was asked for and exists.
    pub committed: Option<Offset>,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// The first offset to fetch: that of `check`, else `next`.
    pub fetch: Offset,
    /// The first offset to apply.
    pub next: Offset,
    /// What the record at `fetch` must look like if it still exists.
    pub check: Option<Fingerprint>,
}

/// Why a partition must not be read. The text says what is missing, exactly, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Halt {
    /// Retention or `DeleteRecords` overtook us.
    #[error(
        "records {next}..{low} were deleted from the log before they were read ({gap} offsets): \
         look for them elsewhere, then go on with `user-events-worker offsets move --to-earliest \
         --skip`", gap = .low.0 - .next.0
    )]
    Expired {
        /// Where we stand.
        next: Offset,
        /// Where the log begins now.
        low: Offset,
    },
    /// The log ends before our position.
    #[error(
        "position {next} lies beyond the end of the log ({high}): the topic was recreated or \
         truncated; find out which, then go on with `user-events-worker offsets move`"
    )]
    BeyondEnd {
        /// Where we stand.
        next: Offset,
        /// Where the log ends.
        high: Offset,
    },
    /// Another record stands where the last one applied was.
    #[error(
        "the record at offset {offset} is not the one that was applied: the topic was recreated \
         under the same name, or its log was cut short (an unclean leader election) and written \
         on; go on with `user-events-worker offsets move --to-earliest`"
    )]
    Recreated {
        /// Offset of the record compared.
        offset: Offset,
    },
    /// A record stands where none was when we passed.
    #[error(
        "a record stands at offset {offset}, before position {next}, where none was before: the \
         log was cut short (an unclean leader election) and written on; go on with \
         `user-events-worker offsets move --to-earliest`"
    )]
    Rewritten {
        /// Offset of the record.
        offset: Offset,
        /// Where we stand.
        next: Offset,
    },
    /// Reading did not begin where it was told to.
    #[error(
        "reading began at {at}, before {fetch}, where it was told to begin; begin anew with \
         `user-events-worker offsets move --shift-by 0`, and please report it"
    )]
    Astray {
        /// Where reading was to begin.
        fetch: Offset,
        /// Where it began.
        at: Offset,
    },
    /// The circuit breaker tripped.
    #[error(transparent)]
    Poisoned(batch::Poisoned),
}

/// Decides where reading begins.
///
/// | the claim says | the log | then |
/// |---|---|---|
/// | never read | | the configured start, if it lies within the log |
/// | next < low | records are gone | halt: expired |
/// | next > high | shorter than our position | halt: beyond the end |
/// | within | the last record applied may still exist | begin there, to compare |
/// | within | it is gone | begin at next |
///
/// # Errors
/// The reason to halt.
pub(crate) fn decide(claim: &Claim, ends: LogEnds, start_from: StartFrom) -> Result<Start, Halt> {
    let next = match (claim.next, start_from) {
        (Some(next), _) => next,
        (None, StartFrom::Earliest) => ends.low,
        (None, StartFrom::Latest) => ends.high,
        (None, StartFrom::Committed) => ends.committed.unwrap_or(ends.low),
    };
    within(next, ends)?;
    let check = claim.last.filter(|last| {
        let at = Offset(last.offset.0);
        ends.low <= at && at < next
    });
    let fetch = check.map_or(next, |last| Offset(last.offset.0));
    Ok(Start { fetch, next, check })
}

/// Whether a position can be read at all.
///
/// # Errors
/// The reason to halt.
pub(crate) fn within(next: Offset, ends: LogEnds) -> Result<(), Halt> {
    if next < ends.low {
        return Err(Halt::Expired { next, low: ends.low });
    }
    if next > ends.high {
        return Err(Halt::BeyondEnd { next, high: ends.high });
    }
    Ok(())
}

impl Start {
    /// Judges a record read after this start: is it the first to apply, one to pass over, or a
    /// sign that this is not the log it was?
    ///
    /// # Errors
    /// The reason to halt.
    pub(crate) fn admit(
        &mut self,
        record: impl FnOnce() -> Fingerprint,
        at: Offset,
    ) -> Result<bool, Halt> {
        if at < self.fetch {
            return Err(Halt::Astray { fetch: self.fetch, at });
        }
        if let Some(check) = self.check.take()
            && at == Offset(check.offset.0)
            && record() != check
        {
            return Err(Halt::Recreated { offset: at });
        }
        // Nothing lies between the last record applied and our position but what no reader is
        // ever shown: markers, aborted records, what compaction removed.
        if self.fetch < at && at < self.next {
            return Err(Halt::Rewritten { offset: at, next: self.next });
        }
        Ok(at >= self.next)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::{Epoch, RecordOffset, TopicPartition};

    fn claim(next: Option<i64>, last: Option<i64>) -> Claim {
        Claim {
            source: TopicPartition::new("t", 0),
            epoch: Epoch(1),
            next: next.map(Offset),
            last: last.map(fingerprint),
        }
    }

    fn fingerprint(offset: i64) -> Fingerprint {
        Fingerprint { offset: RecordOffset(offset), timestamp_ms: 1, checksum: 7 }
    }

    fn ends(low: i64, high: i64) -> LogEnds {
        LogEnds { low: Offset(low), high: Offset(high), committed: None }
    }

    fn start(fetch: i64, next: i64, check: Option<i64>) -> Result<Start, Halt> {
        Ok(Start { fetch: Offset(fetch), next: Offset(next), check: check.map(fingerprint) })
    }

    #[test]
    fn a_partition_never_read_begins_where_configured() {
        let fresh = claim(None, None);
        assert_eq!(decide(&fresh, ends(5, 9), StartFrom::Earliest), start(5, 5, None));
        assert_eq!(decide(&fresh, ends(5, 9), StartFrom::Latest), start(9, 9, None));
        assert_eq!(decide(&fresh, ends(5, 9), StartFrom::Committed), start(5, 5, None));
        let committed = LogEnds { committed: Some(Offset(7)), ..ends(5, 9) };
        assert_eq!(decide(&fresh, committed, StartFrom::Committed), start(7, 7, None));
    }

    #[test]
    fn reading_begins_at_the_last_record_applied_while_it_still_exists() {
        assert_eq!(
            decide(&claim(Some(7), Some(6)), ends(5, 9), StartFrom::Earliest),
            start(6, 7, Some(6))
        );
        assert_eq!(
            decide(&claim(Some(7), Some(4)), ends(5, 9), StartFrom::Earliest),
            start(7, 7, None)
        );
        assert_eq!(
            decide(&claim(Some(3), Some(6)), ends(0, 9), StartFrom::Earliest),
            start(3, 3, None),
            "a rewind leaves the fingerprint ahead"
        );
    }

    #[test]
    fn a_position_outside_the_log_halts_with_the_exact_gap() {
        let expired = decide(&claim(Some(3), None), ends(5, 9), StartFrom::Latest).unwrap_err();
        assert_eq!(expired, Halt::Expired { next: Offset(3), low: Offset(5) });
        assert!(expired.to_string().contains("3..5") && expired.to_string().contains("2 offsets"));
        let beyond = decide(&claim(Some(10), None), ends(5, 9), StartFrom::Latest).unwrap_err();
        assert_eq!(beyond, Halt::BeyondEnd { next: Offset(10), high: Offset(9) });
    }

    #[test]
    fn the_first_record_is_compared_and_passed_over() {
        let mut same = start(6, 7, Some(6)).unwrap();
        assert_eq!(same.admit(|| fingerprint(6), Offset(6)), Ok(false));
        assert_eq!(same.admit(|| fingerprint(7), Offset(7)), Ok(true));

        let mut other = start(6, 7, Some(6)).unwrap();
        let changed = Fingerprint { checksum: 8, ..fingerprint(6) };
        assert_eq!(other.admit(|| changed, Offset(6)), Err(Halt::Recreated { offset: Offset(6) }));

        let mut compacted = start(6, 7, Some(6)).unwrap();
        assert_eq!(compacted.admit(|| changed, Offset(9)), Ok(true), "a gap proves nothing");

        let mut behind_markers = start(6, 9, Some(6)).unwrap();
        assert_eq!(behind_markers.admit(|| fingerprint(6), Offset(6)), Ok(false));
        let rewritten = Halt::Rewritten { offset: Offset(7), next: Offset(9) };
        assert_eq!(behind_markers.admit(|| fingerprint(7), Offset(7)), Err(rewritten.clone()));
        let mut last_gone = start(6, 9, Some(6)).unwrap();
        assert_eq!(last_gone.admit(|| fingerprint(7), Offset(7)), Err(rewritten));

        let mut astray = start(6, 7, Some(6)).unwrap();
        assert!(astray.admit(|| fingerprint(2), Offset(2)).is_err());
    }
}
