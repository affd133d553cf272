//! The broker crashes, or is away at the wrong moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::load::{Ledger, Load, applied_at_least};
use super::{no_lag, ready, shared_postgres};
use crate::support::{Scene, Service, Services, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_broker_killed_under_load_is_told_and_overcome() {
    let services = Services::start(&[Service::Kafka]).await;
    let scene = Arc::new(Scene::on(services.brokers(), &shared_postgres(), 4).await);
    let worker = scene.worker().start().await;
    let load = Load::start(&scene);
    worker.holds(4).await;
    applied_at_least(&scene, 200).await;

    let fault = scene.fault(12, "broker killed under load");
    services.kill_kafka().await;
    let reason = eventually("the status says that kafka is away", async || {
        let kafka = &worker.status().await["kafka"];
        (kafka["up"] == false).then(|| kafka["reason"].to_string())
    })
    .await;
    assert_ne!(reason, "null");
    assert_eq!(worker.metric("user_events_kafka_up", "").await, 0.0);
    assert_eq!(worker.get("/livez").await.0, 200, "restarting it would not help");

    services.start_kafka().await;
    fault.ends(&scene).await;
    load.goes_on(100).await;
    let sent = load.stop().await;
    sent.is_applied(&scene).await;
    sent.is_in_order(&scene).await;
    ready(&worker).await;
    no_lag(&worker, 4).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn chaos_a_worker_told_to_end_while_the_broker_is_dead_ends_within_its_grace() {
    let services = Services::start(&[Service::Kafka]).await;
    let scene = Scene::on(services.brokers(), &shared_postgres(), 2).await;
    let worker = scene.worker().set("SHUTDOWN__GRACE", "10s").start().await;
    let mut sent = Ledger::default();
    sent.send(&scene, 100).await;
    sent.is_applied(&scene).await;
    let fault = scene.fault(3, "SIGTERM while the broker is dead");
    services.kill_kafka().await;

    let asked = Instant::now();
    worker.signal(Signal::SIGTERM);
    let code = worker.exited().await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(20), "ended after {took:?}");
    assert!(matches!(code, Some(0 | 1)), "an exit, not a crash: {code:?}");
    fault.over();
}

#[tokio::test]
async fn chaos_a_worker_that_finds_no_broker_waits_for_it() {
    let services = Services::start(&[Service::Kafka]).await;
    let scene = Scene::on(services.brokers(), &shared_postgres(), 2).await;
    let mut sent = Ledger::default();
    sent.send(&scene, 50).await;
    services.kill_kafka().await;

    let worker = scene.worker().start().await;
    let fault = scene.fault(12, "no broker at the start");
    eventually("the status says what it waits for", async || {
        let status = worker.status().await;
        let reason = status["kafka"]["reason"].as_str()?.to_owned();
        reason.contains("no broker answers").then_some(())
    })
    .await;
    assert!(worker.log().contains("waiting for kafka"));
    assert_eq!(worker.get("/livez").await.0, 200);
    assert_eq!(worker.get("/readyz").await.0, 503);

    services.start_kafka().await;
    fault.ends(&scene).await;
    sent.is_applied(&scene).await;
    ready(&worker).await;
    no_lag(&worker, 2).await;
    assert_eq!(worker.stop().await, Some(0));
}
