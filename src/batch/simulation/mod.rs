//! Tens of thousands of schedules without I/O: members of a group with real lanes ([`Lane`]), real
//! decisions where to begin ([`decide`]) and who is fenced ([`judge_fence`]), over a model of Kafka
//! and one of Postgres. The poll loop's part is modelled in `member.rs`, since librdkafka cannot be.
//!
//! Everything that can go wrong between the two may happen at any moment: rebalances heard late,
//! members asleep with a transaction under way, crashes, answers lost before and after COMMIT,
//! transactions that linger on the server, a failover that loses the tail, an operator who rewinds.
//! A schedule that fails is shrunk by proptest and printed.
//!
//! [`Lane`]: crate::batch::Lane
//! [`decide`]: crate::consume::start::decide
//! [`judge_fence`]: crate::apply::judge_fence
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

mod act;
mod database;
mod member;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::apply::verdict::Verdict;
use crate::apply::{ApplyError, Batch, Caps, SessionOptions, WriterOptions};
use crate::batch::{BreakerLimits, LaneOptions, Limits, RetryOptions};
use crate::event::{RawRecord, Rules, Tombstones};
use crate::observe::metrics::PipelineMetrics;
use crate::types::{Offset, RecordOffset, TopicPartition};

use act::Act;
use database::{Commit, Database};
use member::{Fate, GroupEvent, Member};

const PARTITIONS: usize = 3;
const MEMBERS: usize = 3;
const LANES: usize = 2;
/// Jobs a lane gets done in the time between two probes.
const JOBS_A_ROUND: usize = 5;

/// A partition's log: records with gaps between them, and where it ends.
#[derive(Default)]
struct Log {
    records: BTreeMap<i64, RawRecord>,
    end: i64,
}

