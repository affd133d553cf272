//! The world a schedule runs in: a group of members, their logs, and their database.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::batch::LaneOptions;
use crate::observe::metrics::PipelineMetrics;
use crate::types::Offset;

use super::act::Act;
use super::database::{Commit, Database};
use super::log::Log;
use super::member::{GroupEvent, Member};
use super::{MEMBERS, PARTITIONS, lane_options};

pub(super) struct World {
    runtime: tokio::runtime::Runtime,
    pub(super) logs: Vec<Log>,
    pub(super) owners: Vec<usize>,
    pub(super) members: Vec<Member>,
    pub(super) database: Database,
    replica: Database,
    born: usize,
}

impl World {
    pub(super) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let guard = runtime.enter();
        let members = (0..MEMBERS).map(member).collect();
        drop(guard);
        let mut world = Self {
            runtime,
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            owners: (0..PARTITIONS).map(|partition| partition % MEMBERS).collect(),
            members,
            database: Database::default(),
            replica: Database::default(),
            born: MEMBERS,
        };
        for partition in 0..PARTITIONS {
            let owner = world.owners[partition];
            world.members[owner].inbox.push_back(GroupEvent::Assigned(partition as i32));
        }
        world
    }

    pub(super) fn act(&mut self, act: Act) {
        let handle = self.runtime.handle().clone();
        let _clock = handle.enter();
        match act {
            Act::Produce { partition, gap, nature } => {
                self.logs[partition].produce(partition, gap, nature);
            }
            Act::Marker { partition } => self.logs[partition].end += 1,
            Act::Rebalance { partition, member } => self.rebalance(partition, member),
            Act::Pass { millis } => self.pass(Duration::from_millis(millis)),
            Act::Decide { committed } => self.database.decide(0, committed),
            Act::Sleep { member } => self.members[member].asleep = true,
            Act::Wake { member } => self.members[member].asleep = false,
            Act::Crash { member, commit } => self.crash(member, commit),
            Act::Replicate => self.replica = self.database.clone(),
            Act::FailOver => self.database.fail_over(&self.replica),
            Act::Move { partition, by } => self.move_by(partition, by),
            Act::Relent { partition } => self.relent(partition),
            Act::Confirm { partition, member } if self.owners[partition] != member => {}
            Act::Rebuild { member, heir } => self.rebuild(member, heir),
            Act::Hear { member }
            | Act::Confirm { member, .. }
            | Act::Work { member }
            | Act::Deliver { member, .. }
            | Act::Start { member, .. }
            | Act::Read { member, .. }
            | Act::Repeat { member, .. }
            | Act::Verify { member, .. }
            | Act::Notices { member }
            | Act::Silence { member, .. }
            | Act::Drain { member }
            | Act::Finish { member, .. } => self.act_of(member, act),
        }
    }

    /// What a member does itself, if it is awake. Postgres finishes what a sleeping member has
    /// sent; it hears of it when it wakes, which is the same as finishing then.
    fn act_of(&mut self, index: usize, act: Act) {
        let (member, logs, database) = (&mut self.members[index], &self.logs, &mut self.database);
        if member.asleep {
            return;
        }
        match act {
            Act::Hear { .. } => member.hear(),
            Act::Confirm { partition, .. } => member.confirm(partition as i32),
            Act::Work { .. } => member.work(logs, database),
            Act::Deliver { lane, .. } => member.deliver(lane),
            Act::Start { lane, .. } => member.start(lane, database),
            Act::Read { partition, .. } => drop(member.read(partition as i32, &logs[partition])),
            Act::Repeat { partition, .. } => member.step_back(partition as i32),
            Act::Verify { partition, .. } => member.verify(partition as i32),
            Act::Notices { .. } => member.take_notices(logs, database),
            Act::Silence { lane, commit, .. } => member.lose_server(lane, commit, database),
            Act::Drain { .. } => member.drain(),
            Act::Finish { lane, fate, .. } => member.finish(lane, fate, database, logs),
            other => unreachable!("of no member: {other:?}"),
        }
        if member.has_left() {
            self.replace(index);
        }
    }

    /// Kafka gives a partition to somebody else; both hear of it when they come to it.
    fn rebalance(&mut self, partition: usize, member: usize) {
        let owner = std::mem::replace(&mut self.owners[partition], member);
        self.members[owner].inbox.push_back(GroupEvent::Revoked(partition as i32));
        self.members[member].inbox.push_back(GroupEvent::Assigned(partition as i32));
    }

    fn pass(&mut self, time: Duration) {
        self.runtime.block_on(tokio::time::advance(time));
    }

    /// A member dies: of a fault, or because it did not end within its grace.
    fn crash(&mut self, member: usize, commit: Commit) {
        self.members[member].die(commit, &mut self.database);
        self.replace(member);
    }

    /// Another process takes the seat of one that ended, and Kafka gives it the same partitions.
    fn replace(&mut self, seat: usize) {
        self.members[seat] = member(self.born);
        self.born += 1;
        self.hand_out(seat, seat);
    }

    /// All that the member has been given goes to its heir.
    fn hand_out(&mut self, member: usize, heir: usize) {
        for partition in (0..PARTITIONS).filter(|p| self.owners[*p] == member) {
            self.members[heir].inbox.push_back(GroupEvent::Assigned(partition as i32));
        }
        self.owners.iter_mut().filter(|owner| **owner == member).for_each(|owner| *owner = heir);
    }

    fn rebuild(&mut self, member: usize, heir: usize) {
        let leaver = &mut self.members[member];
        if !leaver.asleep && !leaver.draining {
            leaver.rebuild();
            self.hand_out(member, heir);
        }
    }

    fn move_by(&mut self, partition: usize, by: i64) {
        let row = self.database.rows.get(&(partition as i32));
        let next = row.and_then(|row| row.next).map_or(0, |next| next.0);
        let end = self.logs[partition].end;
        self.database.move_to(partition as i32, (next + by).clamp(0, end), end);
    }

    /// Moves a partition past the bad records it was halted for, unless that was done already.
    pub(super) fn relent(&mut self, partition: usize) {
        let halted = self.members[self.owners[partition]].halted_from(partition as i32);
        let row = self.database.rows.get(&(partition as i32));
        let next = row.and_then(|row| row.next).unwrap_or(Offset(0));
        if let Some(from) = halted.filter(|from| next <= *from) {
            let log = &self.logs[partition];
            self.database.move_to(partition as i32, log.past_bad(from.0), log.end);
        }
    }
}

/// A process with a name that no other had.
fn member(number: usize) -> Member {
    static SETTING: LazyLock<(LaneOptions, Arc<PipelineMetrics>)> =
        LazyLock::new(|| (lane_options(), Arc::new(PipelineMetrics::new())));
    Member::new(format!("w{number}"), &SETTING.0, &SETTING.1)
}
