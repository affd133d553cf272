//! What the board shows of progress, for the watchdog.

use super::board::{Health, Lifecycle, StatusBoard};
use crate::types::{Offset, TopicPartition};

/// Whether work is done, and if not, whether that has a known reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Every partition of ours, in order.
    pub partitions: Vec<PartitionProgress>,
    /// Grows whenever somebody reports trouble with Kafka or Postgres.
    pub troubles: u64,
    /// Kafka or Postgres does not answer.
    pub hampered: bool,
    /// The group has handed out partitions, or none, since this worker last joined it.
    pub joined: bool,
}

/// The same of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionProgress {
    /// Which.
    pub source: TopicPartition,
    /// Its position in Postgres.
    pub position: Option<Offset>,
    /// The end of its log, as last asked for.
    pub end: Option<Offset>,
    /// Records wait that should be moving: it is neither paused, fenced nor halted, nor does an
    /// error explain it.
    pub behind: bool,
    /// Grows with everything that is a reason to wait, over before somebody looks or not.
    pub reasons: u64,
}

impl StatusBoard {
    /// Progress as it is now.
    pub fn progress(&self) -> Progress {
        let lifecycle = self.current_lifecycle();
        let running = lifecycle == Lifecycle::Running;
        let state = self.lock();
        let partitions = state.partitions.iter().map(|(source, partition)| PartitionProgress {
            source: source.clone(),
            position: partition.status.applied,
            end: partition.status.end,
            behind: running && partition.should_move(),
            reasons: partition.reasons,
        });
        Progress {
            partitions: partitions.collect(),
            troubles: state.troubles,
            hampered: !state.kafka.is_up() || !state.lanes.iter().all(Health::is_up),
            joined: lifecycle != Lifecycle::Starting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::board::{Identity, PartitionState};
    use crate::types::Epoch;

    /// A board of a worker whose only partition is ten records behind, with nothing wrong.
    fn behind() -> (StatusBoard, TopicPartition) {
        let identity = Identity { group: "g".to_owned(), worker_id: "w".to_owned() };
        let board = StatusBoard::new(identity);
        let source = TopicPartition::new("t", 0);
        board.kafka(Health::Up);
        board.postgres(0, Health::Up);
        board.joined();
        board.assigned(&source);
        board.claimed(&source, Epoch(1), Some(Offset(5)));
        board.end(&source, Offset(15));
        board.reading(&source, PartitionState::Reading);
        (board, source)
    }

    fn only(board: &StatusBoard) -> PartitionProgress {
        let mut partitions = board.progress().partitions;
        assert_eq!(partitions.len(), 1);
        partitions.remove(0)
    }

    #[test]
    fn a_partition_that_should_move_and_does_not_is_behind() {
        let (board, source) = behind();
        let before = board.progress();
        assert!(only(&board).behind && !before.hampered);
        board.applied(&[(source.clone(), Offset(5))]);
        assert_eq!(board.progress(), before, "an offset that stands is no progress");
        board.applied(&[(source.clone(), Offset(6))]);
        assert_eq!(only(&board).position, Some(Offset(6)));
        board.applied(&[(source, Offset(15))]);
        assert!(!only(&board).behind, "nothing waits");
    }

    #[test]
    fn whoever_has_a_reason_is_not_behind() {
        for state in [PartitionState::Paused, PartitionState::Fenced, PartitionState::Halted] {
            let (board, source) = behind();
            board.state(&source, state);
            assert!(!only(&board).behind, "{state:?}");
        }
        let (board, source) = behind();
        board.state(&source, PartitionState::Claiming);
        assert!(only(&board).behind, "a claim that never comes is a stall");
        board.error(&source, "somebody holds a lock");
        assert!(!only(&board).behind);
        let (board, _) = behind();
        board.lifecycle(Lifecycle::Stopping);
        assert!(!only(&board).behind);
    }

    #[test]
    fn a_reason_that_is_over_leaves_its_trace() {
        let reasons: [fn(&StatusBoard, &TopicPartition); 3] = [
            |board, source| board.state(source, PartitionState::Paused),
            |board, source| board.error(source, "refused"),
            |board, source| board.wait([source].into_iter()),
        ];
        for reason in reasons {
            let (board, source) = behind();
            let before = only(&board).reasons;
            reason(&board, &source);
            board.reading(&source, PartitionState::Reading);
            assert!(only(&board).behind);
            assert_eq!(only(&board).reasons, before + 1, "seen even by who looks too late");
        }
    }

    #[test]
    fn an_outage_hampers_and_its_traces_remain() {
        let (board, _) = behind();
        let before = board.progress().troubles;
        board.postgres(0, Health::down("away"));
        assert!(board.progress().hampered);
        board.postgres(0, Health::Up);
        board.kafka(Health::down("away"));
        assert!(board.progress().hampered);
        board.kafka(Health::Up);
        let after = board.progress();
        assert!(!after.hampered);
        assert_eq!(after.troubles, before + 2, "seen even by who looks too late");
    }
}
