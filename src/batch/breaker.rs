//! The circuit breaker: a partition that turns out nothing but dead letters is stopped, before a
//! bad deployment drains the whole topic into them. Pure decisions, one breaker per claim.
//!
//! It looks at a batch before it is written, and remembers it after it was committed: what was
//! never stored never counts.

use std::collections::VecDeque;

use crate::apply::Content;
use crate::event::Reason;
use crate::types::Offset;

/// When the breaker trips.
#[derive(Clone, Copy, Debug)]
pub struct BreakerLimits {
    /// Dead letters in a row; 0: any number.
    pub consecutive: usize,
    /// Records over which the share is taken; 0: no share is.
    pub window: usize,
    /// Share of dead letters among the last `window` records, above 0 to 1; 0: any share.
    pub ratio: f64,
}

impl BreakerLimits {
    /// Dead letters among the last `window` records at which the breaker trips.
    fn share(&self) -> Option<usize> {
        // A window is far below 2^52: no digit is lost on the way.
        let share = (self.ratio * self.window as f64).ceil() as usize;
        (self.window > 0 && self.ratio > 0.0).then_some(share.max(1))
    }
}

/// What a record says about its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// An event, be it a duplicate or stale: it keeps the contract.
    Good,
    /// A dead letter.
    Bad,
    /// A tombstone or a record passed over: what a compacted topic is full of says nothing.
    Neither,
}

impl Mark {
    pub(super) fn of(content: &Content) -> Self {
        match content {
            Content::Event(..) => Self::Good,
            Content::Skipped => Self::Neither,
            Content::DeadLetter(letter) if letter.rejection.reason == Reason::EmptyValue => {
                Self::Neither
            }
            Content::DeadLetter(_) => Self::Bad,
        }
    }
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trip {
    /// Nothing but dead letters.
    #[error("{count} dead letters in a row")]
    InARow {
        /// How many.
        count: usize,
    },
    /// Too many of the last records.
    #[error("{bad} dead letters among the last {of} records")]
    Share {
        /// Dead letters.
        bad: usize,
        /// Records looked at.
        of: usize,
    },
}

/// Why a partition is not read on, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{trip}, the last for {reason}: a bad deployment? Nothing from offset {from} on was stored. Mend \
     the producer (or the schema), then move the offset past the bad records, or restart with \
     higher limits under dead_letters (0: none) to store them as dead letters"
)]
pub struct Poisoned {
    /// Which limit was reached.
    pub trip: Trip,
    /// Code of the reason the last of these records was rejected for.
    pub reason: &'static str,
    /// The first record not stored.
    pub from: Offset,
}

/// What a partition's last records were.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    limits: BreakerLimits,
    /// The last `window` records: true for a dead letter.
    recent: VecDeque<bool>,
    bad: usize,
    in_a_row: usize,
}

impl Breaker {
    pub(super) fn new(limits: BreakerLimits) -> Self {
        Self { limits, recent: VecDeque::new(), bad: 0, in_a_row: 0 }
    }

    /// Looks at records about to be stored, without remembering them: the first that reaches a
    /// limit, by its index, and the limit.
    pub(super) fn look(&self, records: impl Iterator<Item = Mark>) -> Option<(usize, Trip)> {
        let mut trial = self.clone();
        for (index, mark) in records.enumerate() {
            trial.remember(mark);
            if mark == Mark::Bad
                && let Some(trip) = trial.tripped()
            {
                return Some((index, trip));
            }
        }
        None
    }

    /// Remembers a record that was stored.
    pub(super) fn remember(&mut self, mark: Mark) {
        let bad = match mark {
            Mark::Neither => return,
            Mark::Good => false,
            Mark::Bad => true,
        };
        self.in_a_row = if bad { self.in_a_row + 1 } else { 0 };
        if self.limits.share().is_none() {
            return;
        }
        if self.recent.len() == self.limits.window && self.recent.pop_front() == Some(true) {
            self.bad -= 1;
        }
        self.recent.push_back(bad);
        self.bad += usize::from(bad);
    }

    fn tripped(&self) -> Option<Trip> {
        let Self { limits, recent, bad, in_a_row } = self;
        if limits.consecutive > 0 && *in_a_row >= limits.consecutive {
            return Some(Trip::InARow { count: *in_a_row });
        }
        // Of fewer records a share says little: three bad ones of the first four would do.
        let share = limits.share().filter(|_| recent.len() == limits.window)?;
        (*bad >= share).then_some(Trip::Share { bad: *bad, of: recent.len() })
    }
}

