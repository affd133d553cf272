//! `check`: everything the worker needs, tried before it is deployed.

use std::process::ExitCode;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::app;
use crate::apply::identity::{self, Identity};
use crate::apply::{Session, migrate};
use crate::config::Config;
use crate::consume::{self, Context};

const PATIENCE: Duration = Duration::from_secs(5);

/// What was found, line by line.
#[derive(Default)]
struct Report {
    failed: bool,
}

impl Report {
    fn ok(&mut self, what: &str) {
        println!("ok      {what}");
    }

    fn missing(&mut self, what: &str) {
        self.failed = true;
        println!("MISSING {what}");
    }

    fn verdict<E: std::fmt::Display>(&mut self, what: &str, result: Result<(), E>) {
        match result {
            Ok(()) => self.ok(what),
            Err(error) => self.missing(&format!("{what}: {error}")),
        }
    }
}

/// Checks Kafka, Postgres, the schema and the privileges. Exit code 0 only if nothing is missing.
///
/// # Errors
/// When the configuration cannot be used at all.
pub async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    report.ok("configuration is valid");
    let cluster = check_kafka(config, &mut report).await?;
    let mut session = Session::new(app::session_options(&config.postgres)?);
    match ask(&mut session, async |_| Ok(())).await {
        Ok(()) => {
            report.ok("postgres answers");
            check_schema(&mut session, config, cluster, &mut report).await;
        }
        Err(error) => report.missing(&format!("postgres does not answer: {error}")),
    }
    println!("{}", if report.failed { "not ready to run" } else { "ready to run" });
    Ok(if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Answers the cluster's id when a broker can be reached.
async fn check_kafka(config: &Config, report: &mut Report) -> anyhow::Result<Option<String>> {
    let (context, _events) = Context::new();
    let consumer = consume::consumer(&config.kafka.consumer_properties(), context)?;
    let topics = config.kafka.topics.clone();
    let (cluster, found) = tokio::task::spawn_blocking(move || {
        let cluster = consume::cluster_id(&consumer, PATIENCE);
        let found: Vec<(String, Result<usize, String>)> = topics
            .into_iter()
            .map(|topic| {
                let partitions = partitions(&consumer, &topic);
                (topic, partitions)
            })
            .collect();
        (cluster, found)
    })
    .await?;
    match &cluster {
        Some(cluster) => report.ok(&format!("kafka answers (cluster {cluster})")),
        None => {
            let brokers = &config.kafka.bootstrap_servers;
            report.missing(&format!("no kafka broker answers at {brokers}"));
            return Ok(None);
        }
    }
    for (topic, partitions) in found {
        match partitions {
            Ok(count) => report.ok(&format!("topic {topic:?} has {count} partitions")),
            Err(error) => report.missing(&format!("topic {topic:?}: {error}")),
        }
    }
    Ok(cluster)
}

fn partitions(consumer: &consume::WorkerConsumer, topic: &str) -> Result<usize, String> {
    let metadata =
        consumer.fetch_metadata(Some(topic), PATIENCE).map_err(|error| error.to_string())?;
    let topic = metadata.topics().first().ok_or("the broker does not know it")?;
    match (topic.error(), topic.partitions().len()) {
        (Some(error), _) => Err(rdkafka::error::RDKafkaErrorCode::from(error).to_string()),
        (None, 0) => Err("it has no partitions: create it".to_owned()),
        (None, count) => Ok(count),
    }
}

/// Asks in a transaction of its own. So a failure does not spoil what comes after, and behind a
/// PgBouncer no setting of ours is left to others.
async fn ask<T>(
    session: &mut Session,
    question: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    match question(session.begin().await?).await {
        Ok(answer) => session.commit().await.map(|()| answer),
        Err(error) => {
            session.roll_back().await;
            Err(error)
        }
    }
}

async fn check_schema(
    session: &mut Session,
    config: &Config,
    cluster: Option<String>,
    report: &mut Report,
) {
    let needed = migrate::latest_version();
    let schema = &config.postgres.schema;
    match ask(session, migrate::applied_version).await {
        Ok(Some(version)) if version >= needed => {
            report.ok(&format!("schema {schema:?} is at version {version}"));
        }
        Ok(version) => {
            let found = version.map_or("absent".to_owned(), |v| format!("at version {v}"));
            report.missing(&format!(
                "schema {schema:?} is {found}, version {needed} is needed: run `user-events-worker migrate`"
            ));
            return;
        }
        Err(error) => {
            report.missing(&format!("schema {schema:?} cannot be read: {error}"));
            return;
        }
    }
    match ask(session, privileges).await {
        Ok(lacking) if lacking.is_empty() => report.ok("privileges on tables and functions"),
        Ok(lacking) => lacking.iter().for_each(|what| report.missing(what)),
        Err(error) => report.missing(&format!("privileges cannot be read: {error}")),
    }
    report.verdict("this month's ledger partition", ask(session, this_month).await);
    if let Some(cluster) = cluster {
        let ours = Identity { group: config.kafka.group_id.clone(), cluster };
        match ask(session, identity::read).await {
            Ok(Some(theirs)) if theirs != ours => {
                report.missing(&identity::Mismatch { ours, theirs }.to_string());
            }
            Ok(Some(_)) => report.ok("the schema belongs to this group and cluster"),
            Ok(None) => report.ok("the schema belongs to nobody yet"),
            Err(error) => report.missing(&format!("worker_identity cannot be read: {error}")),
        }
    }
}

/// What the worker's role lacks, with the grant that would mend it.
async fn privileges(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let mut lacking = Vec::new();
    for (table, wanted) in [
        ("user_events", "SELECT, INSERT"),
        ("users", "SELECT, INSERT, UPDATE"),
        ("source_offsets", "SELECT, INSERT, UPDATE"),
        ("dead_letters", "SELECT, INSERT, UPDATE"),
        ("worker_identity", "SELECT, INSERT"),
    ] {
        for privilege in wanted.split(", ") {
            let granted = sqlx::query_scalar!(
                r#"SELECT has_table_privilege($1, $2) AS "granted!""#,
                table,
                privilege
            )
            .fetch_one(&mut *conn)
            .await?;
            if !granted {
                lacking.push(format!(
                    "{privilege} on {table}: GRANT {privilege} ON {table} TO the worker's role"
                ));
            }
        }
    }
    let granted = sqlx::query_scalar!(
        r#"SELECT has_function_privilege('ensure_user_events_month(date)', 'EXECUTE') AS "granted!""#
    )
    .fetch_one(&mut *conn)
    .await?;
    if !granted {
        lacking.push(
            "EXECUTE on ensure_user_events_month(date): without it no ledger partition can be created"
                .to_owned(),
        );
    }
    Ok(lacking)
}

/// Creates this month's partition if it is not there: the one way to know that it can be.
async fn this_month(conn: &mut PgConnection) -> sqlx::Result<()> {
    let today = OffsetDateTime::now_utc().date();
    sqlx::query_scalar!("SELECT ensure_user_events_month($1)", today).fetch_one(conn).await?;
    Ok(())
}
