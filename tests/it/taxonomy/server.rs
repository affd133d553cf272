//! Errors of a whole server: a Postgres of the test's own, ended, overrun and locked up; and
//! servers that are none.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use user_events_worker::apply::verdict::{self, Verdict};

use super::{assert_judged, run};
use crate::recovery::url_with;
use crate::support::{Service, Services, eventually};

async fn refused(url: &str) -> sqlx::Error {
    PgConnection::connect(url).await.expect_err(url)
}

#[tokio::test]
async fn chaos_every_way_a_server_turns_us_away_has_its_verdict() {
    let services = Services::start(&[Service::Postgres]).await;
    let url = services.database_url();
    let mut held = PgConnection::connect(url).await.unwrap();

    let error = refused(&url_with(url, Some("nobody"), None)).await;
    assert_judged("a role that does not exist", &error, "28000", Verdict::Misconfigured);
    assert!(verdict::advice(&error).contains("role"));
    let error = refused(&url_with(url, None, Some("nowhere"))).await;
    assert_judged("a database that does not exist", &error, "3D000", Verdict::Misconfigured);
    assert!(verdict::advice(&error).contains("database"));
    run(&mut held, "CREATE DATABASE closed ALLOW_CONNECTIONS false").await.unwrap();
    let error = refused(&url_with(url, None, Some("closed"))).await;
    assert_judged("a database that is closed", &error, "55000", Verdict::Misconfigured);

    run(&mut held, "CREATE ROLE locked LOGIN PASSWORD 'right'").await.unwrap();
    let file: String = sqlx::query_scalar("SHOW hba_file").fetch_one(&mut held).await.unwrap();
    let rules = format!(
        "COPY (VALUES ('host all locked all scram-sha-256'), ('local all all trust'),
                      ('host all postgres all trust')) TO '{file}'"
    );
    run(&mut held, &rules).await.unwrap();
    run(&mut held, "SELECT pg_reload_conf()").await.unwrap();
    let error = eventually("passwords are asked for", async || {
        PgConnection::connect(&url_with(url, Some("locked:wrong"), None)).await.err()
    })
    .await;
    assert_judged("a wrong password", &error, "28P01", Verdict::Misconfigured);
    assert!(verdict::advice(&error).contains("password"));
    let error = refused(&url_with(url, Some("stranger"), None)).await;
    assert_judged("no entry in pg_hba.conf", &error, "28000", Verdict::Misconfigured);

    let locks = "SELECT count(pg_advisory_lock(i)) FROM generate_series(1, 10000000) i";
    let error = run(&mut held, locks).await.unwrap_err();
    assert_judged("out of shared memory", &error, "53200", Verdict::Smaller);
    run(&mut held, "SELECT pg_advisory_unlock_all()").await.unwrap();

    let mut crowd = Vec::new();
    let error = loop {
        match PgConnection::connect(url).await {
            Ok(conn) => crowd.push(conn),
            Err(error) => break error,
        }
    };
    assert_judged("too many clients", &error, "53300", Verdict::Outage);
    drop(crowd);

    // A smart shutdown lets nobody in; a fast one ends whoever is there.
    let sql = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int";
    let postmaster: i32 =
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut held).await.unwrap();
    kill(Pid::from_raw(postmaster), Signal::SIGTERM).unwrap();
    let error = eventually("nobody gets in", async || {
        let error = PgConnection::connect(url).await.err()?;
        (verdict::sqlstate(&error).as_deref() != Some("53300")).then_some(error)
    })
    .await;
    assert_judged("shutting down", &error, "57P03", Verdict::Outage);
    kill(Pid::from_raw(postmaster), Signal::SIGINT).unwrap();
    let error = run(&mut held, "SELECT pg_sleep(60)").await.unwrap_err();
    assert_judged("ended by a shutdown", &error, "57P01", Verdict::Outage);
    let error = eventually("nobody listens any more", async || {
        let error = PgConnection::connect(url).await.err()?;
        error.as_database_error().is_none().then_some(error)
    })
    .await;
    assert!(matches!(error, sqlx::Error::Io(_)), "connection refused: {error:?}");
    assert_eq!(verdict::judge(&error), Verdict::Outage);
}

/// Connects to something that takes the connection, says this, and hangs up.
async fn answered_by(says: &'static [u8]) -> sqlx::Error {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // What was received stays unread, so that hanging up is a reset.
        stream.write_all(says).await.unwrap();
    });
    let error = refused(&format!("postgres://u@{addr}/d?sslmode=disable")).await;
    server.await.unwrap();
    error
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_outage_and_one_that_babbles_is_not_trusted() {
    let error = answered_by(b"").await;
    assert_eq!(verdict::judge(&error), Verdict::Outage, "closed or reset: {error:?}");
    assert!(!verdict::surely_not_committed(&error));
    let error = answered_by(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let judged = verdict::judge(&error);
    let untrusted = matches!(judged, Verdict::Reconnect | Verdict::Outage);
    assert!(untrusted, "never the records' fault, and never a bug: {judged:?} for {error:?}");
}
