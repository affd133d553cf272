//! Reads user events from Kafka and applies each one exactly once to Postgres.
//!
//! The data path, in the order a record travels:
//!
//! ```text
//! consume/   RawRecord      one thread polls Kafka and owns the assignment
//!    |
//! event/     Event | Rejection     the producers' contract, pure functions
//!    |
//! batch/     Batch          lanes gather records by count, bytes and age
//!    |
//! apply/     Applied        one transaction: fence, ledger, users, dead letters
//!    |
//! consume/   Committed      the offsets, mirrored to Kafka for lag tools
//! ```
//!
//! [`app`] wires these together; [`commands`] has one file per subcommand; [`config`] is what an
//! operator may turn, [`observe`] is what an operator may see.

pub mod app;
pub mod apply;
pub mod batch;
pub mod commands;
pub mod config;
pub mod consume;
pub mod event;
pub mod failpoint;
pub mod observe;
pub mod types;
