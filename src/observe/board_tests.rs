#![allow(clippy::unwrap_used)]

use super::*;

fn board() -> StatusBoard {
    StatusBoard::new(Identity { group: "g".to_owned(), worker_id: "w".to_owned() })
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn only(board: &StatusBoard) -> PartitionView {
    let mut views = board.partitions();
    assert_eq!(views.len(), 1);
    views.remove(0)
}

#[test]
fn a_partition_lives_from_assignment_to_revocation() {
    let board = board();
    board.assigned(&tp(0));
    assert_eq!(only(&board).status.state, PartitionState::Claiming);
    assert_eq!((only(&board).lag_records, only(&board).lag_seconds), (None, None));

    board.claimed(&tp(0), Epoch(7), Some(Offset(10)));
    assert_eq!(only(&board).status.state, PartitionState::Claiming, "nothing is read yet");
    board.reading(&tp(0), PartitionState::Reading);
    board.error(&tp(0), "a passing trouble");
    let view = only(&board);
    assert_eq!(view.status.state, PartitionState::Reading);
    assert_eq!((view.status.epoch, view.status.applied), (Some(Epoch(7)), Some(Offset(10))));
    assert_eq!(view.status.last_error.as_deref(), Some("a passing trouble"));

    board.end(&tp(0), Offset(15));
    assert_eq!(only(&board).lag_records, Some(5));
    board.applied(&[(tp(0), Offset(17))]);
    let view = only(&board);
    assert_eq!((view.lag_records, view.lag_seconds), (Some(0), Some(0.0)));
    assert_eq!(view.status.last_error, None);

    board.revoked(&tp(0));
    assert!(board.partitions().is_empty());
    // A lane that had not heard yet does not bring it back.
    board.applied(&[(tp(0), Offset(20))]);
    board.state(&tp(0), PartitionState::Paused);
    assert!(board.partitions().is_empty());

    board.assigned(&tp(0));
    assert_eq!(only(&board).status.applied, None);
}

#[test]
fn lag_seconds_is_an_age() {
    let board = board();
    board.assigned(&tp(0));
    board.claimed(&tp(0), Epoch(1), Some(Offset(0)));
    board.end(&tp(0), Offset(3));
    let fell_behind = Instant::now();
    let seconds = |now_ms, later| {
        let at = fell_behind + Duration::from_secs(later);
        board.partitions_at(at, now_ms)[0].lag_seconds.unwrap()
    };
    // Nothing received yet: the time since it fell behind, which new ends do not reset.
    board.end(&tp(0), Offset(4));
    assert!((9.9..=10.1).contains(&seconds(0, 10)));
    // Then the age of the oldest record, whatever our own clock said before.
    board.pending(&tp(0), Some(1_000));
    assert!((seconds(5_500, 10) - 4.5).abs() < 1e-9);
    // A producer's clock ahead of ours makes no negative age.
    board.pending(&tp(0), Some(9_000));
    assert!(seconds(5_500, 10).abs() < 1e-9);
    board.applied(&[(tp(0), Offset(4))]);
    assert!(seconds(50_000, 10).abs() < 1e-9);
}

#[test]
fn lag_of_a_partition_that_stands_outlives_a_rebalance() {
    let board = board();
    let later = Instant::now() + Duration::from_secs(100);
    let reassigned_at = |position| {
        board.revoked(&tp(0));
        board.assigned(&tp(0));
        board.claimed(&tp(0), Epoch(1), Some(Offset(position)));
        assert_eq!(only(&board).lag_seconds, None, "the end is not known yet");
        board.end(&tp(0), Offset(15));
        board.partitions_at(later, 0)[0].lag_seconds.unwrap()
    };
    let first = reassigned_at(10);
    std::thread::sleep(Duration::from_millis(10));
    let second = reassigned_at(10);
    assert!((first - second).abs() < f64::EPSILON, "behind all the while: {first}, {second}");
    assert!(reassigned_at(11) <= first - 0.01, "somebody else has applied of it");
}

#[test]
fn readiness_names_every_reason() {
    let board = board();
    assert_eq!(board.readiness().unwrap_err(), ["starting", "Postgres, lane 0: not connected yet"]);
    board.connected(2);
    board.assigned(&tp(0));
    board.postgres(1, Health::down("connection refused"));
    assert_eq!(
        board.readiness().unwrap_err(),
        ["starting", "t[0] is not claimed yet", "Postgres, lane 1: connection refused"]
    );
    board.lifecycle(Lifecycle::Running);
    board.postgres(1, Health::Up);
    board.postgres(9, Health::down("no such lane"));
    board.claimed(&tp(0), Epoch(1), Some(Offset(0)));
    assert_eq!(board.readiness().unwrap_err(), ["t[0] is not claimed yet"], "nor read");
    board.reading(&tp(0), PartitionState::Reading);
    board.readiness().unwrap();
    // One broken partition must not stall a rolling deployment.
    board.state(&tp(0), PartitionState::Halted);
    board.readiness().unwrap();
    board.state(&tp(0), PartitionState::Fenced);
    board.readiness().unwrap();
    board.revoked(&tp(0));
    board.readiness().unwrap();
    board.lifecycle(Lifecycle::Stopping);
    assert_eq!(board.readiness().unwrap_err(), ["stopping"]);
}

#[test]
fn what_halted_a_partition_is_shown_until_reading_begins() {
    let board = board();
    board.assigned(&tp(0));
    board.state(&tp(0), PartitionState::Halted);
    board.error(&tp(0), "records were deleted");
    board.claimed(&tp(0), Epoch(2), Some(Offset(0)));
    let status = only(&board).status;
    assert_eq!(status.state, PartitionState::Halted);
    assert_eq!(status.last_error.as_deref(), Some("records were deleted"));
    board.reading(&tp(0), PartitionState::Paused);
    let status = only(&board).status;
    assert_eq!((status.state, status.last_error), (PartitionState::Paused, None));
}

#[test]
fn liveness_names_stalled_loops() {
    let board = board();
    let poll = board.heartbeat("poll");
    let lane = board.heartbeat("lane 0");
    let stall = Duration::from_millis(200);
    board.liveness(stall).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    poll.beat();
    assert_eq!(board.liveness(stall).unwrap_err(), ["lane 0 has not turned for 0 s"]);
    lane.finish();
    board.liveness(stall).unwrap();
    // A loop that dies without a word is missed.
    drop(poll);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(board.liveness(stall).unwrap_err(), ["poll has not turned for 0 s"]);
}
