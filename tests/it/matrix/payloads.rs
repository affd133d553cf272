//! Rows 36 to 39: what `dead_letters.rs` does not send. Records that are small on the wire and
//! large in memory, and keys longer than an index takes.

use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::time::Duration;

use crate::support::{Scene, event};

const MIB: usize = 1024 * 1024;

/// 50 MiB in one record, and 20 MiB in twenty: a few KiB each as zstd sends them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_of_zstd_are_dead_letters_and_hold_up_nobody() {
    let scene = Scene::new(1).await;
    let worker = scene
        .worker()
        .memory_below(160, "a record of 50 MiB is there twice: as unpacked, and as handed over")
        .start()
        .await;
    worker.holds(1).await;
    let fault = scene.fault(39, "a record of 50 MiB and 20 of 1 MiB in a few KiB of zstd");
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &scene.brokers)
        .set("compression.codec", "zstd")
        .set("message.max.bytes", "100000000")
        .set("linger.ms", "50")
        .create()
        .unwrap();
    let wait = Duration::from_secs(30);
    let large = vec![b'['; 50 * MIB];
    let record = FutureRecord::to(&scene.topic).key("bomb").payload(&large);
    producer.send(record, wait).await.unwrap();
    let small = vec![b'{'; MIB + 1];
    let mut sent = Vec::new();
    for _ in 0..20 {
        let record = FutureRecord::to(&scene.topic).key("bomb").payload(&small);
        sent.push(producer.send_result(record).unwrap());
    }
    for delivery in sent {
        delivery.await.unwrap().unwrap();
    }
    scene.send(&[event("after", "a", "page.viewed")]).await;
    fault.ends(&scene).await;
    let rows: Vec<(String, i64)> =
        scene.fetch_all("SELECT reason, count(*) FROM dead_letters GROUP BY 1").await;
    assert_eq!(rows, [("too_large".to_owned(), 21)]);
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, 1);
    let kept = scene.count("SELECT max(octet_length(value))::bigint FROM dead_letters").await;
    assert!(kept <= 256 * 1024, "{kept} bytes kept");
    assert_eq!(worker.stop().await, Some(0));
}

/// A key is no user when there is a subject, however long; without one it is too long to be one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_half_a_mebibyte_are_no_users_and_hold_up_nobody() {
    let scene = Scene::new(1).await;
    let key = vec![b'k'; MIB / 2];
    let fault = scene.fault(39, "keys of 512 KiB");
    scene
        .send(&[
            event("named", "a", "page.viewed").key(Some(&key)),
            event("", "b", "page.viewed").without("subject").key(Some(&key)),
            event("after", "c", "page.viewed"),
        ])
        .await;
    let worker = fault.ends_with(&scene.worker(), &scene).await;
    let users: Vec<(String,)> = scene.fetch_all("SELECT user_id FROM users ORDER BY 1").await;
    assert_eq!(users, [("after".to_owned(),), ("named".to_owned(),)]);
    let letters: Vec<(String, i32)> =
        scene.fetch_all("SELECT reason, octet_length(key) FROM dead_letters").await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].1 <= 4096, "{letters:?}");
    assert_eq!(worker.stop().await, Some(0));
}
