//! `offsets move`, carried out.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::{applied, applied_and_stopped, claimed_again, events, halted, reads};
use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::{Scene, Worker, event, eventually, unique};

/// The offsets in the ledger.
async fn ledger(scene: &Scene) -> Vec<i64> {
    let rows: Vec<(i64,)> =
        scene.fetch_all("SELECT kafka_offset FROM user_events ORDER BY 1").await;
    rows.into_iter().map(|(offset,)| offset).collect()
}

/// A worker that applied ten events and was stopped; ten more wait.
async fn ten_applied_and_ten_to_come() -> Scene {
    let scene = applied_and_stopped(10).await;
    scene.send(&events(10, 10, 0)).await;
    scene
}

/// Ten events were applied; then the topic was made anew, and holds 25 others.
async fn ten_applied_and_recreated() -> Scene {
    let scene = applied_and_stopped(10).await;
    scene.delete_topic().await;
    scene.create_topic(1).await;
    scene.send(&events(100, 25, 0)).await;
    scene
}

#[tokio::test]
async fn a_rewind_under_load_changes_nothing_and_is_recorded() {
    let scene = Scene::new(3).await;
    let worker = scene.worker().set("BATCH__MAX_EVENTS", "50").start().await;
    let load = scene.produce(Load::mixed(500));
    let mut repeated = 0;
    for _ in 0..3 {
        scene.progresses(300).await;
        let all = ["move", "--topic", &scene.topic, "--all-partitions", "--to-earliest"];
        scene
            .offsets(&[&all[..], &["--execute", "--reason", "a rewind under load"]].concat())
            .await;
        for row in &scene.history().await[..3] {
            assert_eq!((&row["to_offset"], &row["skipped"]), (&0.into(), &0.into()), "{row}");
            assert_eq!(row["repeated"], row["from_offset"], "{row}");
            assert_eq!(row["reason"], "a rewind under load");
            repeated += row["repeated"].as_i64().unwrap();
        }
        eventually("all are claimed again", async || {
            scene.standing().await.iter().all(|row| !row.3.starts_with("operator")).then_some(())
        })
        .await;
    }
    let sent = load.stop().await;
    scene.caught_up().await;
    let mut wrong = scene.discrepancies(&sent, Projection::Whole).await;
    // That a bad record was seen again is what a rewind does.
    wrong.retain(|what| !what.starts_with("dead letters applied more than once"));
    assert!(wrong.is_empty(), "{wrong:?}");
    let all = sent.len() as f64 + repeated as f64;
    eventually("what was repeated was read again", async || {
        (worker.metric("user_events_outcomes_total", "").await >= all).then_some(())
    })
    .await;
    assert!(repeated >= 900, "{repeated}");
    assert_eq!(scene.history().await.len(), 9);
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 0.0);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_move_to_anywhere_in_the_log_goes_on_from_there_and_halts_nothing() {
    let (scene, worker) = applied(10).await;
    let mut read = 10;
    let targets: [(&[&str], i64); 6] = [
        (&["--to-offset", "3"], 7),
        (&["--shift-by", "0"], 0),
        (&["--shift-by", "-1"], 1),
        (&["--to-offset", "9"], 1),
        (&["--to-latest"], 0),
        (&["--to-earliest"], 10),
    ];
    for (target, again) in targets {
        scene.moves(target).await;
        claimed_again(&scene).await;
        scene.caught_up().await;
        read += again;
        eventually(&format!("{read} records are read after {target:?}"), async || {
            let counted = worker.metric("user_events_outcomes_total", "").await;
            (counted == read as f64).then_some(())
        })
        .await;
        assert_eq!(scene.history().await[0]["repeated"], again);
    }
    worker.counted("applied", 10).await;
    assert!(!worker.log().contains("partition halted"), "{}", worker.log());
    scene.send(&events(10, 1, 0)).await;
    scene.caught_up().await;
    worker.counted("applied", 11).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_moved_position_is_not_held_against_the_record_applied_before_it() {
    let scene = ten_applied_and_recreated().await;
    let worker = scene.worker().start().await;
    let reason = halted(&worker).await;
    assert!(reason.contains("recreated") && reason.contains("offsets move"), "{reason}");

    // Exactly where it stands: only the operator's word makes the difference.
    scene.moves(&["--shift-by", "0"]).await;
    scene.caught_up().await;
    reads(&worker).await;
    worker.counted("applied", 15).await;
    assert_eq!(worker.stop().await, Some(0));
}

/// A transaction that leaves offsets and no record.
async fn abort_one(scene: &Scene) {
    const WAIT: std::time::Duration = std::time::Duration::from_secs(30);
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &scene.brokers)
        .set("transactional.id", unique("tx"))
        .create()
        .unwrap();
    producer.init_transactions(WAIT).unwrap();
    producer.begin_transaction().unwrap();
    let record = FutureRecord::<[u8], [u8]>::to(&scene.topic).partition(0).payload(b"x");
    producer.send(record, WAIT).await.unwrap();
    producer.abort_transaction(WAIT).unwrap();
}

