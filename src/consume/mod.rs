//! The Kafka side: one thread polls, owns the assignment by value, and never waits for Postgres.
//!
//! ```text
//! context.rs     librdkafka's callbacks: record what happened, return
//! assignment.rs  per partition: claiming -> reading, or fenced, or halted
//! start.rs       where reading begins, or why it must not (pure)
//! poll.rs        the loop: records to lanes, notices from lanes
//! slot.rs        a lane as the loop sees it: what waits before its full queue
//! steer.rs       claims, fences, halts, and what is due
//! begin.rs       telling librdkafka: assign and seek, pause and resume
//! watchdog.rs    is anything applied of what waits? (pure)
//! rebuild.rs     what is done about it: join anew, or give up
//! statistics.rs  librdkafka's own word about the ends of logs: what is withheld from us
//! log_ends.rs    a second thread asks the broker where each log begins and ends
//! ```

mod assignment;
mod begin;
mod client;
mod context;
mod log_ends;
mod poll;
mod rebuild;
mod record;
mod slot;
pub(crate) mod start;
mod statistics;
mod steer;
mod watchdog;

pub use client::{Client, ClientError, cluster_id, consumer};
pub use context::{Context, WorkerConsumer};
pub use poll::{PollOptions, PollThread, Stopped};
pub(crate) use start::{LogEnds, within};
