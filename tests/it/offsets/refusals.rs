//! What `offsets move` refuses; nothing is changed then.

use super::{applied_and_stopped, events};
use crate::support::{Scene, unique};

/// One partition whose log is 2..10, and a position at 10.
async fn ten_applied() -> Scene {
    let scene = applied_and_stopped(10).await;
    scene.delete_records_before(0, 2).await;
    scene
}

#[tokio::test]
async fn a_target_outside_the_log_is_refused_and_clamped_only_when_asked() {
    let scene = ten_applied().await;
    let before = scene.standing().await;
    for target in [["--to-offset", "1"], ["--to-offset", "11"], ["--shift-by", "-9"]] {
        let refusal = scene.refused(&scene.moving(&target)).await;
        assert!(refusal.contains("its log is 2..10") && refusal.contains("--clamp"), "{refusal}");
    }
    assert_eq!(scene.standing().await, before);
    assert!(scene.history().await.is_empty());
    scene.moves(&["--to-offset", "1", "--clamp"]).await;
    assert_eq!(scene.standing().await[0].1, Some(2));
}

#[tokio::test]
async fn a_dry_run_shows_everything_and_changes_nothing() {
    let scene = ten_applied().await;
    let before = scene.standing().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = ["--config", file.path().to_str().unwrap()];
    let which = ["move", "--topic", &scene.topic, "--partition", "0", "--to-earliest"];
    let shown = scene.offsets(&[&config[..], &which].concat()).await;
    let line: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line[..6], [scene.topic.as_str(), "0", "10", "2", "0", "8"], "{shown}");
    assert!(shown.contains("dry run: nothing was moved"), "{shown}");
    assert_eq!(scene.standing().await, before);
    assert!(scene.history().await.is_empty());
}

#[tokio::test]
async fn of_two_operators_at_once_one_wins_and_the_other_is_told() {
    let scene = ten_applied().await;
    // Both have looked, and both wait to move.
    let held = scene.hold("SELECT FROM source_offsets FOR UPDATE").await;
    let (back, nowhere) = (["--to-offset", "4"], ["--to-offset", "6"]);
    let ann = scene.worker().command(&[&["offsets"][..], &scene.moving(&back)].concat());
    let bob = scene.worker().command(&[&["offsets"][..], &scene.moving(&nowhere)].concat());
    let both = async { tokio::join!(ann.output(), bob.output()) };
    let release = async {
        scene.waiting_for("source_offsets", 2).await;
        held.release().await;
    };
    let ((ann, bob), ()) = tokio::join!(both, release);
    let (winner, loser) = if ann.0 == Some(0) { (&ann, &bob) } else { (&bob, &ann) };
    assert_eq!((winner.0, loser.0), (Some(0), Some(1)), "{ann:?} {bob:?}");
    assert!(loser.2.contains("claimed or moved meanwhile"), "{}", loser.2);
    assert!(loser.2.contains("operator: ann"), "and by whom: {}", loser.2);
    let history = scene.history().await;
    assert_eq!(history.len(), 1);
    assert_eq!(scene.standing().await[0].1, history[0]["to_offset"].as_i64());
}

#[tokio::test]
async fn a_first_claim_that_comes_between_is_not_overwritten() {
    let scene = Scene::new(1).await;
    scene.migrate().await;
    scene.send(&events(0, 5, 0)).await;
    // A worker that claims a partition nobody had, and takes its time to commit.
    let mut worker = scene.db().await;
    let mut claim = sqlx::Connection::begin(&mut worker).await.unwrap();
    sqlx::query(
        "INSERT INTO source_offsets (consumer_group, topic, partition, claimed_by)
         VALUES ($1, $2, 0, 'a worker')",
    )
    .bind(&scene.group)
    .bind(&scene.topic)
    .execute(&mut *claim)
    .await
    .unwrap();
    let commit = async {
        scene.waiting_for("source_offsets", 1).await;
        claim.commit().await.unwrap();
    };
    let target = scene.moving(&["--to-offset", "3", "--skip"]);
    let (refusal, ()) = tokio::join!(scene.refused(&target), commit);
    let told = "claimed or moved meanwhile (epoch none when looked at, 1 now, a worker)";
    assert!(refusal.contains(told), "{refusal}");
    assert_eq!(scene.standing().await, [(0, None, 1, "a worker".to_owned())]);
    assert!(scene.history().await.is_empty());
}

#[tokio::test]
async fn an_epoch_other_than_the_one_shown_is_refused() {
    let scene = ten_applied().await;
    let epoch = scene.shown().await[0]["epoch"].as_i64().unwrap();
    let (shown, another) = (epoch.to_string(), (epoch - 1).to_string());
    let refusal = scene.refused(&scene.moving(&["--to-earliest", "--if-epoch", &another])).await;
    assert!(refusal.contains("--if-epoch"), "{refusal}");
    scene.moves(&["--to-earliest", "--if-epoch", &shown]).await;
    let row = &scene.history().await[0];
    assert_eq!(row["old_epoch"], epoch);
    assert_eq!(row["new_epoch"], epoch + 1);
}

#[tokio::test]
async fn a_schema_of_another_group_or_cluster_is_neither_shown_nor_moved() {
    let scene = ten_applied().await;
    let before = scene.standing().await;
    let other = unique("other");
    for command in [scene.moving(&["--to-earliest"]), vec!["show"]] {
        let command = [&["offsets"][..], &command].concat();
        let stranger = scene.worker().set("KAFKA__GROUP_ID", &other).command(&command);
        let (code, out, refusal) = stranger.output().await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{refusal}");
        assert!(refusal.contains(&other) && refusal.contains("schema belongs to"), "{refusal}");
    }
    scene.execute("UPDATE worker_identity SET cluster_id = 'elsewhere'").await;
    let refusal = scene.refused(&scene.moving(&["--to-earliest"])).await;
    assert!(refusal.contains("elsewhere"), "{refusal}");
    assert_eq!(scene.standing().await, before);
    assert!(scene.history().await.is_empty());
}

#[tokio::test]
async fn a_topic_or_partition_that_is_not_there_is_refused_and_no_other_is_moved() {
    let scene = ten_applied().await;
    let before = scene.standing().await;
    let topic = scene.topic.clone();
    let execute = ["--to-earliest", "--execute", "--reason", "r"];
    let which = ["move", "--topic", &topic, "--partition", "0,1"];
    let refusal = scene.refused(&[&which[..], &execute].concat()).await;
    assert!(refusal.contains(&format!("{topic}[1]")), "{refusal}");
    let which = ["move", "--topic", "nowhere", "--all-partitions"];
    let refusal = scene.refused(&[&which[..], &execute].concat()).await;
    assert!(refusal.contains("nowhere") && refusal.contains("kafka.topics"), "{refusal}");
    assert_eq!(scene.standing().await, before);
}
