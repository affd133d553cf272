//! The watch on progress: records wait, nothing is in the way that we know of, and yet nothing is
//! applied. Pure decisions over what the board shows; the clock is an argument.
//!
//! ```text
//! watching --patience--> rebuild the consumer --patience--> give up: fail /livez
//!     ^                        |                               |
//!     +------ progress --------+--- progress, or a reason -----+
//! ```

use std::time::{Duration, Instant};

use crate::observe::progress::Progress;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Leave the group and join it anew, with a new consumer.
    Rebuild,
    /// That did not help: let the orchestrator restart the process.
    GiveUp,
    /// It goes on after all, or there is a reason now why it does not.
    Recovered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Watching,
    Rebuilt,
    GivenUp,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// Zero: off.
    patience: Duration,
    stage: Stage,
    /// Since when records have waited without progress or a known reason.
    since: Option<Instant>,
    applied: u64,
    troubles: u64,
}

impl Watchdog {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, stage: Stage::Watching, since: None, applied: 0, troubles: 0 }
    }

    /// Looks at the progress made until `now`.
    pub(super) fn look(&mut self, now: Instant, seen: &Progress) -> Option<Act> {
        let moved = std::mem::replace(&mut self.applied, seen.applied) != seen.applied;
        // A group that never hands out anything again leaves nothing that could be behind.
        let rejoining = self.stage != Stage::Watching && !seen.joined;
        let excused = std::mem::replace(&mut self.troubles, seen.troubles) != seen.troubles
            || seen.hampered
            || !(seen.behind || rejoining);
        if moved || excused {
            self.since = None;
            let given_up = self.stage == Stage::GivenUp;
            // A rebuild is itself a reason for a while: only progress shows that it helped.
            if moved || given_up {
                self.stage = Stage::Watching;
            }
            return given_up.then_some(Act::Recovered);
        }
        let waited = now.saturating_duration_since(*self.since.get_or_insert(now));
        if self.patience.is_zero() || waited < self.patience {
            return None;
        }
        let (stage, act) = match self.stage {
            Stage::Watching => (Stage::Rebuilt, Some(Act::Rebuild)),
            Stage::Rebuilt => (Stage::GivenUp, Some(Act::GiveUp)),
            Stage::GivenUp => (Stage::GivenUp, None),
        };
        self.stage = stage;
        self.since = Some(now);
        act
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    /// A clock that is set by hand, a watchdog, and what it sees.
    struct Watched {
        dog: Watchdog,
        now: Instant,
        seen: Progress,
    }

    impl Watched {
        fn stuck() -> Self {
            let seen =
                Progress { applied: 7, troubles: 3, behind: true, hampered: false, joined: true };
            let mut watched = Self { dog: Watchdog::new(PATIENCE), now: Instant::now(), seen };
            assert_eq!(watched.after(0), None);
            assert_eq!(watched.after(0), None, "from here on it is stuck");
            watched
        }

        fn after(&mut self, seconds: u64) -> Option<Act> {
            self.now += Duration::from_secs(seconds);
            self.dog.look(self.now, &self.seen)
        }
    }

    #[test]
    fn without_progress_it_rebuilds_once_and_then_gives_up_once() {
        let mut watched = Watched::stuck();
        assert_eq!(watched.after(119), None);
        assert_eq!(watched.after(1), Some(Act::Rebuild));
        assert_eq!(watched.after(119), None);
        assert_eq!(watched.after(1), Some(Act::GiveUp));
        assert_eq!(watched.after(1000), None, "once each");
    }

    #[test]
    fn progress_however_small_begins_the_watch_anew() {
        let mut watched = Watched::stuck();
        for _ in 0..10 {
            assert_eq!(watched.after(119), None);
            watched.seen.applied += 1;
        }
        assert_eq!(watched.after(1), None);
        assert_eq!(watched.after(1), None, "from here on it is stuck again");
        assert_eq!(watched.after(120), Some(Act::Rebuild));
        watched.seen.applied += 1;
        assert_eq!(watched.after(1), None, "the rebuild helped");
        assert_eq!(watched.after(1), None);
        assert_eq!(watched.after(120), Some(Act::Rebuild), "another time, another rebuild");
    }

    #[test]
    fn neither_an_outage_nor_a_halt_nor_an_empty_topic_is_a_stall() {
        let excuses: [fn(&mut Progress); 3] =
            [|p| p.hampered = true, |p| p.behind = false, |p| p.troubles += 1];
        for excuse in excuses {
            let mut watched = Watched::stuck();
            for _ in 0..10 {
                assert_eq!(watched.after(119), None);
                excuse(&mut watched.seen);
            }
            assert_eq!(watched.after(1000), None);
        }
    }

    #[test]
    fn the_rebuild_itself_takes_partitions_away_and_is_not_forgotten() {
        let mut watched = Watched::stuck();
        assert_eq!(watched.after(120), Some(Act::Rebuild));
        watched.seen.behind = false;
        assert_eq!(watched.after(5), None, "nothing is assigned for a while");
        watched.seen.behind = true;
        assert_eq!(watched.after(5), None);
        assert_eq!(watched.after(119), None);
        assert_eq!(watched.after(1), Some(Act::GiveUp), "not another rebuild");
    }

    #[test]
    fn a_group_that_never_takes_the_rebuilt_consumer_back_is_given_up() {
        let mut watched = Watched::stuck();
        assert_eq!(watched.after(120), Some(Act::Rebuild));
        (watched.seen.behind, watched.seen.joined) = (false, false);
        assert_eq!(watched.after(119), None);
        assert_eq!(watched.after(1), Some(Act::GiveUp));
        assert_eq!(watched.after(1), None, "and nothing assigned is no recovery");
        watched.seen.joined = true;
        assert_eq!(watched.after(1), Some(Act::Recovered));
    }

    #[test]
    fn what_was_given_up_recovers_by_progress_or_when_there_is_a_reason() {
        let ends: [fn(&mut Progress); 3] =
            [|p| p.applied += 1, |p| p.hampered = true, |p| p.behind = false];
        for end in ends {
            let mut watched = Watched::stuck();
            assert_eq!(watched.after(120), Some(Act::Rebuild));
            assert_eq!(watched.after(120), Some(Act::GiveUp));
            end(&mut watched.seen);
            assert_eq!(watched.after(1), Some(Act::Recovered));
            assert_eq!(watched.after(1000), None);
        }
    }

    #[test]
    fn zero_turns_it_off() {
        let mut watched = Watched::stuck();
        watched.dog.patience = Duration::ZERO;
        assert_eq!(watched.after(100_000), None);
    }
}
