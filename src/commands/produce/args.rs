//! What an operator may ask of `produce`.

use clap::{Args, ValueEnum};

/// Writes realistic user events to Kafka.
#[derive(Args, Clone, Debug)]
pub struct ProduceArgs {
    /// Topic to write to [default: the first configured one]
    #[arg(long)]
    pub topic: Option<String>,
    /// Create the topic with so many partitions, one copy each, if it does not exist.
    #[arg(long, value_name = "PARTITIONS")]
    pub create_topic: Option<i32>,
    /// Records to write; 0 goes on until interrupted
    #[arg(long, default_value_t = 100_000)]
    pub count: u64,
    /// Records per second; 0 is as fast as possible
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// What the records are like.
    #[command(flatten)]
    pub recipe: Recipe,
}

/// What generated records are like. The same recipe and clock give the same records.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Recipe {
    /// How many different users
    #[arg(long, default_value_t = Self::default().users, value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// How unevenly events fall on users: the exponent of a Zipf distribution; 0 is evenly
    #[arg(long, default_value_t = Self::default().zipf, value_parser = exponent)]
    pub zipf: f64,
    /// Share of records that are a retry: an earlier record of the same key once more
    #[arg(long, default_value_t = Self::default().duplicates, value_parser = share)]
    pub duplicates: f64,
    /// Share of records that break the contract, in every way it can be broken
    #[arg(long, default_value_t = Self::default().malformed, value_parser = share)]
    pub malformed: f64,
    /// Share of records whose sequence is not above the user's last
    #[arg(long, default_value_t = Self::default().out_of_order, value_parser = share)]
    pub out_of_order: f64,
    /// Share of records without a value
    #[arg(long, default_value_t = Self::default().tombstones, value_parser = share)]
    pub tombstones: f64,
    /// Share of events that carry the user's version in `sequence`
    #[arg(long, default_value_t = Self::default().sequence, value_parser = share)]
    pub sequence: f64,
    /// Share of events that change the profile; the others are activity
    #[arg(long, default_value_t = Self::default().profile, value_parser = share)]
    pub profile: f64,
    /// Share of records in the binary binding: attributes as headers
    #[arg(long, default_value_t = Self::default().binary, value_parser = share)]
    pub binary: f64,
    /// Bytes of a value, approximately
    #[arg(long, default_value_t = Self::default().size)]
    pub size: usize,
    /// Among the malformed also values of this many bytes, to go beyond the worker's
    /// events.max_record_bytes; 0 makes none
    #[arg(long, default_value_t = Self::default().oversized)]
    pub oversized: usize,
    /// Version of the event ids
    #[arg(long, value_enum, default_value_t = Self::default().uuid)]
    pub uuid: UuidVersion,
    /// Seed of everything random
    #[arg(long, default_value_t = Self::default().seed)]
    pub seed: u64,
}

/// Which UUIDs identify the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UuidVersion {
    /// Ordered by time: kind to the ledger's index
    V7,
    /// Random: hard on it
    V4,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            users: 10_000,
            zipf: 0.0,
            duplicates: 0.0,
            malformed: 0.0,
            out_of_order: 0.0,
            tombstones: 0.0,
            sequence: 1.0,
            profile: 0.1,
            binary: 0.2,
            size: 250,
            oversized: 0,
            uuid: UuidVersion::V7,
            seed: 0,
        }
    }
}

impl Recipe {
    /// Checks what must fit together.
    ///
    /// # Errors
    /// A sentence that names the options.
    pub fn validate(&self) -> anyhow::Result<()> {
        let special = self.malformed + self.tombstones + self.duplicates + self.out_of_order;
        anyhow::ensure!(
            special <= 1.0,
            "--malformed, --tombstones, --duplicates and --out-of-order are {special} of all \
             records together; they must be at most 1"
        );
        anyhow::ensure!(
            self.out_of_order == 0.0 || self.sequence > 0.0,
            "--out-of-order needs events with a sequence: raise --sequence above 0"
        );
        anyhow::ensure!(self.users > 0, "--users must be at least 1");
        Ok(())
    }
}

/// Reads a share: 0 to 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".to_owned()),
    }
}

fn exponent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(exponent) if (0.0..=10.0).contains(&exponent) => Ok(exponent),
        _ => Err("the exponent is a number from 0 to 10".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ProduceArgs,
    }

    #[test]
    fn the_defaults_are_those_of_the_recipe() {
        let args = Cli::try_parse_from(["produce"]).unwrap().args;
        assert_eq!(args.recipe, Recipe::default());
        assert_eq!((args.count, args.rate, args.topic), (100_000, 0, None));
    }

    #[test]
    fn shares_are_checked() {
        for bad in ["1.1", "-0.1", "NaN", "many"] {
            let parsed = Cli::try_parse_from(["produce", &format!("--duplicates={bad}")]);
            assert!(parsed.is_err(), "{bad}");
        }
        let recipe = Recipe { duplicates: 0.6, malformed: 0.6, ..Recipe::default() };
        assert!(recipe.validate().unwrap_err().to_string().contains("1.2"));
        let recipe = Recipe { out_of_order: 0.1, sequence: 0.0, ..Recipe::default() };
        assert!(recipe.validate().is_err());
    }
}
