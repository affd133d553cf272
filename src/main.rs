//! Parses arguments, starts telemetry, calls a command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use user_events_worker::commands::{check, demo, migrate, offsets, produce, prove, run};
use user_events_worker::config::{self, Config, PostgresUrl};
use user_events_worker::observe::telemetry::{self, Telemetry};

/// How long the last spans may take to be exported.
const FLUSH: Duration = Duration::from_secs(5);

/// Reads user events from Kafka and applies each one exactly once to Postgres.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    /// Configuration file (TOML), above the built-in defaults and below the environment
    /// (WORKER_SECTION__KEY).
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read events and apply them until told to stop (SIGTERM or SIGINT).
    Run,
    /// Show it all at work: embedded broker, throwaway Postgres, producer, worker, reconciliation.
    Demo(demo::DemoArgs),
    /// Create or update the schema, and drop old ledger months if asked to.
    Migrate(migrate::MigrateArgs),
    /// Check the configuration, Kafka, Postgres, the schema and the privileges; name what is missing.
    Check,
    /// Show where every partition stands, move positions, and show what was moved.
    Offsets(offsets::OffsetsArgs),
    /// Publish realistic user events.
    Produce(produce::ProduceArgs),
    /// Prove on your own Kafka and Postgres that nothing is lost or doubled, whatever breaks.
    Prove(prove::ProveArgs),
}

fn main() -> ExitCode {
    match start(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // The one place that writes an error for a reader at a terminal.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(cli.config.as_deref(), config::process_env())
        .context("the configuration cannot be used")?;
    let draws = matches!(cli.command, Command::Demo(_) | Command::Prove(_));
    if draws && std::env::var_os("WORKER_LOG__LEVEL").is_none() {
        // Log lines would tear the progress display.
        config.log.level = "warn".to_owned();
    }
    // Before the runtime: the OTLP exporter's blocking client must not be made inside one.
    let telemetry = telemetry::init(&config.log)?;
    #[cfg(feature = "failpoints")]
    let _armed = user_events_worker::failpoint::arm()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("worker").build()?;
    let result = runtime.block_on(execute(cli.command, config, cli.config.as_deref()));
    finish(runtime, telemetry);
    result
}

async fn execute(
    command: Command,
    config: Config,
    file: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run => run::run(config).await,
        Command::Demo(args) => {
            // A database of its own, unless told otherwise: never the one in DATABASE_URL by accident.
            let database = std::env::var("DEMO_DATABASE_URL").ok().map(PostgresUrl::new);
            demo::run(args, &config, database).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Migrate(args) => migrate::run(args, &config).await,
        Command::Check => check::run(&config).await,
        Command::Offsets(args) => offsets::run(args, &config).await,
        Command::Produce(args) => {
            let topic = config.kafka.topics.first().map_or("", String::as_str);
            produce::run(args, &config.kafka.producer_properties(), topic).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Prove(args) => prove::run(args, &config, file).await,
    }
}

fn finish(runtime: tokio::runtime::Runtime, telemetry: Telemetry) {
    // Tasks left behind by an overrun must not hold up the exit.
    runtime.shutdown_background();
    if let Err(error) = telemetry.shutdown(FLUSH) {
        eprintln!("warning: the last spans could not be exported: {error}");
    }
}
