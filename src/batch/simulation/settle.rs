//! The end of a schedule: no more faults, and everything must come to rest by itself, but for an
//! operator who looks after tripped breakers.

use super::act::Act;
use super::database::Commit;
use super::seat::Fate;
use super::world::World;
use super::{LANES, MEMBERS, PARTITIONS};
use crate::types::Offset;

/// Jobs a lane gets done in the time between two probes.
const JOBS_A_ROUND: usize = 5;
/// Rounds after which all must be at rest.
const ROUNDS: usize = 40;
/// Rounds after which a member told to end has.
const ROUNDS_TO_DRAIN: usize = 4;

impl World {
    /// Every record must have had its one outcome: stored, or passed over by a recorded move.
    pub(super) fn settles(&mut self) {
        for member in 0..MEMBERS {
            self.act(Act::Wake { member });
        }
        for round in 0..ROUNDS {
            self.round();
            let draining = self.members.iter().any(|member| member.draining);
            assert!(round < ROUNDS_TO_DRAIN || !draining, "a member does not end");
            if (0..PARTITIONS).all(|partition| self.is_settled(partition)) {
                return;
            }
        }
        panic!("stuck: {:?}", self.database.rows);
    }

    fn round(&mut self) {
        for member in 0..MEMBERS {
            while !self.members[member].inbox.is_empty() {
                self.act(Act::Hear { member });
            }
            for partition in 0..PARTITIONS {
                self.act(Act::Confirm { partition, member });
            }
            for _ in 0..JOBS_A_ROUND {
                self.act(Act::Work { member });
                if self.members[member].is_idle() {
                    break;
                }
                for lane in 0..LANES {
                    self.act(Act::Finish { member, lane, fate: Fate::Served(Commit::Answered) });
                }
            }
        }
        (0..PARTITIONS).for_each(|partition| self.relent(partition));
        self.act(Act::Pass { millis: 2_500 });
    }

    fn is_settled(&self, partition: usize) -> bool {
        let (number, log) = (partition as i32, &self.logs[partition]);
        let next = self.database.rows.get(&number).and_then(|row| row.next);
        let has_owner = self.members[self.owners[partition]].is_reading(number);
        let is_over = |offset: &i64| {
            let record = (number, *offset);
            self.database.effects.contains(&record) || self.database.skipped.contains(&record)
        };
        next == Some(Offset(log.end)) && has_owner && log.records.keys().all(is_over)
    }
}
