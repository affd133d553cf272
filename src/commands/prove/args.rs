//! What an operator may ask of `prove`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;

use super::schedule::FaultKind;

/// Records the account may hold: it is kept in memory, about 150 bytes each.
pub const MOST_RECORDS: u64 = 4_000_000;

/// Proves on your own Kafka and Postgres that nothing is lost or doubled, whatever breaks.
///
/// Starts real workers on a topic, a group and a schema of its own, writes events, breaks things,
/// and compares Kafka and Postgres with what the broker acknowledged. Touches nothing else. Exit
/// code 0: everything holds and every fault fired; 1: something was lost, doubled or wrong;
/// 3: inconclusive.
#[derive(Args, Clone, Debug)]
pub struct ProveArgs {
    /// Seconds under load; longer when every kind of fault has not had its turn
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Records per second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=50_000))]
    pub rate: u64,
    /// Workers, each a process of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=32))]
    pub workers: u8,
    /// Partitions of the scratch topic; at least two more than workers
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(4..=1_000))]
    pub partitions: i32,
    /// Faults to inject [default: all; database only with --own-database]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub faults: Vec<FaultKind>,
    /// Seed of the schedule of faults and of the events [default: a new one, which is printed]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Start a throwaway Postgres instead of using the configured one, and crash it, too
    #[arg(long)]
    pub own_database: bool,
    /// Seconds the workers may take to catch up after the last fault
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
    /// Leave topic, schema and the workers' logs for inspection
    #[arg(long)]
    pub keep: bool,
    /// Also write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl ProveArgs {
    /// Checks what must fit together.
    ///
    /// # Errors
    /// A sentence that names the options.
    pub fn validate(&self) -> anyhow::Result<()> {
        let records = self.seconds * self.rate;
        ensure!(
            records <= MOST_RECORDS,
            "--seconds x --rate is {records} records; the account holds {MOST_RECORDS}: lower one"
        );
        let needed = i32::from(self.workers) + 2;
        ensure!(
            self.partitions >= needed,
            "--partitions must be at least {needed} (--workers and two more), so that newcomers in \
             a rebalance storm are given some"
        );
        ensure!(
            self.own_database || !self.faults.contains(&FaultKind::Database),
            "--faults database needs --own-database: a Postgres that others use is not crashed"
        );
        Ok(())
    }

    /// The kinds of faults asked for, each once, in a fixed order.
    pub fn kinds(&self) -> Vec<FaultKind> {
        let wanted = |kind: &FaultKind| match self.faults.is_empty() {
            true => self.own_database || *kind != FaultKind::Database,
            false => self.faults.contains(kind),
        };
        FaultKind::ALL.into_iter().filter(wanted).collect()
    }

    /// How long the load lasts at least.
    pub fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
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
        args: ProveArgs,
    }

    fn parse(args: &[&str]) -> ProveArgs {
        Cli::try_parse_from([&["prove"], args].concat()).unwrap().args
    }

    #[test]
    fn a_database_of_others_is_never_crashed() {
        assert!(!parse(&[]).kinds().contains(&FaultKind::Database));
        assert!(parse(&["--own-database"]).kinds().contains(&FaultKind::Database));
        let asked = parse(&["--faults", "kill,database"]);
        assert!(asked.validate().unwrap_err().to_string().contains("--own-database"));
    }

    #[test]
    fn faults_are_the_ones_asked_for() {
        use FaultKind::{Kill, Stop};
        assert_eq!(parse(&["--faults", "stop,kill,stop"]).kinds(), [Kill, Stop]);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (args, named) in
            [(["--workers", "5"], "--partitions"), (["--seconds", "5000"], "the account holds")]
        {
            let error = parse(&args).validate().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        assert!(parse(&[]).validate().is_ok());
    }
}
