//! The worker as its users meet it: the real binary, a real Kafka and a real Postgres.
//!
//! `make test` starts both and passes their addresses in `KAFKA_BOOTSTRAP_SERVERS` and
//! `DATABASE_URL`. Every test makes a topic, a group and a schema of its own, so all may run at
//! once; tests that break a service start one of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, missing_docs)]

mod bindings;
mod breaker;
mod checker;
mod commands;
mod dead_letters;
mod demo;
mod distance;
mod duplicates;
mod faults;
mod fences;
mod fold;
mod health;
mod hostile;
mod matrix;
mod metrics;
mod months;
mod offsets;
mod prove;
mod recovery;
mod rewind;
mod secrets;
mod secure;
mod smoke;
mod support;
mod taxonomy;
mod tracing;
mod users;
mod watchdog;
