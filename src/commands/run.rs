//! `run`: the worker, until it is told to stop.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::app;
use crate::config::Config;

/// Runs the worker. The first SIGTERM or SIGINT drains it, the second ends it at once.
///
/// Exit code 0 only after an orderly end; 1 otherwise.
///
/// # Errors
/// When the worker cannot start at all.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut worker = app::start(config).await?;
    let result = tokio::select! {
        result = worker.ended() => result,
        name = signals.next() => {
            info!(signal = name, "asked to stop");
            worker.drain();
            tokio::select! {
                result = worker.ended() => result,
                name = signals.next() => {
                    warn!(signal = name, "asked again, stopping at once; what was not applied will be read again");
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
    };
    match result {
        Ok(()) => {
            info!("stopped in order");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            error!(error = format!("{error:#}"), "stopped");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The signals that ask a worker to stop.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the process may not.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
