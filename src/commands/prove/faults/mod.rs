//! Breaks things, and brings evidence from outside that they broke.
//!
//! A fault that leaves no evidence did not fire, and proves nothing.

pub mod database;
pub mod processes;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::schedule::{FaultKind, Planned};
use super::watch::Watch;
use super::workers::Fleet;
use crate::commands::scratch::ScratchDatabase;

/// How long a fault may wait for what it needs, and for its effect.
const PATIENCE: Duration = Duration::from_secs(90);

/// A fault and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Fired {
    /// What.
    pub kind: FaultKind,
    /// Seconds after the load began, as planned.
    pub planned_at: f64,
    /// Seconds after the load began, as it was.
    pub began_at: f64,
    /// How long it took, in seconds.
    pub took: f64,
    /// Whether it happened at all.
    pub fired: bool,
    /// How that is known, or why it did not.
    pub evidence: String,
}

/// Who breaks things.
pub struct Saboteur<'a> {
    /// The workers.
    pub fleet: &'a mut Fleet,
    /// Their database.
    pub database: &'a mut ScratchDatabase,
    /// What can be seen of them.
    pub watch: &'a Watch,
}

impl Saboteur<'_> {
    /// Carries out one fault. `began` is when the load did.
    pub async fn carry_out(&mut self, planned: Planned, began: Instant) -> Fired {
        let began_at = began.elapsed();
        let result = match planned.kind {
            FaultKind::Kill => self.kill(planned.worker).await,
            FaultKind::Stop => self.stop(planned.worker).await,
            FaultKind::Storm => self.storm().await,
            FaultKind::Disconnect => self.disconnect().await,
            FaultKind::Deadlock => self.deadlock().await,
            FaultKind::Database => self.crash_database().await,
        };
        let fired = result.is_ok();
        let evidence = result.unwrap_or_else(|error| format!("{error:#}"));
        Fired {
            kind: planned.kind,
            planned_at: planned.at.as_secs_f64(),
            began_at: began_at.as_secs_f64(),
            took: (began.elapsed() - began_at).as_secs_f64(),
            fired,
            evidence,
        }
    }
}
