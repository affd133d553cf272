//! Tens of thousands of schedules without I/O: members of a group with real lanes ([`Lane`]), real
//! decisions where to begin ([`decide`]), who is fenced ([`judge_fence`]), what became of a lost
//! COMMIT and what a move skips, over a model of Kafka and one of Postgres. The poll loop's part is
//! modelled in `member.rs`, since librdkafka cannot be.
//!
//! Everything that can go wrong between the two may happen at any moment: rebalances heard late,
//! members asleep with a transaction under way, crashes, answers lost before and after COMMIT,
//! servers that fall silent, transactions that linger there, a failover that loses the tail, records
//! that trip the breaker or that Postgres will not take, operators who move a partition forward or
//! back, members told to end (and killed when that takes too long) or rebuilt by their watchdog.
//! What must hold all the while is asserted in `database.rs`, `log.rs` and `oracle.rs`; in the end
//! everything must come to rest (`settle.rs`). A schedule that fails is shrunk by proptest and
//! printed.
//!
//! [`Lane`]: crate::batch::Lane
//! [`decide`]: crate::consume::start::decide
//! [`judge_fence`]: crate::apply::judge_fence
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

mod act;
mod database;
mod log;
mod member;
mod oracle;
mod seat;
mod settle;
mod world;

use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::apply::verdict::Verdict;
use crate::apply::{ApplyError, Caps, SessionOptions, WriterOptions};
use crate::batch::{BreakerLimits, LaneOptions, Limits, RetryOptions};
use crate::event::{Rules, Tombstones};
use crate::types::TopicPartition;

use act::Act;
use database::Commit;
use log::Nature;
use seat::Fate;
use world::World;

const PARTITIONS: usize = 3;
const MEMBERS: usize = 3;
const LANES: usize = 2;
/// Records of a batch.
const MAX_EVENTS: usize = 4;
const BREAKER: BreakerLimits = BreakerLimits { consecutive: 2, window: 5, ratio: 0.6 };

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
        limits: Limits { max_events: MAX_EVENTS, max_bytes: 1 << 20, linger: Duration::ZERO },
        breaker: BREAKER,
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

/// A batch was under way when its partition was taken away, and comes back in halves: nobody
/// looks at them as the breaker would.
#[test]
fn dead_letters_of_a_partition_taken_away_do_not_get_past_the_breaker() {
    let (partition, member, lane) = (0, 0, 0);
    let finish = Act::Finish { member, lane, fate: Fate::Served(Commit::Answered) };
    let produce = |nature| Act::Produce { partition, gap: 0, nature };
    let batch = [produce(Nature::Refused), produce(Nature::Malformed), Act::Work { member }];
    let probe = [Act::Work { member }, finish];
    let claim = [Act::Hear { member }, Act::Work { member }, finish];
    let revoke = [Act::Rebalance { partition, member: 2 }, Act::Hear { member }];
    let mut world = World::new();
    probe.into_iter().chain(claim).chain(batch).chain(revoke).for_each(|act| world.act(act));
    for _ in 0..6 {
        world.act(finish);
        world.act(Act::Start { member, lane });
    }
    let stored = &world.database.effects;
    assert!(stored.is_empty(), "{stored:?}");
    world.settles();
}

/// A batch of two records is refused by Postgres for one of them, whose partition was taken away
/// meanwhile: the other is not to blame.
#[test]
fn a_record_left_alone_in_a_batch_is_not_blamed_for_one_that_was_taken_away() {
    let (member, lane) = (0, 0);
    let finish = Act::Finish { member, lane, fate: Fate::Served(Commit::Answered) };
    let rebalance = |partition, member| Act::Rebalance { partition, member };
    let hear = |member| Act::Hear { member };
    let produce = |partition, nature| Act::Produce { partition, gap: 0, nature };
    // The first member reads two partitions on one lane.
    let gather = [hear(1), hear(2), rebalance(1, 0), rebalance(2, 0), hear(1), hear(2)];
    let own = [hear(0), hear(0), hear(0), Act::Work { member }, finish, Act::Work { member }];
    let batch = [produce(0, Nature::Good), produce(2, Nature::Refused), Act::Work { member }];
    let mut world = World::new();
    gather.into_iter().chain(own).for_each(|act| world.act(act));
    for _ in 0..3 {
        world.act(finish);
        world.act(Act::Work { member });
    }
    batch.into_iter().chain([rebalance(2, 1), hear(0)]).for_each(|act| world.act(act));
    for _ in 0..3 {
        world.act(finish);
        world.act(Act::Start { member, lane });
    }
    assert!(world.database.effects.contains(&(0, 0)), "{:?}", world.database.effects);
    world.settles();
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