/// A position is moved in a recreated topic, and then passes a gap.
async fn passes_a_gap_after_a_move(moved: impl AsyncFnOnce(&Scene)) {
    let scene = ten_applied_and_recreated().await;
    moved(&scene).await;

    let worker = scene.worker().start().await;
    abort_one(&scene).await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
    // The new log has a record at the offset of the last one applied, and it is another.
    let worker = scene.worker().start().await;
    reads(&worker).await;
    scene.send(&events(200, 1, 0)).await;
    scene.caught_up().await;
    worker.counted("applied", 1).await;
    assert!(!worker.log().contains("partition halted"), "{}", worker.log());
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_applied_before_a_move_stays_forgotten_when_the_position_passes_a_gap() {
    passes_a_gap_after_a_move(async |scene| {
        scene.moves(&["--to-latest", "--skip"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_it_after_a_move_by_sql() {
    passes_a_gap_after_a_move(async |scene| {
        let sql = "UPDATE source_offsets
                   SET next_offset = 25, epoch = epoch + 1, claimed_by = 'operator: ann'";
        scene.execute(sql).await;
    })
    .await;
}

#[tokio::test]
async fn a_move_to_a_time_reads_from_the_first_record_not_before_it() {
    let scene = Scene::new(1).await;
    let begin = OffsetDateTime::now_utc() - Duration::hours(1);
    let at = |minute: i64| begin + Duration::minutes(minute);
    let millis = |time: OffsetDateTime| (time.unix_timestamp_nanos() / 1_000_000) as i64;
    let timed: Vec<_> = events(0, 10, 0)
        .into_iter()
        .zip(0..)
        .map(|(event, minute)| event.sent_at(millis(at(minute))))
        .collect();
    scene.send(&timed).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;

    let moved_to = async |time: OffsetDateTime| {
        scene.moves(&["--to-datetime", &time.format(&Rfc3339).unwrap()]).await;
        claimed_again(&scene).await;
        scene.caught_up().await;
        scene.history().await[0]["to_offset"].clone()
    };
    assert_eq!(moved_to(at(6) - Duration::seconds(30)).await, 6);
    assert_eq!(moved_to(begin - Duration::days(1)).await, 0, "before all: the beginning");
    assert_eq!(moved_to(at(60 * 24)).await, 10, "after all: the end");
    worker.counted("duplicate", 4 + 10).await;
    worker.counted("applied", 10).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_skip_to_the_end_counts_what_it_skips_and_the_worker_goes_on_without_it() {
    let (scene, worker) = applied(10).await;
    // The worker's hands are tied while the records come that it shall not read.
    worker.signal(Signal::SIGSTOP);
    scene.send(&events(10, 5, 0)).await;

    let before = scene.standing().await;
    let refusal = scene.refused(&scene.moving(&["--to-latest"])).await;
    assert!(refusal.contains("skips 5 offsets") && refusal.contains("--skip"), "{refusal}");
    assert_eq!(scene.standing().await, before);
    assert!(scene.history().await.is_empty());

    scene.moves(&["--to-latest", "--skip"]).await;
    let row = &scene.history().await[0];
    assert_eq!((&row["skipped"], &row["repeated"]), (&5.into(), &0.into()));
    assert_eq!((&row["from_offset"], &row["to_offset"]), (&10.into(), &15.into()));
    worker.signal(Signal::SIGCONT);
    scene.send(&[event("last", "last", "user.created").to(0)]).await;
    scene.caught_up().await;
    let expected: Vec<i64> = (0..10).chain([15]).collect();
    assert_eq!(ledger(&scene).await, expected);
    reads(&worker).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_partition_halted_over_expired_records_is_moved_on_without_a_restart() {
    let scene = ten_applied_and_ten_to_come().await;
    scene.delete_records_before(0, 15).await;
    let worker: Worker = scene.worker().start().await;
    halted(&worker).await;

    let refusal = scene.refused(&scene.moving(&["--to-earliest"])).await;
    assert!(refusal.contains("skips 5 offsets"), "lost records are not passed over in silence");
    scene.moves(&["--to-earliest", "--skip"]).await;
    scene.caught_up().await;
    reads(&worker).await;
    let expected: Vec<i64> = (0..10).chain(15..20).collect();
    assert_eq!(ledger(&scene).await, expected);
    let row = &scene.history().await[0];
    assert_eq!((&row["log_start"], &row["log_end"]), (&15.into(), &20.into()));
    assert_eq!((&row["from_offset"], &row["skipped"]), (&10.into(), &5.into()));
    assert_eq!(worker.metric("user_events_partitions_halted", "").await, 0.0);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_partition_never_read_begins_where_an_operator_put_it() {
    let scene = Scene::new(2).await;
    scene.migrate().await;
    scene.send(&events(0, 5, 0)).await;
    scene.send(&events(5, 5, 1)).await;
    scene.moves(&["--to-offset", "3", "--skip"]).await;
    let row = &scene.history().await[0];
    assert!(row["from_offset"].is_null() && row["old_epoch"].is_null(), "{row}");
    assert_eq!((&row["to_offset"], &row["skipped"]), (&3.into(), &3.into()));
    let (group,): (String,) = scene.fetch_one("SELECT consumer_group FROM worker_identity").await;
    assert_eq!(group, scene.group, "the schema is taken, as by a worker");

    let worker = scene.worker().start().await;
    scene.caught_up().await;
    let read: Vec<(i32, i64)> = scene
        .fetch_all("SELECT kafka_partition, min(kafka_offset) FROM user_events GROUP BY 1")
        .await;
    assert_eq!(BTreeMap::from_iter(read), BTreeMap::from([(0, 3), (1, 0)]));
    assert_eq!(worker.stop().await, Some(0));
}
