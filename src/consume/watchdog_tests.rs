#![allow(clippy::unwrap_used)]

use super::*;

const PATIENCE: Duration = Duration::from_secs(120);

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

/// A clock that is set by hand, a watchdog, and what it sees.
struct Watched {
    dog: Watchdog,
    now: Instant,
    seen: Progress,
}

impl Watched {
    /// Several partitions, each ten records behind.
    fn behind(partitions: i32) -> Self {
        let partition = |number| PartitionProgress {
            source: tp(number),
            position: Some(Offset(5)),
            end: Some(Offset(15)),
            behind: true,
            reasons: 3,
        };
        let partitions = (0..partitions).map(partition).collect();
        let seen = Progress { partitions, troubles: 3, hampered: false, joined: true };
        let mut watched = Self { dog: Watchdog::new(PATIENCE), now: Instant::now(), seen };
        assert_eq!(watched.after(1), None, "from here on");
        watched
    }

    /// One partition, which is stuck.
    fn stuck() -> Self {
        Self::behind(1)
    }

    fn look(&mut self) -> Option<Act> {
        self.now += LOOK;
        self.dog.look(self.now, &self.seen)
    }

    /// Looks once a second, for so long; nothing is to be done before the last look.
    fn after(&mut self, seconds: u32) -> Option<Act> {
        (1..seconds).for_each(|second| assert_eq!(self.look(), None, "second {second}"));
        self.look()
    }

    /// The same while these partitions flow: all that was in their logs a look ago is applied.
    fn after_with_flow(&mut self, seconds: u32, flowing: &[usize]) -> Option<Act> {
        let mut act = None;
        for second in 0..seconds {
            assert_eq!(act, None, "second {second}");
            for index in flowing {
                self.moves(*index, 20);
                self.grows(*index, 20);
            }
            act = self.look();
        }
        act
    }

    fn moves(&mut self, index: usize, by: i64) {
        let position = self.seen.partitions[index].position.as_mut().unwrap();
        *position = Offset(position.0 + by);
    }

    fn grows(&mut self, index: usize, by: i64) {
        let end = self.seen.partitions[index].end.as_mut().unwrap();
        *end = Offset(end.0 + by);
    }

    fn all(&self) -> Vec<TopicPartition> {
        self.seen.partitions.iter().map(|partition| partition.source.clone()).collect()
    }
}

#[test]
fn without_progress_it_rebuilds_once_and_then_gives_up_once() {
    let mut watched = Watched::stuck();
    assert_eq!(watched.after(119), None);
    assert_eq!(watched.after(1), Some(Act::Rebuild(vec![tp(0)])));
    assert_eq!(watched.after(119), None);
    assert_eq!(watched.after(1), Some(Act::GiveUp(vec![tp(0)])));
    assert_eq!(watched.after(1000), None, "once each");
}

#[test]
fn progress_however_small_begins_the_watch_anew() {
    let mut watched = Watched::stuck();
    for _ in 0..10 {
        assert_eq!(watched.after(119), None);
        watched.moves(0, 1);
    }
    assert_eq!(watched.after(1), None, "from here on it is stuck again");
    assert_eq!(watched.after(120), Some(Act::Rebuild(vec![tp(0)])));
    watched.moves(0, 1);
    assert_eq!(watched.after(1), None, "the rebuild helped");
    assert_eq!(
        watched.after(120),
        Some(Act::Rebuild(vec![tp(0)])),
        "another time, another rebuild"
    );
}

#[test]
fn one_partition_that_stands_is_found_while_the_others_flow() {
    let mut watched = Watched::behind(4);
    assert_eq!(watched.after_with_flow(120, &[0, 1, 3]), Some(Act::Rebuild(vec![tp(2)])));
    let standing = BTreeMap::from([(tp(2), LOOK)]);
    assert_eq!(watched.after_with_flow(1, &[0, 1, 3]), None);
    assert_eq!(watched.dog.standing(), standing, "told while it lasts");
    assert_eq!(watched.after_with_flow(119, &[0, 1, 3]), Some(Act::GiveUp(vec![tp(2)])));
    assert_eq!(watched.after_with_flow(300, &[0, 1, 3]), None, "others do not make up for it");
    watched.moves(2, 1);
    assert_eq!(watched.after_with_flow(1, &[0, 1, 3]), Some(Act::Recovered));
    assert!(watched.dog.standing().is_empty());
}

#[test]
fn all_that_stand_are_named() {
    let mut watched = Watched::behind(3);
    assert_eq!(watched.after_with_flow(120, &[1]), Some(Act::Rebuild(vec![tp(0), tp(2)])));
    watched.moves(0, 1);
    assert_eq!(watched.after_with_flow(1, &[1]), None, "it helped one, which has a backlog now");
    assert_eq!(watched.after_with_flow(120, &[0, 1]), Some(Act::GiveUp(vec![tp(2)])));
}

#[test]
fn nobody_stands_while_another_partition_works_off_a_backlog() {
    let mut watched = Watched::behind(3);
    // One partition after the other, as librdkafka fetches them: ten minutes each.
    for partition in &mut watched.seen.partitions {
        partition.end = Some(Offset(60_000));
    }
    watched.dog = Watchdog::new(PATIENCE);
    assert_eq!(watched.after(1), None);
    for index in 0..2 {
        for _ in 0..30 {
            assert_eq!(watched.after(19), None, "a batch may take its time");
            watched.moves(index, 1_999);
            assert_eq!(watched.after(1), None);
        }
        watched.seen.partitions[index].position = Some(Offset(60_000));
        watched.seen.partitions[index].behind = false;
    }
    assert_eq!(watched.after(119), None, "nobody is before it any more");
    assert_eq!(watched.after(1), Some(Act::Rebuild(vec![tp(2)])));
}

