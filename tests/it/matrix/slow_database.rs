//! Row 29: a database that takes its time, by a trigger that sleeps for every row.

use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::{Scene, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_too_slow_for_whole_batches_gets_smaller_ones_and_no_dead_letters() {
    let scene = Scene::new(2).await;
    scene.migrate().await;
    scene
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await;
    // 1,500 users in a partition would take 15 s, and one statement may take 2.
    let load = Load::mixed(20_000).users(3_000).limit(6_000);
    let ledger = scene.produce(load).finished().await;
    let fault = scene.fault(29, "a trigger that sleeps 10 ms a row");
    let worker = scene
        .worker()
        .set("POSTGRES__LOCK_TIMEOUT", "1s")
        .set("POSTGRES__STATEMENT_TIMEOUT", "2s")
        .start()
        .await;
    eventually("the fault was there: statements ran out of time", async || {
        let smaller = worker.metric("user_events_apply_errors_total", r#"kind="smaller""#).await;
        (smaller >= 1.0).then_some(())
    })
    .await;
    scene.progresses(200).await;
    assert_eq!(worker.get("/livez").await.0, 200);
    scene.execute("DROP TRIGGER slow ON users").await;
    fault.ends(&scene).await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(worker.stop().await, Some(0));
}
