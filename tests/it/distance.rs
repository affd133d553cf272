//! How far away Postgres is, and how many lanes that makes.

use std::time::Duration;

use crate::support::pgbouncer::PgBouncer;
use crate::support::proxy::{Proxy, Way};
use crate::support::{Scene, Worker, event, eventually};

/// Lanes as `/status` shows them; the log has said the same, once.
async fn lanes(worker: &Worker) -> usize {
    let lanes = worker.status().await["postgres"].as_array().unwrap().len();
    let log = worker.log();
    let said: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| line.contains("as many lanes as suit the distance"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(said.len(), 1, "{log}");
    assert_eq!(said[0]["lanes"], lanes);
    lanes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_farther_postgres_is_the_more_lanes_write_to_it() {
    const FAR: Duration = Duration::from_millis(20);
    let scene = Scene::in_database(8).await;
    scene.migrate().await;
    let proxy = Proxy::new().await;
    let url = proxy.leads_to_postgres(&scene.database_url).await;
    let worker = scene.worker().set("POSTGRES__URL", &url);

    let near = worker.start().await;
    near.holds(8).await;
    let fewer = lanes(&near).await;
    assert_eq!(near.stop().await, Some(0));

    proxy.set(Way::late(FAR), Way::default());
    let far = worker.start().await;
    far.holds(8).await;
    let more = lanes(&far).await;
    assert!(fewer < 6 && more >= 6, "{fewer} lanes near, {more} at 20 ms");
    eventually("each lane has a connection of its own", async || {
        let (connections,): (i64,) = scene
            .fetch_one(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'user-events-worker'",
            )
            .await;
        (connections == more as i64).then_some(())
    })
    .await;
    let events: Vec<_> = (0..8).map(|p| event("u", "a", "x").to(p)).collect();
    scene.send(&events).await;
    scene.caught_up().await;
    assert_eq!(far.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_goes_away_while_its_distance_is_measured_is_waited_for() {
    let scene = Scene::in_database(1).await;
    scene.migrate().await;
    let proxy = Proxy::new().await;
    let url = proxy.leads_to_postgres(&scene.database_url).await;
    // Late enough to be met in the middle of it, whatever the machine does meanwhile.
    proxy.set(Way::late(Duration::from_millis(200)), Way::default());
    let worker = scene.worker().set("POSTGRES__URL", &url).set("POSTGRES__MIGRATE", "false");
    let worker = worker.start().await;
    eventually("the distance is being measured", async || {
        let asked = "SELECT 1 FROM pg_stat_activity
             WHERE datname = current_database() AND query = 'SELECT 1'
               AND application_name = 'user-events-worker'";
        (!scene.fetch_all::<(i32,)>(asked).await.is_empty()).then_some(())
    })
    .await;
    proxy.cut();
    proxy.heal();
    eventually("the reason is known", async || {
        let (code, reasons) = worker.get("/readyz").await;
        assert_eq!(code, 503, "not ready");
        reasons.contains("measuring the way to postgres").then_some(())
    })
    .await;
    worker.holds(1).await;
    assert!(lanes(&worker).await < 6, "measured anew");
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_pgbouncer_the_distance_is_measured_as_well() {
    let scene = Scene::in_database(2).await;
    scene.migrate().await;
    let bouncer = PgBouncer::start(&scene.database_url, 1).await;
    let worker = scene
        .worker()
        .set("POSTGRES__URL", bouncer.url())
        .set("POSTGRES__MIGRATE", "false")
        .set("POSTGRES__STATEMENT_CACHE", "false")
        .start()
        .await;
    worker.holds(2).await;
    assert!((2..6).contains(&lanes(&worker).await), "{}", worker.log());
    scene.send(&[event("u1", "a", "x").to(0), event("u2", "a", "x").to(1)]).await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
}
