//! COMMITs whose answer never comes: they happened, they did not, or they are still under way when
//! the worker asks. A small proxy cuts the connection at exactly that message.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::locks::blocked_by;
use crate::support::{Fault, Held, Scene, Worker, WorkerBuilder, event, eventually};

const EVENTS: usize = 20;

/// What becomes of the first batch's COMMIT; either way its answer is lost.
#[derive(Clone, Copy)]
enum Commit {
    /// Postgres never sees it.
    Dropped,
    /// Postgres has done it.
    Done,
    /// Postgres has it, and the proxy does not wait for what comes of it.
    Sent,
}

/// A worker that reaches Postgres through the proxy only.
async fn through_proxy(scene: &Scene, commit: Commit) -> WorkerBuilder {
    let server = PgConnectOptions::from_str(&scene.database_url).unwrap();
    let server = format!("{}:{}", server.get_host(), server.get_port());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    assert!(scene.database_url.contains(&server));
    let url = scene.database_url.replace(&server, &proxy);
    let armed = Arc::new(AtomicBool::new(true));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(pass(client, server, commit, armed.clone()));
        }
    });
    // Without the cache every statement's text comes by, which tells a batch from a claim.
    scene.worker().set("POSTGRES__URL", &url).set("POSTGRES__STATEMENT_CACHE", "false")
}

/// Passes on what either side says until one of them ends, or the moment has come.
async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    commit: Commit,
    armed: Arc<AtomicBool>,
) {
    let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
    let mut transaction = Vec::new();
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                transaction.extend_from_slice(&asked[..length]);
                let commits = transaction.ends_with(b"COMMIT\0");
                let cut = commits && is_batch(&transaction) && armed.swap(false, Ordering::Relaxed);
                if cut && matches!(commit, Commit::Dropped) {
                    return;
                }
                if server.write_all(&asked[..length]).await.is_err() || (cut && matches!(commit, Commit::Sent)) {
                    return;
                }
                if cut {
                    let length = server.read(&mut answered).await.unwrap();
                    assert!(answered[..length].windows(7).any(|tag| tag == b"COMMIT\0"));
                    return;
                }
                if commits {
                    transaction.clear();
                }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn is_batch(transaction: &[u8]) -> bool {
    let insert = b"INSERT INTO user_events ";
    transaction.windows(insert.len()).any(|text| text == insert)
}

async fn send_events(scene: &Scene) {
    let events: Vec<_> = (0..EVENTS).map(|n| event("ann", &n.to_string(), "login")).collect();
    scene.send(&events).await;
}

/// The doubt is told, it is settled this way, and every event counts once, in the worker's own
/// eyes as well.
async fn settled(scene: &Scene, worker: Worker, fault: Fault, found: &str) {
    fault.ends(scene).await;
    let told = eventually("the log tells how the doubt was settled", async || {
        let log = worker.log();
        let from = log.find("a batch in doubt was found")?;
        Some(log[from..].split('"').next()?.to_owned())
    })
    .await;
    assert_eq!(told, format!("a batch in doubt was found {found}"));
    worker.counted("applied", EVENTS).await;
    worker.counted("duplicate", 0).await;
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, EVENTS as i64);
    assert_eq!(scene.count("SELECT event_count FROM users").await, EVENTS as i64);
    assert_eq!(worker.metric("user_events_apply_errors_total", "reconnect").await, 1.0);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_commit_that_happened_though_its_answer_was_lost_is_not_repeated() {
    let scene = Scene::new(1).await;
    let worker = through_proxy(&scene, Commit::Done).await.start().await;
    let fault = scene.fault(25, "a COMMIT done, its answer lost");
    send_events(&scene).await;
    settled(&scene, worker, fault, "committed").await;
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_made_up_for() {
    let scene = Scene::new(1).await;
    let worker = through_proxy(&scene, Commit::Dropped).await.start().await;
    let fault = scene.fault(25, "a COMMIT lost on its way");
    send_events(&scene).await;
    settled(&scene, worker, fault, "not committed").await;
}

/// A worker that asks what became of a COMMIT while Postgres is still at it: a deferred trigger
/// waits for a gate. Answers how the gate is opened, and the session that commits.
async fn asks_too_early(scene: &Scene) -> (Worker, Fault, Held, i32) {
    scene.migrate().await;
    scene
        .execute(
            "CREATE TABLE gate ();
             CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN LOCK TABLE gate IN SHARE MODE; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER pass AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION pass()",
        )
        .await;
    let mut gate = scene.hold("LOCK TABLE gate IN EXCLUSIVE MODE").await;
    let worker = through_proxy(scene, Commit::Sent).await;
    let worker = worker.set("POSTGRES__LOCK_TIMEOUT", "20s").start().await;
    let fault = scene.fault(25, "a COMMIT still under way when asked about");
    send_events(scene).await;
    let committing = gate.blocks_somebody().await[0];
    let mut conn = scene.db().await;
    eventually("the question waits for the answer", async || {
        (!blocked_by(&mut conn, committing).await.is_empty()).then_some(())
    })
    .await;
    (worker, fault, gate, committing)
}

#[tokio::test]
async fn a_commit_still_under_way_is_waited_for_and_not_repeated() {
    let scene = Scene::new(1).await;
    let (worker, fault, gate, _) = asks_too_early(&scene).await;
    gate.release().await;
    settled(&scene, worker, fault, "committed").await;
}

#[tokio::test]
async fn a_commit_that_fails_while_it_is_asked_about_is_made_up_for() {
    let scene = Scene::new(1).await;
    let (worker, fault, gate, committing) = asks_too_early(&scene).await;
    assert_eq!(
        scene.count(&format!("SELECT pg_terminate_backend({committing})::int::bigint")).await,
        1
    );
    gate.release().await;
    settled(&scene, worker, fault, "not committed").await;
}
