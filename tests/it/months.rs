//! The ledger's months: made when needed, by whoever comes first, and never again once dropped.

use std::collections::BTreeSet;

use time::{Date, Duration, OffsetDateTime, UtcOffset};
use tokio::task::JoinSet;

use crate::support::{EventBuilder, Scene, ago, event, eventually};

/// The months of the ledger, as their tables are named.
async fn months(scene: &Scene) -> BTreeSet<String> {
    let sql = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = 'user_events'::regclass";
    scene.fetch_all::<(String,)>(sql).await.into_iter().map(|(name,)| name).collect()
}

fn name_of(day: Date) -> String {
    format!("user_events_{}_{:02}", day.year(), u8::from(day.month()))
}

/// The first days of this month and of those before it, newest first.
fn first_days(count: usize) -> Vec<Date> {
    let first = |day: Date| day.replace_day(1).unwrap();
    let this = first(OffsetDateTime::now_utc().date());
    std::iter::successors(Some(this), |day| Some(first(*day - Duration::days(1))))
        .take(count)
        .collect()
}

fn midnight(day: Date) -> OffsetDateTime {
    day.midnight().assume_offset(UtcOffset::UTC)
}

#[tokio::test]
async fn an_old_event_makes_its_month() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    scene.send(&[event("ann", "1", "login")]).await;
    scene.caught_up().await;
    let (old, before) = (ago(Duration::days(200)), months(&scene).await);
    assert!(!before.contains(&name_of(old.date())));
    scene.send(&[event("ann", "2", "login").at(old)]).await;
    scene.caught_up().await;
    let mut after = before;
    after.insert(name_of(old.date()));
    assert_eq!(months(&scene).await, after, "this month, the next, and that one");
    let (table,): (String,) = scene
        .fetch_one("SELECT tableoid::regclass::text FROM user_events WHERE kafka_offset = 1")
        .await;
    assert!(table.ends_with(&name_of(old.date())), "{table}");
    worker.counted("applied", 2).await;
}

#[tokio::test]
async fn one_batch_may_reach_over_fourteen_months_to_the_microsecond() {
    let days = first_days(14);
    // Each month's first and (but for this one) last microsecond.
    let times: Vec<OffsetDateTime> = days
        .iter()
        .flat_map(|day| [midnight(*day), midnight(*day) - Duration::MICROSECOND])
        .take(27)
        .collect();
    let scene = Scene::new(1).await;
    let events: Vec<EventBuilder> = times
        .iter()
        .enumerate()
        .map(|(n, at)| event("ann", &n.to_string(), "login").at(*at))
        .collect();
    scene.send(&events).await;
    let worker = scene.worker().set("LEDGER__RETENTION", "500d").set("BATCH__LINGER", "3s");
    let _worker = worker.start().await;
    scene.caught_up().await;
    assert_eq!(scene.count("SELECT count(DISTINCT received_at) FROM user_events").await, 1);
    assert_eq!(scene.count("SELECT event_count FROM users").await, 27);
    let tables: Vec<(String,)> = scene
        .fetch_all(
            "SELECT right(tableoid::regclass::text, 19) FROM user_events ORDER BY kafka_offset",
        )
        .await;
    let expected: Vec<_> = times.iter().map(|at| (name_of(at.date()),)).collect();
    assert_eq!(tables, expected);
}

#[tokio::test]
async fn lanes_and_workers_that_need_the_same_months_at_once_all_get_them() {
    let scene = Scene::new(6).await;
    let days = first_days(10);
    let events: Vec<EventBuilder> = (0..6)
        .flat_map(|partition| days.iter().map(move |day| (partition, *day)))
        .map(|(partition, day)| {
            let id = format!("{partition}/{day}");
            event(&format!("u{partition}"), &id, "login").at(midnight(day)).to(partition)
        })
        .collect();
    scene.send(&events).await;
    let worker = scene.worker().set("BATCH__LANES", "3").set("BATCH__MAX_EVENTS", "2");
    let (one, other) = tokio::join!(worker.start(), worker.start());
    scene.caught_up().await;
    let users: Vec<(i64,)> = scene.fetch_all("SELECT event_count FROM users").await;
    assert_eq!(users, [(10,); 6]);
    let expected: BTreeSet<String> = days.into_iter().map(name_of).collect();
    assert!(months(&scene).await.is_superset(&expected));
    for worker in [one, other] {
        assert!(!worker.log().contains("\"level\":\"ERROR\""), "no one stumbled over another");
        assert_eq!(worker.stop().await, Some(0));
    }
}

