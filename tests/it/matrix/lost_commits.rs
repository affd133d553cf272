//! Rows 26 and 27: Postgres forgets transactions it has confirmed. Results and positions are in
//! the same transactions, so they go back together, and the worker reads on from there.

use nix::sys::signal::Signal;

use crate::recovery::shared_brokers;
use crate::support::proxy::Proxy;
use crate::support::replica::Replica;
use crate::support::{EventBuilder, Scene, Service, Services, Worker, event, eventually, unique};

const USERS: usize = 50;

/// Events with ids of their own: as many in the ledger as offsets passed, at any moment.
fn events(count: usize) -> Vec<EventBuilder> {
    let one = |n: usize| {
        let partition = i32::try_from(n % USERS % 4).unwrap();
        event(&format!("u{}", n % USERS), &unique("e"), "page.viewed").to(partition)
    };
    (0..count).map(one).collect()
}

/// In one snapshot: events per partition are what its position says, and users count them all.
async fn agree(scene: &Scene) -> i64 {
    let found: Vec<(i32, i64, i64)> = scene
        .fetch_all(
            "SELECT o.partition, coalesce(o.next_offset, 0),
                    (SELECT count(*) FROM user_events e WHERE e.kafka_partition = o.partition)
             FROM source_offsets o",
        )
        .await;
    for (partition, position, events) in &found {
        assert_eq!(position, events, "partition {partition}: results and position differ");
    }
    let counted = scene.count("SELECT coalesce(sum(event_count), 0)::bigint FROM users").await;
    let total = found.iter().map(|(_, position, _)| position).sum();
    assert_eq!(counted, total, "users and positions differ");
    total
}

async fn worker_on(scene: &Scene, url: &str) -> Worker {
    let worker = scene
        .worker()
        .set("POSTGRES__URL", url)
        // The worker sleeps while the database goes back in time.
        .set("KAFKA__SESSION_TIMEOUT", "45s")
        .start()
        .await;
    worker.holds(4).await;
    worker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_commits_lost_by_an_asynchronous_postgres_are_made_again() {
    let services = Services::start(&[Service::Postgres]).await;
    let scene = Scene::on(&shared_brokers(), services.database_url(), 4).await;
    for setting in ["synchronous_commit = off", "wal_writer_delay = '10s'"] {
        scene.execute(&format!("ALTER SYSTEM SET {setting}")).await;
    }
    scene.execute("SELECT pg_reload_conf()").await;
    let worker = worker_on(&scene, services.database_url()).await;
    scene.send(&events(2_000)).await;
    scene.caught_up().await;
    scene.execute("CHECKPOINT").await;
    scene.send(&events(500)).await;
    scene.caught_up().await;

    let fault = scene.fault(26, "Postgres forgets commits it has confirmed");
    worker.signal(Signal::SIGSTOP);
    let confirmed = agree(&scene).await;
    services.stop_postgres_immediate().await;
    services.start_postgres().await;
    let kept = agree(&scene).await;
    assert!(kept < confirmed, "the fault was there: {kept} of {confirmed} confirmed are left");
    eprintln!("{} records of confirmed commits lost", confirmed - kept);
    worker.signal(Signal::SIGCONT);

    fault.ends(&scene).await;
    scene.send(&events(500)).await;
    scene.caught_up().await;
    assert_eq!(agree(&scene).await, 3_000);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_failover_to_a_replica_that_lags_goes_on_from_where_that_stands() {
    let services = Services::start(&[Service::Postgres]).await;
    let mut scene = Scene::on(&shared_brokers(), services.database_url(), 4).await;
    let proxy = Proxy::new().await;
    let url = proxy.leads_to_postgres(services.database_url()).await;
    let worker = worker_on(&scene, &url).await;
    scene.send(&events(2_000)).await;
    scene.caught_up().await;
    let mut replica = Replica::of(services.database_url()).await;
    scene.send(&events(1_000)).await;
    scene.caught_up().await;

    let confirmed = agree(&scene).await;
    let fault = scene.fault(27, "failover to a replica that lags");
    services.stop_postgres_immediate().await;
    eventually("the worker notices", async || (worker.get("/readyz").await.0 == 503).then_some(()))
        .await;
    replica.promote().await;
    scene.database_url = replica.url();
    let kept = agree(&scene).await;
    assert!(kept < confirmed, "the fault was there: {kept} of {confirmed} confirmed are left");
    eprintln!("{} records of confirmed commits lost", confirmed - kept);
    proxy.leads_to(&replica.address()).await;

    fault.ends(&scene).await;
    scene.send(&events(500)).await;
    scene.caught_up().await;
    assert_eq!(agree(&scene).await, 3_500);
    assert_eq!(worker.stop().await, Some(0));
}