struct World {
    runtime: tokio::runtime::Runtime,
    options: LaneOptions,
    metrics: Arc<PipelineMetrics>,
    logs: Vec<Log>,
    owners: Vec<usize>,
    members: Vec<Member>,
    database: Database,
    replica: Database,
    born: usize,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let guard = runtime.enter();
        let (options, metrics) = (lane_options(), Arc::new(PipelineMetrics::new()));
        let member = |index: usize| Member::new(format!("w{index}"), &options, &metrics);
        let members = (0..MEMBERS).map(member).collect();
        drop(guard);
        let mut world = Self {
            runtime,
            metrics,
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            owners: (0..PARTITIONS).map(|partition| partition % MEMBERS).collect(),
            members,
            database: Database::default(),
            replica: Database::default(),
            born: MEMBERS,
            options,
        };
        for partition in 0..PARTITIONS {
            let owner = world.owners[partition];
            world.members[owner].inbox.push_back(GroupEvent::Assigned(partition as i32));
        }
        world
    }

    fn act(&mut self, act: Act) {
        let handle = self.runtime.handle().clone();
        let _clock = handle.enter();
        match act {
            Act::Produce { partition, gap } => self.logs[partition].produce(partition, gap),
            Act::Marker { partition } => self.logs[partition].end += 1,
            Act::Rebalance { partition, member } => self.rebalance(partition, member),
            Act::Pass { millis } => self.pass(Duration::from_millis(millis)),
            Act::Decide { committed } => self.database.decide(0, committed),
            Act::Sleep { member } => self.members[member].asleep = true,
            Act::Wake { member } => self.members[member].asleep = false,
            Act::Crash { member, commit } => self.crash(member, commit),
            Act::Replicate => self.replica = self.database.clone(),
            Act::FailOver => self.database.fail_over(&self.replica),
            Act::Move { partition, back } => self.move_back(partition, back),
            Act::Hear { member } => self.awake(member, |m, _| m.hear()),
            Act::Confirm { partition, member } if self.owners[partition] == member => {
                self.awake(member, |m, _| m.confirm(partition as i32));
            }
            Act::Confirm { .. } => {}
            Act::Work { member } => self.awake(member, |m, logs| m.work(logs)),
            Act::Deliver { member, lane } => self.awake(member, |m, _| m.deliver(lane)),
            Act::Start { member, lane } => self.awake(member, |m, _| m.start(lane)),
            Act::Read { partition, member } => {
                self.awake(member, |m, logs| m.read(partition as i32, &logs[partition]));
            }
            Act::Repeat { partition, member } => {
                self.awake(member, |m, _| m.step_back(partition as i32));
            }
            Act::Notices { member } => self.awake(member, |m, logs| m.take_notices(logs)),
            // Postgres finishes what a sleeping member has sent; it hears of it when it wakes, which
            // is the same as finishing then.
            Act::Finish { member, lane, fate } => {
                if !self.members[member].asleep {
                    self.members[member].finish(lane, fate, &mut self.database, &self.logs);
                }
            }
        }
    }

    fn awake(&mut self, member: usize, act: impl FnOnce(&mut Member, &[Log])) {
        if !self.members[member].asleep {
            act(&mut self.members[member], &self.logs);
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

    /// A member dies, another process takes its seat, and Kafka gives it the same partitions.
    fn crash(&mut self, member: usize, commit: Commit) {
        self.members[member].die(commit, &mut self.database);
        let name = format!("w{}", self.born);
        self.born += 1;
        self.members[member] = Member::new(name, &self.options, &self.metrics);
        for partition in (0..PARTITIONS).filter(|p| self.owners[*p] == member) {
            let assigned = GroupEvent::Assigned(partition as i32);
            self.members[member].inbox.push_back(assigned);
        }
    }

    fn move_back(&mut self, partition: usize, back: i64) {
        let row = self.database.rows.get(&(partition as i32));
        if let Some(Offset(next)) = row.and_then(|row| row.next) {
            self.database.move_to(partition as i32, Offset((next - back).max(0)));
        }
    }

    /// The faults end. Everything must come to rest by itself, with every record applied.
    fn settles(&mut self) {
        for member in 0..MEMBERS {
            self.act(Act::Wake { member });
        }
        for _ in 0..40 {
            self.round();
            if self.is_settled() {
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
                for lane in 0..LANES {
                    self.act(Act::Finish { member, lane, fate: Fate::Served(Commit::Answered) });
                }
            }
        }
        self.act(Act::Pass { millis: 2_500 });
    }

    fn is_settled(&self) -> bool {
        let at_end = |partition: usize| {
            let row = self.database.rows.get(&(partition as i32));
            let next = row.and_then(|row| row.next);
            let log = &self.logs[partition];
            let applied = log
                .records
                .keys()
                .all(|offset| self.database.effects.contains(&(partition as i32, *offset)));
            next == Some(Offset(log.end)) && applied
        };
        (0..PARTITIONS).all(at_end)
    }
}

impl Log {
    fn produce(&mut self, partition: usize, gap: i64) {
        let offset = self.end + gap;
        let record = RawRecord {
            source: source(partition as i32),
            offset: RecordOffset(offset),
            timestamp_ms: Some(offset),
            key: Some(b"u".to_vec()),
            value: Some(VALUE.into()),
            headers: Vec::new(),
        };
        self.records.insert(offset, record);
        self.end = offset + 1;
    }
}

/// A batch must hold exactly the records its ranges pass over: whatever is missing would be lost.
fn is_complete(batch: &Batch, logs: &[Log]) {
    for (index, range) in batch.ranges.iter().enumerate() {
        let held: Vec<i64> = batch
            .items
            .iter()
            .filter(|item| item.range == index)
            .map(|item| item.record.offset.0)
            .collect();
        let from = range.from.map_or(0, |from| from.0);
        assert!(from <= range.to.0, "backwards: {range:?}");
        let log = &logs[range.source.partition as usize];
        let there: Vec<i64> = log.records.range(from..range.to.0).map(|(at, _)| *at).collect();
        assert_eq!(held, there, "{range:?}");
    }
}

const VALUE: &[u8] =
    br#"{"specversion":"1.0","id":"0190b4f7-1f6e-7c3a-8a5e-3c1d2b4a5f60","source":"/s",
"type":"page.viewed","subject":"u","time":"2026-01-01T00:00:00Z","data":{}}"#;

fn now() -> OffsetDateTime {
    datetime!(2026-01-02 00:00 UTC)
}

fn source(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn failure(verdict: Verdict) -> ApplyError {
    ApplyError { verdict, step: "simulated", source: sqlx::Error::WorkerCrashed }
}

fn lane_options() -> LaneOptions {
    let caps = Caps { key: 64, value: 64, headers: 64 };
    let second = Duration::from_secs(1);
    LaneOptions {
        index: 0,
        group: "g".into(),
        limits: Limits { max_events: 4, max_bytes: 1 << 20, linger: Duration::ZERO },
        breaker: BreakerLimits { consecutive: 0, window: 0, ratio: 0.0 },
        rules: Rules {
            max_record_bytes: 1 << 20,
            max_future: second,
            retention: Duration::from_secs(400 * 86_400),
            tombstones: Tombstones::default(),
        },
        caps,
        retry: RetryOptions { initial: Duration::from_millis(100), max: second },
        writer: WriterOptions {
            session: SessionOptions {
                connect: sqlx::postgres::PgConnectOptions::new_without_pgpass(),
                schema: "s".into(),
                statement_cache: true,
                connect_timeout: second,
                statement_timeout: second,
                lock_timeout: second,
                idle_in_transaction_timeout: second,
            },
            group: "g".into(),
            worker: "w".into(),
            caps,
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn whatever_the_schedule_every_record_takes_effect_once_and_everything_settles(
        schedule in prop::collection::vec(any::<u32>().prop_map(Act::from_bits), 50..250),
    ) {
        let mut world = World::new();
        for act in schedule {
            world.act(act);
        }
        world.settles();
    }
}