/// Drops what is older than so many days, as an operator would.
async fn drop_older_than(scene: &Scene, days: i64) {
    let migrate = scene.worker().set("LEDGER__RETENTION", &format!("{days}d"));
    let (code, _, log) = migrate.command(&["migrate", "--drop-expired"]).output().await;
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test]
async fn events_of_a_month_that_was_dropped_trip_the_circuit_breaker_too() {
    let scene = Scene::new(1).await;
    let old = |n: i32| event("old", &n.to_string(), "login").at(ago(Duration::days(200)));
    scene.migrate().await;
    drop_older_than(&scene, 100).await;
    scene.send(&(0..20).map(old).collect::<Vec<_>>()).await;
    let worker = scene.worker().set("DEAD_LETTERS__BREAKER_CONSECUTIVE", "5").start().await;
    eventually("the partition is halted", async || {
        (worker.metric("user_events_partitions_halted", "").await == 1.0).then_some(())
    })
    .await;
    let (letters,): (i64,) = scene.fetch_one("SELECT count(*) FROM dead_letters").await;
    assert!(letters < 5, "{letters} of 20 were let through");
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_month_dropped_for_its_age_is_never_made_again() {
    let scene = Scene::new(1).await;
    let (old, young) = (ago(Duration::days(200)), ago(Duration::days(1)));
    let pair = |n: usize| {
        let event = |user: &str, at| event(user, &format!("{user}/{n}"), "login").at(at);
        [event("old", old), event("young", young)]
    };
    scene.send(&pair(0)).await;
    let running = scene.worker().start().await;
    scene.caught_up().await;
    drop_older_than(&scene, 100).await;
    let kept = months(&scene).await;
    assert!(!kept.contains(&name_of(old.date())) && kept.contains(&name_of(young.date())));

    // The running worker remembers the month; Postgres corrects it.
    scene.send(&pair(1)).await;
    scene.caught_up().await;
    running.counted("dead_lettered", 1).await;
    assert_eq!(running.stop().await, Some(0));
    // Another never knew it.
    scene.send(&pair(2)).await;
    let next = scene.worker().start().await;
    scene.caught_up().await;
    // A rewind brings back the one that was once applied: nobody could tell it is a duplicate.
    scene.rewind().await;
    scene.caught_up().await;

    assert_eq!(months(&scene).await, kept);
    let letters: Vec<(i64, String, String, Vec<u8>)> = scene
        .fetch_all(
            "SELECT kafka_offset, reason, detail, value FROM dead_letters ORDER BY kafka_offset",
        )
        .await;
    let offsets: Vec<i64> = letters.iter().map(|letter| letter.0).collect();
    assert_eq!(offsets, [0, 2, 4]);
    for (offset, reason, detail, value) in letters {
        assert_eq!(reason, "time_out_of_range");
        assert!(detail.contains("`time`") && detail.contains("dropped"), "{detail}");
        let sent = pair(offset as usize / 2)[0].value();
        assert_eq!(Some(value), sent);
    }
    let users: Vec<(String, i64)> =
        scene.fetch_all("SELECT user_id, event_count FROM users ORDER BY user_id").await;
    assert_eq!(users, [("old".to_owned(), 1), ("young".to_owned(), 3)]);
    assert_eq!(next.metric("user_events_apply_errors_total", "kind=\"bug\"").await, 0.0);
}

#[tokio::test]
async fn a_month_within_retention_that_somebody_dropped_is_made_again() {
    let scene = Scene::new(1).await;
    let old = ago(Duration::days(200));
    scene.send(&[event("ann", "1", "login").at(old)]).await;
    let worker = scene.worker().start().await;
    scene.caught_up().await;
    scene.execute(&format!("DROP TABLE {}", name_of(old.date()))).await;
    scene.send(&[event("ann", "2", "login").at(old)]).await;
    scene.caught_up().await;
    assert!(months(&scene).await.contains(&name_of(old.date())));
    worker.counted("applied", 2).await;
    worker.counted("dead_lettered", 0).await;
}

#[tokio::test]
async fn six_migrations_at_once_all_succeed() {
    let scene = Scene::new(1).await;
    let mut starters = JoinSet::new();
    for n in 0..6 {
        let arguments: &[&str] = if n < 3 { &["migrate"] } else { &["migrate", "--drop-expired"] };
        let migrate = scene.worker().command(arguments);
        starters.spawn(async move { migrate.output().await });
    }
    while let Some(ended) = starters.join_next().await {
        let (code, _, log) = ended.unwrap();
        assert_eq!(code, Some(0), "{log}");
    }
    let applied = "SELECT count(*) FROM _sqlx_migrations WHERE success";
    let migrations = std::fs::read_dir("migrations").unwrap().count() as i64;
    assert_eq!(scene.count(applied).await, migrations);
}

#[tokio::test]
async fn four_workers_may_start_at_once_on_a_fresh_schema() {
    let scene = Scene::new(8).await;
    let events: Vec<_> = (0..400)
        .map(|n| event(&format!("u{}", n % 40), &n.to_string(), "login").to(n % 8))
        .collect();
    scene.send(&events).await;
    let worker = scene.worker();
    let fault = scene.fault(34, "four workers that make a fresh schema at once");
    let (a, b, c, d) = tokio::join!(worker.start(), worker.start(), worker.start(), worker.start());
    scene.caught_up().await;
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, 400);
    let users: Vec<(i64,)> = scene.fetch_all("SELECT event_count FROM users").await;
    assert_eq!(users, vec![(10,); 40]);
    let workers = [a, b, c, d];
    for worker in &workers {
        worker.holds(2).await;
    }
    fault.over();
    for worker in workers {
        assert!(!worker.log().contains("\"level\":\"ERROR\""), "{}", worker.log());
        assert_eq!(worker.stop().await, Some(0));
    }
}
