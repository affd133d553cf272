//! The fault matrix: rows that no other test covers, each on a real Kafka and a real Postgres.
//! `docs/reliability.md` lists them all. Every test proves that its fault was there, holds what an
//! independent producer wrote against Postgres, and measures the fault (`support/fault.rs`).
//!
//! What takes longer than about 20 s is named `long_..`.

mod clocks;
mod cluster;
mod compaction;
mod disk_full;
mod lost_commits;
mod mock;
mod network;
mod payloads;
mod pgbouncer;
mod slow_database;
mod storm;
mod transactions;
mod twins;
