//! What an operator may see: health, status, metrics, logs and traces.
//!
//! The working loops report to the [`board`] (what is) and count with [`metrics`] (what happened);
//! [`http`] shows both.

pub mod batch_span;
pub mod board;
mod gauges;
mod heartbeat;
pub mod http;
pub mod metrics;
pub mod names;
mod partition;
pub mod progress;
pub mod rate_limit;
pub mod telemetry;
mod withheld;

pub use heartbeat::Heartbeat;
