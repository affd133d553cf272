//! Records that are written, but stand behind a transaction still open: Kafka withholds them from
//! read-committed readers, whose end of the log (the last stable offset) does not count them.

use std::time::{Duration, Instant};

use crate::types::Offset;

/// What is known of a partition's records withheld. Never more than there are: an end seen earlier
/// than the other can only be too low.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// The last stable offset.
    stable: Option<Offset>,
    /// The high watermark.
    high: Option<Offset>,
    /// Since when records have waited while the last stable offset stood where it does.
    since: Option<Instant>,
}

impl Withheld {
    /// The broker was asked where the last stable offset is.
    pub(super) fn asked(&mut self, stable: Offset, now: Instant) {
        // It never goes back; this is another log.
        if self.stable.is_some_and(|before| stable < before) {
            *self = Self::default();
        }
        self.note(stable, now);
    }

    /// A fetch told both ends; it may have been a while ago.
    pub(super) fn fetched(&mut self, stable: Offset, high: Offset, now: Instant) {
        self.high = Some(high);
        self.note(stable, now);
    }

    fn note(&mut self, stable: Offset, now: Instant) {
        if self.stable < Some(stable) {
            self.stable = Some(stable);
            self.since = None;
        }
        self.since = match self.records() {
            Some(records) if records > 0 => self.since.or(Some(now)),
            _ => None,
        };
    }

    /// How many; `None` while unknown.
    pub(super) fn records(&self) -> Option<i64> {
        Some(self.high?.0.saturating_sub(self.stable?.0).max(0))
    }

    /// For how long the oldest of them; 0 without any.
    pub(super) fn seconds(&self, now: Instant) -> Option<f64> {
        let waited = |since| now.saturating_duration_since(since);
        self.records().map(|_| self.since.map_or(Duration::ZERO, waited).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clock and partition.
    struct Seen(Withheld, Instant);

    impl Seen {
        fn new() -> Self {
            Self(Withheld::default(), Instant::now())
        }

        fn after(&mut self, seconds: u64) -> &mut Self {
            self.1 += Duration::from_secs(seconds);
            self
        }

        fn fetched(&mut self, stable: i64, high: i64) -> (Option<i64>, Option<f64>) {
            self.0.fetched(Offset(stable), Offset(high), self.1);
            self.shows()
        }

        fn asked(&mut self, stable: i64) -> (Option<i64>, Option<f64>) {
            self.0.asked(Offset(stable), self.1);
            self.shows()
        }

        fn shows(&self) -> (Option<i64>, Option<f64>) {
            (self.0.records(), self.0.seconds(self.1))
        }
    }

    const NONE: (Option<i64>, Option<f64>) = (Some(0), Some(0.0));

    #[test]
    fn a_transaction_that_hangs_is_told_with_its_age_until_it_ends() {
        let mut seen = Seen::new();
        assert_eq!(seen.asked(1), (None, None), "unknown is not 0");
        assert_eq!(seen.fetched(1, 1), NONE);
        assert_eq!(seen.after(5).fetched(1, 3), (Some(2), Some(0.0)));
        assert_eq!(seen.after(5).asked(1), (Some(2), Some(5.0)));
        assert_eq!(seen.after(5).fetched(1, 9), (Some(8), Some(10.0)), "more behind the same");
        assert_eq!(seen.after(5).fetched(10, 10), NONE);
    }

    #[test]
    fn transactions_that_come_and_go_under_load_do_not_age() {
        let mut seen = Seen::new();
        for second in 0..100 {
            let (records, seconds) = seen.after(1).fetched(second * 10, second * 10 + 5);
            assert_eq!((records, seconds), (Some(5), Some(0.0)));
        }
    }

    #[test]
    fn an_end_asked_for_earlier_or_later_than_the_fetch_makes_no_records_up() {
        let mut seen = Seen::new();
        seen.asked(1);
        assert_eq!(seen.fetched(500, 500), NONE, "written since, and none of it withheld");
        assert_eq!(seen.fetched(500, 520), (Some(20), Some(0.0)));
        // Paused from here on: nothing is fetched, but the end is asked for.
        assert_eq!(seen.after(9).asked(510), (Some(10), Some(0.0)), "it moved");
        assert_eq!(seen.after(9).asked(600), NONE);
        assert_eq!(seen.after(9).fetched(500, 520), NONE, "old news");
    }

    #[test]
    fn another_log_under_the_same_name_begins_anew() {
        let mut seen = Seen::new();
        seen.fetched(500, 520);
        assert_eq!(seen.after(9).asked(3), (None, None));
        assert_eq!(seen.after(9).fetched(3, 4), (Some(1), Some(0.0)));
    }
}
