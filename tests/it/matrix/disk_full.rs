//! Row 30: Postgres runs out of disk, for its tables (53100) or for its log (it panics). The disk
//! is a small tmpfs; mounting one needs root, and a test that cannot have it fails.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::recovery::{shared_brokers, unready};
use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::{Scene, Service, Services, eventually};

/// A small disk. Unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(at: PathBuf, mib: u32, like: &Path) -> Self {
        use std::os::unix::fs::{MetadataExt, chown};
        let owner = std::fs::metadata(like).unwrap();
        std::fs::create_dir_all(&at).unwrap();
        let size = format!("size={mib}m,mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&at)
            .status()
            .unwrap();
        assert!(mounted.success(), "cannot mount a tmpfs: this test needs root");
        chown(&at, Some(owner.uid()), Some(owner.gid())).unwrap();
        Self(at)
    }

    /// Leaves no room.
    fn fill(&self) {
        let ballast = std::fs::File::create(self.0.join("ballast")).unwrap();
        let zeros = vec![0; 64 * 1024];
        while std::io::Write::write_all(&mut &ballast, &zeros).is_ok() {}
    }

    /// Makes room again.
    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: Postgres may still have files there, and is ended next.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_tables_without_room_are_waited_for_and_make_no_dead_letters() {
    let services = Services::start(&[Service::Postgres]).await;
    let data = services.postgres_data();
    let disk = Disk::new(data.parent().unwrap().join("small"), 48, &data);
    let mut scene = Scene::on(&shared_brokers(), services.database_url(), 4).await;
    let place = disk.0.display();
    scene.execute(&format!("CREATE TABLESPACE small LOCATION '{place}'")).await;
    scene.execute("CREATE DATABASE small TABLESPACE small").await;
    let (server, _) = services.database_url().rsplit_once('/').unwrap();
    scene.database_url = format!("{server}/small");

    let worker = scene.worker().start().await;
    let load = scene.produce(Load::mixed(400).users(20_000));
    worker.holds(4).await;
    scene.progresses(300).await;
    let fault = scene.fault(30, "no room for tables");
    disk.fill();
    let reasons = unready(&worker).await;
    assert!(reasons.contains("53100"), "{reasons}");
    let tried = worker.metric("user_events_apply_errors_total", r#"kind="outage""#).await;
    eventually("it keeps trying", async || {
        let now = worker.metric("user_events_apply_errors_total", r#"kind="outage""#).await;
        (now >= tried + 5.0).then_some(())
    })
    .await;
    assert_eq!(worker.get("/livez").await.0, 200, "restarting it would not help");

    disk.free();
    fault.ends(&scene).await;
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(worker.stop().await, Some(0));
    drop(services);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_postgres_that_panics_for_want_of_room_is_waited_for() {
    let services = Services::start(&[Service::Postgres]).await;
    let data = services.postgres_data();
    services.stop_postgres_immediate().await;
    let disk = Disk::new(data.parent().unwrap().join("wal"), 96, &data);
    let moved = Command::new("cp").arg("-a").arg(data.join("pg_wal/.")).arg(&disk.0).status();
    assert!(moved.unwrap().success());
    std::fs::rename(data.join("pg_wal"), data.join("pg_wal.before")).unwrap();
    std::os::unix::fs::symlink(&disk.0, data.join("pg_wal")).unwrap();
    services.start_postgres().await;

    let scene = Scene::on(&shared_brokers(), services.database_url(), 4).await;
    // No segment is kept to be used again: the next one wants room.
    for setting in ["min_wal_size = '32MB'", "max_wal_size = '32MB'", "wal_recycle = off"] {
        scene.execute(&format!("ALTER SYSTEM SET {setting}")).await;
    }
    scene.execute("SELECT pg_reload_conf()").await;
    scene.execute("CHECKPOINT").await;
    let worker = scene.worker().start().await;
    let load = scene.produce(Load::mixed(400).padding(4 * 1024));
    worker.holds(4).await;
    scene.progresses(300).await;
    let fault = scene.fault(30, "no room for the log: Postgres panics");
    disk.fill();
    let reasons = unready(&worker).await;
    eprintln!("what the worker says: {reasons}");
    let postgres_said = services.postgres_log();
    assert!(postgres_said.contains("No space left on device"), "the fault was there");
    assert_eq!(worker.get("/livez").await.0, 200, "restarting it would not help");

    disk.free();
    // It may have given up by itself; then somebody must start it again.
    services.start_postgres().await;
    fault.ends(&scene).await;
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(worker.stop().await, Some(0));
    drop(services);
}
