//! Things that are made to try something out and removed afterwards: a Postgres, a schema, a topic.

pub mod database;
pub mod postgres;
pub mod topic;

pub use database::ScratchDatabase;
pub use postgres::ThrowawayPostgres;
pub use topic::ScratchTopic;

/// A name nobody else has: letters, digits and `_` only.
pub fn name(prefix: &str) -> String {
    format!("{prefix}_{:08x}", rand::random::<u32>())
}
