//! `/metrics`: everything documented is there, in the format Prometheus reads, and true.

use time::OffsetDateTime;
use tokio::time::Instant;
use user_events_worker::observe::names::{self, Kind};

use crate::support::{Page, Scene, Worker, event, eventually};

const OUTCOMES: &str = "user_events_outcomes_total";

fn outcome(page: &Page, outcome: &str) -> f64 {
    page.only(OUTCOMES, &[("outcome", outcome)])
}

/// Waits until every record received has an outcome, and none waits or is withheld: all by the page
/// itself. (What is withheld is unknown before librdkafka's first statistics.)
async fn settled(worker: &Worker, records: f64) -> Page {
    eventually("every record consumed has an outcome and lag is 0", async || {
        let page = worker.page().await;
        let done = page.sum(OUTCOMES, &[]) == records;
        let known = !page.series(names::WITHHELD_RECORDS, &[]).is_empty();
        (done && known && page.sum(names::LAG_RECORDS, &[]) == 0.0).then_some(page)
    })
    .await
}

#[tokio::test]
async fn after_a_known_load_every_metric_is_there_and_true() {
    let scene = Scene::new(2).await;
    let worker = scene.worker().set("EVENTS__TOMBSTONES", "skip").start().await;
    worker.holds(2).await;
    let repeated = event("u1", "a", "user.created").to(0).sequence(5);
    scene
        .send(&[
            repeated.clone(),
            event("u2", "b", "page.viewed").to(1),
            event("u1", "c", "user.updated").to(0).sequence(6),
            event("u1", "d", "user.updated").to(0).sequence(4),
            repeated,
            event("u3", "e", "x").to(0).raw(Some(b"no json")),
            event("u3", "f", "x").to(1).raw(Some(b"nor this")),
            event("u3", "g", "x").to(1).without("type"),
            event("u3", "h", "x").to(1).raw(None),
        ])
        .await;
    let page = settled(&worker, 9.0).await;

    for metric in names::ALL {
        let family = page.0.get(metric.name).unwrap_or_else(|| panic!("{} is there", metric.name));
        assert_eq!((&*family.kind, &*family.help), (metric.kind.as_str(), metric.help));
        for (_, labels, _) in &family.samples {
            let mut found: Vec<_> = labels.keys().map(String::as_str).collect();
            found.retain(|label| metric.kind != Kind::Histogram || *label != "le");
            let mut documented = metric.labels.to_vec();
            documented.sort_unstable();
            assert_eq!(found, documented, "{}", metric.name);
        }
    }
    for (wanted, records) in
        [("applied", 3.0), ("duplicate", 1.0), ("stale", 1.0), ("dead_lettered", 3.0)]
    {
        assert_eq!(outcome(&page, wanted), records, "{wanted}");
    }
    assert_eq!(outcome(&page, "skipped"), 1.0);
    assert_eq!(page.sum(names::RECORDS_CONSUMED, &[]), 9.0, "each consumed once");
    assert_eq!(page.only(names::RECORDS_CONSUMED, &[("partition", "0")]), 5.0);
    assert_eq!(
        page.only(names::RECORDS_CONSUMED, &[("topic", &scene.topic), ("partition", "1")]),
        4.0
    );
    assert_eq!(page.only(names::DEAD_LETTERS, &[("reason", "not_json")]), 2.0);
    assert_eq!(page.only(names::DEAD_LETTERS, &[("reason", "missing_attribute")]), 1.0);
    assert_eq!(page.sum(names::DEAD_LETTERS, &[]), outcome(&page, "dead_lettered"));

    let batches = page.sum(names::BATCHES, &[]);
    assert_eq!(page.only("user_events_batch_events_count", &[]), batches);
    assert_eq!(page.only("user_events_batch_events_sum", &[]), 9.0);
    assert_eq!(page.only("user_events_apply_duration_seconds_count", &[]), batches);
    assert_eq!(page.only("user_events_end_to_end_seconds_count", &[]), 9.0);
    assert_eq!(page.only("user_events_end_to_end_seconds_bucket", &[("le", "60")]), 9.0);
    assert_eq!(page.only("user_events_end_to_end_seconds_bucket", &[("le", "0.001")]), 0.0);

    assert_eq!(page.series(names::LAG_RECORDS, &[]).len(), 2);
    assert_eq!(page.sum(names::LAG_SECONDS, &[]), 0.0);
    assert_eq!(page.only(names::PARTITIONS_ASSIGNED, &[]), 2.0);
    assert_eq!(page.only(names::PARTITIONS_PAUSED, &[]), 0.0);
    assert_eq!(page.only(names::PARTITIONS_HALTED, &[]), 0.0);
    assert_eq!(page.only(names::REBALANCES, &[("event", "assigned")]), 1.0);
    for never in [names::FENCED, names::APPLY_ERRORS, names::OFFSET_COMMIT_FAILURES] {
        assert_eq!(page.sum(never, &[]), 0.0, "{never}");
    }
    assert_eq!(page.only(names::POSTGRES_UP, &[]), 1.0);
    assert_eq!(page.only(names::KAFKA_UP, &[]), 1.0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(page.only(names::BUILD_INFO, &[("version", version)]), 1.0);
}

#[tokio::test]
async fn lag_tells_how_many_records_wait_and_for_how_long() {
    let scene = Scene::new(2).await;
    let worker = scene.worker().start().await;
    worker.holds(2).await;
    let users = scene.hold("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
    let now = OffsetDateTime::now_utc().unix_timestamp() * 1000;
    let (hour_ago, ahead) = (now - 3_600_000, now + 1_200_000);
    let (old, young) = ([("partition", "0")], [("partition", "1")]);
    scene.send(&[event("u1", "a", "x").to(0).sent_at(hour_ago)]).await;
    scene.send(&[event("u1", "b", "x").to(0), event("u1", "c", "x").to(0)]).await;
    scene.send(&[event("u2", "d", "x").to(1).sent_at(ahead)]).await;

    let (page, seen) = eventually("the page shows what waits", async || {
        let page = worker.page().await;
        let seen = Instant::now();
        let all = page.only(names::LAG_RECORDS, &old) == 3.0
            && page.only(names::LAG_RECORDS, &young) == 1.0
            && page.only(names::LAG_SECONDS, &old) > 3000.0;
        all.then_some((page, seen))
    })
    .await;
    let first = page.only(names::LAG_SECONDS, &old);
    assert!((3600.0..3660.0).contains(&first), "the age of the oldest record: {first}");
    assert_eq!(page.only(names::LAG_SECONDS, &young), 0.0, "never negative");
    assert_eq!(page.sum(OUTCOMES, &[]), 0.0, "nothing counts before its commit");

    let page = eventually("lag grows", async || {
        let page = worker.page().await;
        (page.only(names::LAG_SECONDS, &old) >= first + 1.0).then_some(page)
    })
    .await;
    let grown = page.only(names::LAG_SECONDS, &old) - first;
    let elapsed = seen.elapsed().as_secs_f64();
    assert!(grown <= elapsed + 1.0, "as fast as time passes: {grown} in {elapsed}");

    users.release().await;
    let page = settled(&worker, 4.0).await;
    assert_eq!(page.sum(names::LAG_SECONDS, &[]), 0.0);
    let slowest = "user_events_end_to_end_seconds_bucket";
    assert_eq!(page.only(slowest, &[("le", "60")]), 3.0, "the old one took an hour");
    assert_eq!(page.only(slowest, &[("le", "+Inf")]), 4.0);
}

#[tokio::test]
async fn lag_of_a_partition_is_reported_by_its_owner_only() {
    let scene = Scene::new(2).await;
    let first = scene.worker().start().await;
    first.holds(2).await;
    scene.send(&[event("u1", "a", "x").to(0), event("u2", "b", "x").to(1)]).await;
    scene.caught_up().await;
    let second = scene.worker().start().await;
    second.holds(1).await;
    first.holds(1).await;

    let owned = eventually("each worker reports the lag of one partition", async || {
        let mut owned = Vec::new();
        for worker in [&first, &second] {
            let page = worker.page().await;
            for name in [names::LAG_RECORDS, names::LAG_SECONDS] {
                let series = page.series(name, &[]);
                assert!(series.len() <= 1, "only its own: {series:?}");
                owned.extend(series.into_iter().map(|(labels, _)| labels["partition"].clone()));
            }
        }
        (owned.len() == 4).then_some(owned)
    })
    .await;
    assert_eq!(owned[0], owned[1]);
    assert_eq!(owned[2], owned[3]);
    assert_ne!(owned[0], owned[2]);
    assert!(first.metric(names::REBALANCES, "event=\"revoked\"").await >= 1.0);
    assert_eq!(first.metric(names::PARTITIONS_ASSIGNED, "").await, 1.0);

    assert_eq!(second.stop().await, Some(0));
    first.holds(2).await;
    let page = eventually("the one left reports both again", async || {
        let page = first.page().await;
        (page.series(names::LAG_RECORDS, &[]).len() == 2).then_some(page)
    })
    .await;
    assert_eq!(page.sum(names::LAG_RECORDS, &[]), 0.0);
    assert_eq!(page.only(names::PARTITIONS_ASSIGNED, &[]), 2.0);
}

#[tokio::test]
async fn attempts_that_fail_are_counted_by_kind_and_a_blocked_batch_is_not_lost() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().set("POSTGRES__LOCK_TIMEOUT", "100ms").start().await;
    worker.holds(1).await;
    let users = scene.hold("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
    scene.send(&[event("u1", "a", "x")]).await;
    eventually("an attempt gave up waiting for the lock", async || {
        (worker.metric(names::APPLY_ERRORS, "kind=\"retry\"").await >= 2.0).then_some(())
    })
    .await;
    users.release().await;
    let page = settled(&worker, 1.0).await;
    assert_eq!(outcome(&page, "applied"), 1.0, "counted once, whatever the attempts");
    assert_eq!(page.sum(names::RECORDS_CONSUMED, &[]), 1.0);
    let attempts = page.only("user_events_apply_duration_seconds_count", &[]);
    assert!(attempts > page.sum(names::BATCHES, &[]), "every attempt is timed");
    assert_eq!(worker.stop().await, Some(0));
}
