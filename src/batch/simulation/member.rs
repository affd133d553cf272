//! A member of the group: real lanes, and as much of the poll loop as talks to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::apply::{AfterFence, Claim, Fingerprint};
use crate::batch::lane::LaneOptions;
use crate::batch::{Control, Delivery, Generation, Notice};
use crate::config::StartFrom;
use crate::consume::start::{LogEnds, Start, decide};
use crate::observe::board::{Identity, StatusBoard};
use crate::observe::metrics::PipelineMetrics;
use crate::types::{Epoch, Offset};

use super::database::{Commit, Database};
use super::log::Log;
use super::seat::{Fate, Seat};
use super::{LANES, source};

/// Deliveries a lane's queue holds.
const QUEUE: usize = 6;

/// What Kafka tells a member, sooner or later.
#[derive(Clone, Copy, Debug)]
pub(super) enum GroupEvent {
    Assigned(i32),
    Revoked(i32),
}

enum Phase {
    Claiming,
    Reading {
        start: Start,
        at: i64,
    },
    Fenced,
    /// The breaker tripped; nothing from here on was stored.
    Halted {
        from: Offset,
    },
}

struct Reader {
    lane: usize,
    generation: Generation,
    /// The epoch as its claim found it; renewals raised it since.
    claim: Epoch,
    phase: Phase,
}

pub(super) struct Member {
    pub(super) name: String,
    pub(super) asleep: bool,
    pub(super) draining: bool,
    /// Told by Kafka, and not yet heard.
    pub(super) inbox: VecDeque<GroupEvent>,
    seats: Vec<Seat>,
    readers: BTreeMap<i32, Reader>,
    generations: u64,
}

impl Member {
    pub(super) fn new(name: String, options: &LaneOptions, metrics: &Arc<PipelineMetrics>) -> Self {
        let identity = Identity { group: "g".into(), worker_id: name.clone() };
        let board = StatusBoard::new(identity);
        board.connected(LANES);
        let seat = |index| {
            let options = LaneOptions { index, ..options.clone() };
            Seat::new(options, board.clone(), metrics.clone())
        };
        Self {
            name,
            asleep: false,
            draining: false,
            inbox: VecDeque::new(),
            seats: (0..LANES).map(seat).collect(),
            readers: BTreeMap::new(),
            generations: 0,
        }
    }

    /// Hears one thing from Kafka.
    pub(super) fn hear(&mut self) {
        match self.inbox.pop_front() {
            Some(GroupEvent::Assigned(partition)) => {
                let load = |lane: &usize| self.readers.values().filter(|r| r.lane == *lane).count();
                let lane = (0..LANES).min_by_key(load).unwrap_or(0);
                let generation = Generation::default();
                let reader = Reader { lane, generation, claim: Epoch(0), phase: Phase::Claiming };
                self.readers.insert(partition, reader);
                self.claim(partition);
            }
            Some(GroupEvent::Revoked(partition)) => self.let_go(partition),
            None => {}
        }
    }

    fn let_go(&mut self, partition: i32) {
        if let Some(reader) = self.readers.remove(&partition) {
            let revoke = Control::Revoke(vec![source(partition)]);
            self.seats[reader.lane].lane.on_control(revoke);
        }
    }

    /// Leaves the group with the old consumer, and all that was to be heard by it.
    pub(super) fn rebuild(&mut self) {
        self.inbox.clear();
        (0..super::PARTITIONS).for_each(|partition| self.let_go(partition as i32));
    }

