//! Which faults come when: drawn from the seed alone, so that a run can be repeated.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// kill -9 of a worker
    Kill,
    /// SIGSTOP of a worker amid its batches until others have its partitions, then SIGCONT
    Stop,
    /// Workers that come and go in waves: rebalances
    Storm,
    /// pg_terminate_backend of the workers' connections
    Disconnect,
    /// A session that locks users in the reverse order
    Deadlock,
    /// A crash and restart of Postgres (only with --own-database)
    Database,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Kill, Self::Stop, Self::Storm, Self::Disconnect, Self::Deadlock, Self::Database];

    /// How long it takes as a rule. A schedule leaves this room; it is no limit.
    fn usual(self) -> Duration {
        Duration::from_secs(match self {
            Self::Kill | Self::Disconnect => 1,
            Self::Deadlock | Self::Database => 3,
            Self::Storm => 8,
            Self::Stop => 15,
        })
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Storm => "storm",
            Self::Disconnect => "disconnect",
            Self::Deadlock => "deadlock",
            Self::Database => "database",
        })
    }
}

/// A fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When, after the load began. Later when the one before takes longer than usual.
    pub at: Duration,
    /// What.
    pub kind: FaultKind,
    /// Whom, if it is a fault of one worker.
    pub worker: usize,
}

/// From the load's beginning to the first fault: so that there is something to break.
const CALM: Duration = Duration::from_secs(2);
/// Between two faults, in milliseconds.
const GAP: std::ops::Range<u64> = 500..2_500;

/// Draws a schedule: rounds in each of which every kind has its turn, in random order. Rounds go
/// on while `length` lasts; the first is always whole.
pub fn plan(seed: u64, kinds: &[FaultKind], workers: usize, length: Duration) -> Vec<Planned> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut round = kinds.to_vec();
    let mut planned = Vec::new();
    let mut at = CALM;
    while !kinds.is_empty() {
        round.shuffle(&mut rng);
        for kind in &round {
            at += Duration::from_millis(rng.random_range(GAP));
            if planned.len() >= kinds.len() && at + kind.usual() > length {
                return planned;
            }
            planned.push(Planned { at, kind: *kind, worker: rng.random_range(..workers) });
            at += kind.usual();
        }
    }
    planned
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MINUTES: Duration = Duration::from_secs(300);

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        let first = plan(7, &FaultKind::ALL, 3, MINUTES);
        assert_eq!(first, plan(7, &FaultKind::ALL, 3, MINUTES));
        assert_ne!(first, plan(8, &FaultKind::ALL, 3, MINUTES));
        assert!(first.len() > 2 * FaultKind::ALL.len());
        // Seeds are written down: drawing otherwise, as a new version of `rand` may, is noticed.
        let begins: Vec<_> = first.iter().take(3).map(|p| (p.kind, p.worker)).collect();
        use FaultKind::{Database, Deadlock, Disconnect};
        assert_eq!(begins, [(Deadlock, 2), (Database, 2), (Disconnect, 2)]);
    }

    #[test]
    fn every_kind_has_its_turn_however_short_the_time() {
        for kinds in [&FaultKind::ALL[..], &FaultKind::ALL[1..3]] {
            let planned = plan(1, kinds, 3, Duration::from_secs(1));
            assert_eq!(planned.len(), kinds.len());
            let had: BTreeSet<_> = planned.iter().map(|planned| planned.kind).collect();
            assert_eq!(had, kinds.iter().copied().collect());
        }
        assert_eq!(plan(1, &[], 3, MINUTES), []);
    }

    #[test]
    fn faults_fit_into_the_time_and_hit_every_worker() {
        for seed in 0..50 {
            let planned = plan(seed, &FaultKind::ALL, 3, MINUTES);
            assert!(planned.is_sorted_by_key(|planned| planned.at));
            assert!(planned.iter().all(|p| p.at >= CALM && p.at + p.kind.usual() <= MINUTES));
            let hit: BTreeSet<_> = planned.iter().map(|planned| planned.worker).collect();
            assert_eq!(hit, BTreeSet::from([0, 1, 2]));
        }
    }
}