/// The rules once more, the slow way: by looking back from every record.
#[cfg(test)]
pub(super) fn by_looking_back(limits: BreakerLimits, all: &[Mark]) -> Option<usize> {
    (0..all.len()).find(|end| {
        let told: Vec<_> = all[..=*end].iter().filter(|mark| **mark != Mark::Neither).collect();
        let row = told.iter().rev().take_while(|mark| ***mark == Mark::Bad).count();
        let window = &told[told.len().saturating_sub(limits.window)..];
        let bad = window.iter().filter(|mark| ***mark == Mark::Bad).count();
        let share =
            window.len() == limits.window && bad as f64 >= limits.ratio * limits.window as f64;
        all[*end] == Mark::Bad && (row >= limits.consecutive || share)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(consecutive: usize, window: usize, ratio: f64) -> BreakerLimits {
        BreakerLimits { consecutive, window, ratio }
    }

    fn after(limits: BreakerLimits, past: &[Mark]) -> Breaker {
        let mut breaker = Breaker::new(limits);
        past.iter().for_each(|mark| breaker.remember(*mark));
        breaker
    }

    use Mark::{Bad, Good, Neither};

    #[test]
    fn dead_letters_in_a_row_trip_at_the_limit_whatever_batches_they_come_in() {
        let limits = limits(3, 0, 0.0);
        let row = Some((2, Trip::InARow { count: 3 }));
        assert_eq!(after(limits, &[]).look([Bad, Bad].into_iter()), None);
        assert_eq!(after(limits, &[]).look([Bad, Bad, Bad, Bad].into_iter()), row);
        let third = Some((0, Trip::InARow { count: 3 }));
        assert_eq!(after(limits, &[Bad, Bad]).look([Bad].into_iter()), third);
        assert_eq!(after(limits, &[Bad, Bad]).look([Good, Bad, Bad].into_iter()), None);
    }

    #[test]
    fn a_share_trips_only_over_a_full_window() {
        let limits = limits(0, 4, 0.5);
        let half = Trip::Share { bad: 2, of: 4 };
        assert_eq!(after(limits, &[]).look([Bad, Bad, Bad].into_iter()), None, "not full");
        assert_eq!(after(limits, &[Good, Good]).look([Bad, Bad].into_iter()), Some((1, half)));
        assert_eq!(after(limits, &[Bad, Good, Good, Good]).look([Bad].into_iter()), None);
        let late = after(limits, &[Bad, Bad, Bad]).look([Good].into_iter());
        assert_eq!(late, None, "an event is never held for what came before it");
    }

    #[test]
    fn tombstones_neither_count_nor_end_a_row() {
        let limits = limits(3, 4, 0.5);
        let past = [Bad, Neither, Bad, Neither];
        assert_eq!(after(limits, &past).look([Neither, Neither].into_iter()), None);
        let third = Some((1, Trip::InARow { count: 3 }));
        assert_eq!(after(limits, &past).look([Neither, Bad].into_iter()), third);
        assert_eq!(after(limits, &[Neither; 100]).look([Neither; 100].into_iter()), None);
    }

    #[test]
    fn zero_lets_everything_through() {
        let all = [Bad; 5000];
        for off in [limits(0, 0, 0.5), limits(0, 100, 0.0)] {
            assert_eq!(after(off, &all).look(all.into_iter()), None);
            assert!(after(off, &all).recent.is_empty(), "and costs no memory");
        }
        let any = limits(0, 4, 0.000_1);
        let trip = Some((0, Trip::Share { bad: 1, of: 4 }));
        assert_eq!(after(any, &[Good; 3]).look([Bad].into_iter()), trip, "0 is the only off");
    }

    fn marks(max: usize) -> impl Strategy<Value = Vec<Mark>> {
        let one = prop_oneof![2 => Just(Bad), 2 => Just(Good), 1 => Just(Neither)];
        prop::collection::vec(one, 0..max)
    }

    proptest! {
        #[test]
        fn it_trips_where_looking_back_says_so(all in marks(80), consecutive in 1usize..8, window in 1usize..20, ratio in 0.01f64..1.0) {
            let limits = limits(consecutive, window, ratio);
            let tripped = Breaker::new(limits).look(all.iter().copied()).map(|(index, _)| index);
            prop_assert_eq!(tripped, by_looking_back(limits, &all));
        }

        #[test]
        fn it_trips_at_the_same_record_however_the_records_are_cut_into_batches(all in marks(80), size in 1usize..20) {
            let limits = limits(5, 12, 0.6);
            let whole = Breaker::new(limits).look(all.iter().copied()).map(|(index, _)| index);
            let mut breaker = Breaker::new(limits);
            let mut cut = None;
            for (number, batch) in all.chunks(size).enumerate() {
                if let Some((index, _)) = breaker.look(batch.iter().copied()) {
                    cut = Some(number * size + index);
                    break;
                }
                batch.iter().for_each(|mark| breaker.remember(*mark));
            }
            prop_assert_eq!(cut, whole);
        }

        #[test]
        fn memory_is_bounded_by_the_window(all in marks(200), window in 1usize..20) {
            prop_assert!(after(limits(0, window, 1.0), &all).recent.len() <= window);
        }
    }
}
