//! What an operator may ask of `demo`.

use clap::Args;

use crate::commands::produce::Recipe;
use crate::commands::produce::args::share;

/// Runs the whole worker by itself: an embedded broker, a throwaway Postgres, a producer, and at
/// the end an account of every record.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Records to send
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    pub count: u64,
    /// Partitions of the topic
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=100))]
    pub partitions: i32,
    /// Records per second; 0 is as fast as the worker can take them
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// How many different users
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// Share of records that are a retry: an earlier record of the same key once more
    #[arg(long, default_value_t = 0.02, value_parser = share)]
    pub duplicates: f64,
    /// Share of records that break the contract, in every way it can be broken
    #[arg(long, default_value_t = 0.005, value_parser = share)]
    pub malformed: f64,
    /// Share of records whose sequence is not above the user's last
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    pub out_of_order: f64,
    /// Share of records without a value
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub tombstones: f64,
    /// Leave everything running until interrupted, to look around
    #[arg(long)]
    pub keep: bool,
}

impl DemoArgs {
    /// What the records are like. Some are larger than `max_record_bytes`.
    pub(super) fn recipe(&self, max_record_bytes: u64) -> Recipe {
        Recipe {
            users: self.users,
            duplicates: self.duplicates,
            malformed: self.malformed,
            out_of_order: self.out_of_order,
            tombstones: self.tombstones,
            oversized: usize::try_from(max_record_bytes).unwrap_or(usize::MAX),
            ..Recipe::default()
        }
    }
}