#[test]
fn a_backlog_that_stands_itself_is_no_excuse() {
    let mut watched = Watched::behind(2);
    watched.grows(1, 1_000_000);
    let all = watched.all();
    assert_eq!(watched.after(120), Some(Act::Rebuild(all)));
}

#[test]
fn neither_an_outage_nor_a_halt_nor_an_empty_topic_is_a_stall() {
    let excuses: [fn(&mut Progress); 4] = [
        |p| p.hampered = true,
        |p| p.troubles += 1,
        |p| p.partitions[0].behind = false,
        |p| p.partitions[0].reasons += 1,
    ];
    for excuse in excuses {
        let mut watched = Watched::stuck();
        for _ in 0..10 {
            assert_eq!(watched.after(119), None);
            excuse(&mut watched.seen);
        }
        assert_eq!(watched.after(1), None);
    }
}

#[test]
fn the_reason_of_one_partition_is_none_for_another() {
    let mut watched = Watched::behind(2);
    for _ in 0..119 {
        watched.seen.partitions[0].reasons += 1;
        assert_eq!(watched.look(), None);
    }
    watched.seen.partitions[0].reasons += 1;
    assert_eq!(watched.look(), Some(Act::Rebuild(vec![tp(1)])));
}

#[test]
fn time_in_which_nobody_looked_does_not_count() {
    let mut watched = Watched::stuck();
    assert_eq!(watched.after(119), None);
    watched.now += Duration::from_secs(600);
    assert_eq!(watched.look(), None, "frozen for ten minutes");
    assert_eq!(watched.after(119), None, "and the watch begins anew");
    assert_eq!(watched.after(1), Some(Act::Rebuild(vec![tp(0)])));
    watched.now += Duration::from_secs(600);
    assert_eq!(watched.after(120), None);
    assert_eq!(watched.after(1), Some(Act::GiveUp(vec![tp(0)])));
}

#[test]
fn looks_a_little_late_count_as_one_each() {
    let mut watched = Watched::stuck();
    for _ in 0..119 {
        watched.now += Duration::from_secs(3);
        assert_eq!(watched.look(), None);
    }
    assert_eq!(watched.look(), Some(Act::Rebuild(vec![tp(0)])));
}

#[test]
fn the_rebuild_itself_takes_partitions_away_and_is_not_forgotten() {
    let mut watched = Watched::stuck();
    assert_eq!(watched.after(120), Some(Act::Rebuild(vec![tp(0)])));
    let assigned = std::mem::take(&mut watched.seen.partitions);
    assert_eq!(watched.after(5), None, "nothing is assigned for a while");
    watched.seen.partitions = assigned;
    assert_eq!(watched.after(1), None);
    assert_eq!(watched.after(119), None);
    assert_eq!(watched.after(1), Some(Act::GiveUp(vec![tp(0)])), "not another rebuild");
}

#[test]
fn a_rebuild_long_past_is_forgotten() {
    let mut watched = Watched::stuck();
    assert_eq!(watched.after(120), Some(Act::Rebuild(vec![tp(0)])));
    let assigned = std::mem::take(&mut watched.seen.partitions);
    assert_eq!(watched.after(120), None, "given to somebody else");
    watched.seen.partitions = assigned;
    assert_eq!(watched.after(1), None);
    assert_eq!(watched.after(120), Some(Act::Rebuild(vec![tp(0)])));
}

#[test]
fn a_group_that_never_takes_the_rebuilt_consumer_back_is_given_up() {
    let mut watched = Watched::stuck();
    assert_eq!(watched.after(120), Some(Act::Rebuild(vec![tp(0)])));
    watched.seen.partitions.clear();
    watched.seen.joined = false;
    assert_eq!(watched.after(119), None);
    assert_eq!(watched.after(1), Some(Act::GiveUp(vec![])));
    assert_eq!(watched.after(1), None, "and nothing assigned is no recovery");
    watched.seen.joined = true;
    assert_eq!(watched.after(1), Some(Act::Recovered));
}

#[test]
fn what_was_given_up_recovers_by_progress_or_when_there_is_a_reason() {
    let ends: [fn(&mut Watched); 4] = [
        |w| w.moves(0, 1),
        |w| w.seen.hampered = true,
        |w| w.seen.partitions[0].behind = false,
        |w| w.seen.partitions.clear(),
    ];
    for end in ends {
        let mut watched = Watched::stuck();
        assert_eq!(watched.after(120), Some(Act::Rebuild(vec![tp(0)])));
        assert_eq!(watched.after(120), Some(Act::GiveUp(vec![tp(0)])));
        end(&mut watched);
        assert_eq!(watched.after(1), Some(Act::Recovered));
        assert_eq!(watched.after(100), None);
    }
}

#[test]
fn zero_turns_it_off() {
    let mut watched = Watched::stuck();
    watched.dog = Watchdog::new(Duration::ZERO);
    assert_eq!(watched.after(10_000), None);
}
