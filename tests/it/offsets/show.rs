//! `offsets show`.

use super::{applied_and_stopped, events, halted};
use crate::support::{Scene, eventually};

#[tokio::test]
async fn show_tells_the_truth_with_and_without_a_running_worker() {
    let scene = Scene::new(2).await;
    scene.migrate().await;
    scene.send(&events(0, 10, 0)).await;
    for row in scene.shown().await {
        assert!(row["next_offset"].is_null() && row["claimed_by"].is_null(), "{row}");
        assert!(row["note"].as_str().unwrap().contains("never read"), "{row}");
    }

    let worker = scene.worker().start().await;
    scene.caught_up().await;
    let status = eventually("nothing is unknown any more", async || {
        let status = worker.status().await;
        let partitions = status["partitions"].as_array()?;
        partitions.iter().all(|p| !p["withheld_records"].is_null()).then_some(status)
    })
    .await;
    let shown = scene.shown().await;
    assert_eq!(shown.len(), 2);
    for (row, number) in shown.iter().zip(0..) {
        let partitions = status["partitions"].as_array().unwrap();
        let told = partitions.iter().find(|told| told["partition"] == number).unwrap();
        assert_eq!(row["topic"], scene.topic.as_str());
        assert_eq!(row["partition"], number);
        assert_eq!(row["next_offset"], if number == 0 { 10 } else { 0 });
        assert_eq!(row["log_start"], 0);
        assert_eq!(row["log_end"], row["next_offset"]);
        assert_eq!(row["lag"], 0);
        assert_eq!(row["epoch"], told["epoch"]);
        assert_eq!(row["claimed_by"], status["worker_id"]);
        assert!(row["claimed_at"].is_string() && row["note"].is_null(), "{row}");
    }
    assert_eq!(worker.status().await["partitions"], status["partitions"], "nobody was disturbed");
    assert_eq!(worker.stop().await, Some(0));

    scene.send(&events(10, 5, 0)).await;
    let row = &scene.shown().await[0];
    assert_eq!((&row["next_offset"], &row["log_end"]), (&10.into(), &15.into()));
    assert_eq!(row["lag"], 5);
    assert_eq!(row["claimed_by"], status["worker_id"], "who claimed it last");

    let table = scene.offsets(&[]).await;
    let line = table.lines().nth(1).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells[..6], [scene.topic.as_str(), "0", "10", "0", "15", "5"], "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
}

#[tokio::test]
async fn a_position_outside_the_log_is_told_in_the_words_of_the_status() {
    let scene = applied_and_stopped(10).await;
    scene.send(&events(10, 10, 0)).await;
    scene.delete_records_before(0, 15).await;
    let worker = scene.worker().start().await;
    let reason = halted(&worker).await;
    assert!(reason.contains("records 10..15 were deleted"), "{reason}");
    assert!(reason.contains("user-events-worker offsets move"), "the mend is named: {reason}");
    let row = &scene.shown().await[0];
    assert_eq!(row["note"], reason.as_str());
    assert_eq!((&row["log_start"], &row["lag"]), (&15.into(), &10.into()));
    let table = scene.offsets(&["show"]).await;
    assert!(table.contains(&reason), "{table}");
}

#[tokio::test]
async fn a_topic_that_is_gone_or_not_configured_is_named() {
    let scene = applied_and_stopped(3).await;
    let refusal = scene.refused(&["show", "--topic", "elsewhere"]).await;
    assert!(refusal.contains("elsewhere") && refusal.contains(&scene.topic), "{refusal}");
    scene.delete_topic().await;
    let row = &scene.shown().await[0];
    assert_eq!(row["next_offset"], 3);
    assert!(row["log_end"].is_null() && row["lag"].is_null(), "{row}");
    assert!(row["note"].as_str().unwrap().contains("no such partition"), "{row}");
}
