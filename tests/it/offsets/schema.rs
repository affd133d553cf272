//! The second migration: an older schema is told apart and brought up to date, a newer one borne.

use super::applied_and_stopped;
use crate::support::{Scene, eventually};

#[tokio::test]
async fn a_schema_without_the_second_migration_is_told_and_migrated_with_its_positions() {
    let scene = applied_and_stopped(3).await;
    let before = scene.standing().await;
    // As the first migration left it.
    scene.execute("DROP TABLE offset_moves; DELETE FROM _sqlx_migrations WHERE version > 1").await;

    let refusal = scene.refused(&["show"]).await;
    assert!(refusal.contains("at version 1") && refusal.contains("worker migrate"), "{refusal}");
    let (code, report, _) = scene.worker().command(&["check"]).output().await;
    assert_eq!(code, Some(1));
    assert!(report.contains("at version 1") && report.contains("worker migrate"), "{report}");
    let worker = scene.worker().set("POSTGRES__MIGRATE", "false").start().await;
    eventually("the worker waits for the migration and says so", async || {
        let (code, reasons) = worker.get("/readyz").await;
        (code == 503 && reasons.contains("at version 1")).then_some(())
    })
    .await;

    scene.migrate().await;
    worker.holds(1).await;
    let after = scene.standing().await;
    assert_eq!((after[0].0, after[0].1), (before[0].0, before[0].1));
    scene.moves(&["--to-earliest"]).await;
    assert_eq!(scene.history().await.len(), 1);
}

#[tokio::test]
async fn a_schema_newer_than_the_worker_is_borne() {
    let scene = Scene::new(1).await;
    scene.migrate().await;
    scene
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9000, 'of a later release', true, '', 0)",
        )
        .await;
    let (code, report, log) = scene.worker().command(&["check"]).output().await;
    assert_eq!(code, Some(0), "{report}{log}");
    for migrate in ["true", "false"] {
        let worker = scene.worker().set("POSTGRES__MIGRATE", migrate).start().await;
        worker.holds(1).await;
        assert_eq!(worker.stop().await, Some(0));
    }
}
