//! Row 42: clocks that are wrong, and jump, by libfaketime.

use std::path::PathBuf;

use crate::support::Scene;
use crate::support::checker::Projection;
use crate::support::load::Load;

fn libfaketime() -> PathBuf {
    let machines = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found = machines.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.exists()).expect("libfaketime is installed: run scripts/setup")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_by_a_day_and_back_holds_nothing_up() {
    let scene = Scene::new(4).await;
    let mut shift = tempfile::NamedTempFile::new().unwrap();
    let mut jump = |by: &str| {
        use std::io::{Seek, Write};
        shift.as_file_mut().set_len(0).unwrap();
        shift.rewind().unwrap();
        writeln!(shift, "{by}").unwrap();
        shift.path().to_str().unwrap().to_owned()
    };
    let file = jump("+0");
    let worker = scene
        .worker()
        // With the clock a day behind, events of now are a day ahead.
        .set("EVENTS__MAX_FUTURE", "2days")
        .env("LD_PRELOAD", libfaketime().to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", &file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start()
        .await;
    let load = scene.produce(Load::mixed(300));
    worker.holds(4).await;
    scene.progresses(200).await;
    for by in ["+1d", "-1d", "+0"] {
        let fault = scene.fault(42, format!("clock at {by}"));
        jump(by);
        fault.ends(&scene).await;
        scene.progresses(200).await;
        assert_eq!(worker.get("/livez").await.0, 200, "no loop counts as stuck");
        assert_eq!(worker.get("/readyz").await.0, 200);
    }
    // Records from yesterday, it thought once: the fault was there.
    let late = worker.page().await;
    let slow = late.sum("user_events_end_to_end_seconds_sum", &[]);
    assert!(slow > 86_400.0, "the fault was there: {slow} s from timestamp to commit");
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(worker.stop().await, Some(0));
}
