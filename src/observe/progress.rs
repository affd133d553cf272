//! What the board shows of progress, for the watchdog.

use super::board::{Health, Lifecycle, PartitionState, StatusBoard};

/// Whether work is done, and if not, whether that has a known reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Grows whenever a position moves in Postgres.
    pub applied: u64,
    /// Grows whenever somebody reports trouble: Kafka, Postgres or a partition.
    pub troubles: u64,
    /// Records wait in a partition that should be moving: neither paused, fenced or halted, nor
    /// with an error that explains it.
    pub behind: bool,
    /// Kafka or Postgres does not answer.
    pub hampered: bool,
    /// The group has handed out partitions, or none, since this worker last joined it.
    pub joined: bool,
}

impl StatusBoard {
    /// Progress as it is now.
    pub fn progress(&self) -> Progress {
        let lifecycle = self.current_lifecycle();
        let running = lifecycle == Lifecycle::Running;
        let state = self.lock();
        let should_move =
            |state| matches!(state, PartitionState::Claiming | PartitionState::Reading);
        let behind = state.partitions.values().any(|partition| {
            should_move(partition.status.state)
                && partition.status.last_error.is_none()
                && partition.lag_records().is_some_and(|lag| lag > 0)
        });
        Progress {
            applied: state.applied,
            troubles: state.troubles,
            behind: running && behind,
            joined: lifecycle != Lifecycle::Starting,
            hampered: !state.kafka.is_up() || !state.lanes.iter().all(Health::is_up),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::board::Identity;
    use crate::types::{Epoch, Offset, TopicPartition};

    /// A board of a worker whose only partition is ten records behind, with nothing wrong.
    fn behind() -> (StatusBoard, TopicPartition) {
        let identity = Identity { group: "g".to_owned(), worker_id: "w".to_owned() };
        let board = StatusBoard::new(identity, 1);
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

    #[test]
    fn a_partition_that_should_move_and_does_not_is_behind() {
        let (board, source) = behind();
        let before = board.progress();
        assert!(before.behind && !before.hampered);
        board.applied(&[(source.clone(), Offset(5))]);
        assert_eq!(board.progress(), before, "an offset that stands is no progress");
        board.applied(&[(source.clone(), Offset(6))]);
        assert_eq!(board.progress().applied, before.applied + 1);
        board.applied(&[(source, Offset(15))]);
        assert!(!board.progress().behind, "nothing waits");
    }

    #[test]
    fn whoever_has_a_reason_is_not_behind() {
        for state in [PartitionState::Paused, PartitionState::Fenced, PartitionState::Halted] {
            let (board, source) = behind();
            board.state(&source, state);
            assert!(!board.progress().behind, "{state:?}");
        }
        let (board, source) = behind();
        board.state(&source, PartitionState::Claiming);
        assert!(board.progress().behind, "a claim that never comes is a stall");
        board.error(&source, "somebody holds a lock");
        assert!(!board.progress().behind);
        let (board, _) = behind();
        board.lifecycle(Lifecycle::Stopping);
        assert!(!board.progress().behind);
    }

    #[test]
    fn an_outage_hampers_and_its_traces_remain() {
        let (board, source) = behind();
        let before = board.progress().troubles;
        board.postgres(0, Health::down("away"));
        assert!(board.progress().hampered);
        board.postgres(0, Health::Up);
        board.kafka(Health::down("away"));
        assert!(board.progress().hampered);
        board.kafka(Health::Up);
        board.error(&source, "refused");
        let after = board.progress();
        assert!(!after.hampered);
        assert_eq!(after.troubles, before + 3, "seen even by who looks too late");
    }
}