    /// Asked to stop: the lanes finish what they took.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.seats.iter_mut().for_each(|seat| seat.lane.on_control(Control::Drain));
    }

    /// Every lane has drained: the process ends.
    pub(super) fn has_left(&self) -> bool {
        self.draining && self.seats.iter().all(|seat| seat.drained)
    }

    /// Nothing more will happen before time passes, or something is heard.
    pub(super) fn is_idle(&self) -> bool {
        self.seats.iter().all(Seat::is_idle)
    }

    fn claim(&mut self, partition: i32) {
        if self.draining {
            return;
        }
        self.generations += 1;
        let Some(reader) = self.readers.get_mut(&partition) else { return };
        reader.generation = Generation(self.generations);
        reader.phase = Phase::Claiming;
        let wanted = vec![(source(partition), reader.generation)];
        self.seats[reader.lane].lane.on_control(Control::Claim(wanted));
    }

    /// A fenced partition that has long been ours without dispute is claimed again.
    pub(super) fn confirm(&mut self, partition: i32) {
        if self.readers.get(&partition).is_some_and(|r| matches!(r.phase, Phase::Fenced)) {
            self.claim(partition);
        }
    }

    /// Something is odd about a log, or a record failed its checksum: what is being read is
    /// claimed again, and so read again from where Postgres stands.
    pub(super) fn verify(&mut self, partition: i32) {
        if self.is_reading(partition) {
            self.claim(partition);
        }
    }

    pub(super) fn is_reading(&self, partition: i32) -> bool {
        self.readers.get(&partition).is_some_and(|r| matches!(r.phase, Phase::Reading { .. }))
    }

    /// The first record not stored, if the partition's breaker has tripped.
    pub(super) fn halted_from(&self, partition: i32) -> Option<Offset> {
        match self.readers.get(&partition)?.phase {
            Phase::Halted { from } => Some(from),
            _ => None,
        }
    }

    /// Takes the lanes' answers.
    pub(super) fn take_notices(&mut self, logs: &[Log], database: &mut Database) {
        let notices: Vec<Notice> =
            self.seats.iter().flat_map(|seat| seat.notices.try_iter()).collect();
        for notice in notices {
            match notice {
                Notice::Claimed(generation, claim) => self.begin(generation, &claim, logs),
                Notice::Fenced(generation, source, after) => {
                    let Some(reader) = self.current(source.partition, generation) else { continue };
                    match after {
                        AfterFence::ClaimAgain => self.claim(source.partition),
                        AfterFence::WaitForKafka => reader.phase = Phase::Fenced,
                    }
                }
                Notice::Poisoned(generation, source, poisoned) => {
                    let Some(reader) = self.current(source.partition, generation) else { continue };
                    reader.phase = Phase::Halted { from: poisoned.from };
                    let log = &logs[source.partition as usize];
                    database.has_cause_to_trip(&source, reader.claim, poisoned.from, log);
                }
                Notice::Committed(offsets) => database.has_seen(&offsets),
                Notice::Drained { .. } => unreachable!("sent by the loop that is left out here"),
            }
        }
    }

    fn current(&mut self, partition: i32, generation: Generation) -> Option<&mut Reader> {
        self.readers.get_mut(&partition).filter(|reader| reader.generation == generation)
    }

    fn begin(&mut self, generation: Generation, claim: &Claim, logs: &[Log]) {
        let partition = claim.source.partition;
        let Some(reader) = self.current(partition, generation) else { return };
        let high = Offset(logs[partition as usize].end);
        let ends = LogEnds { low: Offset(0), high, committed: None };
        let start = decide(claim, ends, StartFrom::Earliest).expect("the log only grows");
        reader.claim = claim.epoch;
        reader.phase = Phase::Reading { start, at: start.fetch.0 };
        let lane = reader.lane;
        if claim.next.is_none() {
            let advance = Delivery::Advance(generation, claim.source.clone(), start.next);
            self.seats[lane].queue.push_back(advance);
        }
    }

    /// Everything that needs no answer from Postgres.
    pub(super) fn work(&mut self, logs: &[Log], database: &mut Database) {
        self.take_notices(logs, database);
        for (partition, log) in logs.iter().enumerate() {
            while self.read(partition as i32, log) {}
        }
        for lane in 0..LANES {
            self.deliver(lane);
            self.start(lane, database);
        }
    }

    /// Reads the next record of a partition, or past the end of it; false if there is nothing to
    /// read or no room for it.
    pub(super) fn read(&mut self, partition: i32, log: &Log) -> bool {
        let Some(reader) = self.readers.get_mut(&partition) else { return false };
        let Phase::Reading { start, at } = &mut reader.phase else { return false };
        let queue = &mut self.seats[reader.lane].queue;
        if self.draining || *at >= log.end || queue.len() >= QUEUE {
            return false;
        }
        let delivery = match log.records.range(*at..).next() {
            Some((offset, (_, record))) => {
                *at = offset + 1;
                let admitted = start.admit(|| Fingerprint::of(record), Offset(*offset));
                if !admitted.expect("the log is the one it was") {
                    return true;
                }
                Delivery::Record(reader.generation, record.clone())
            }
            None => {
                *at = log.end;
                Delivery::Advance(reader.generation, source(partition), Offset(log.end))
            }
        };
        queue.push_back(delivery);
        true
    }

    /// Reads again from where reading began.
    pub(super) fn step_back(&mut self, partition: i32) {
        if let Some(Reader { phase: Phase::Reading { start, at }, .. }) =
            self.readers.get_mut(&partition)
        {
            *at = start.fetch.0;
        }
    }

    pub(super) fn deliver(&mut self, lane: usize) {
        self.seats[lane].deliver();
    }

    pub(super) fn start(&mut self, lane: usize, database: &Database) {
        self.seats[lane].start(database);
    }

    /// Ends a lane's job.
    pub(super) fn finish(
        &mut self,
        lane: usize,
        fate: Fate,
        database: &mut Database,
        logs: &[Log],
    ) {
        self.seats[lane].finish(&self.name, fate, database, logs);
    }

    /// A lane's server has been silent for so long that it must be gone.
    pub(super) fn lose_server(&mut self, lane: usize, commit: Commit, database: &mut Database) {
        let seat = &mut self.seats[lane];
        if seat.cut_off(&self.name, commit, database) {
            seat.lane.start_over();
        }
    }

    /// Dies with whatever it was doing: a transaction it had sent off may or may not be committed.
    pub(super) fn die(&mut self, commit: Commit, database: &mut Database) {
        for seat in &mut self.seats {
            seat.cut_off(&self.name, commit, database);
        }
    }
}
