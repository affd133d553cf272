//! What an operator may ask of `offsets`. The words of `move` are those of
//! `kafka-consumer-groups --reset-offsets`.

use anyhow::ensure;
use clap::{ArgGroup, Args, Subcommand};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::types::Offset;

/// Arguments of `offsets`.
#[derive(Args, Clone, Debug)]
pub struct OffsetsArgs {
    /// What to do; without it, `show`.
    #[command(subcommand)]
    pub command: Option<OffsetsCommand>,
    /// What to show.
    #[command(flatten)]
    pub show: ShowArgs,
}

impl OffsetsArgs {
    /// What to do. (That clap lets the options of `show` conflict with subcommands would include
    /// the global `--config`.)
    ///
    /// # Errors
    /// When an option stands before the command it is not for.
    pub(super) fn chosen(self) -> anyhow::Result<OffsetsCommand> {
        match self.command {
            None => Ok(OffsetsCommand::Show(self.show)),
            Some(command) => {
                ensure!(
                    self.show.topic.is_none() && !self.show.json,
                    "--topic and --json must follow the command they are for, such as `offsets show --json`"
                );
                Ok(command)
            }
        }
    }
}

/// What can be done with positions.
#[derive(Clone, Debug, Subcommand)]
pub enum OffsetsCommand {
    /// Show where every partition stands, who claimed it, and its lag (the default).
    Show(ShowArgs),
    /// Move positions, under running workers or without any. Shows what would be done; does it
    /// with --execute.
    Move(MoveArgs),
    /// Show the moves that were made: who, when, why, from where to where.
    History(HistoryArgs),
}

/// Arguments of `offsets show`.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// Only this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `offsets move`.
#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("which").required(true).args(["partitions", "all_partitions"])))]
#[command(group(ArgGroup::new("target").required(true)
    .args(["to_earliest", "to_latest", "to_offset", "to_datetime", "shift_by"])))]
pub struct MoveArgs {
    /// The topic
    #[arg(long)]
    pub topic: String,
    /// The partitions: repeated, or separated by commas
    #[arg(long = "partition", value_name = "NUMBER", value_delimiter = ',')]
    pub partitions: Vec<i32>,
    /// All partitions of the topic
    #[arg(long)]
    pub all_partitions: bool,
    /// To the beginning of the log
    #[arg(long)]
    pub to_earliest: bool,
    /// To the end of the log
    #[arg(long)]
    pub to_latest: bool,
    /// To this offset: the next to read
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub to_offset: Option<i64>,
    /// To the first record whose Kafka timestamp is not before this, or to the end (RFC 3339:
    /// 2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to_datetime: Option<OffsetDateTime>,
    /// By so many offsets: negative is back, 0 claims the position anew
    #[arg(long, value_name = "OFFSETS", allow_negative_numbers = true)]
    pub shift_by: Option<i64>,
    /// Where the target lies outside the log, take the nearest offset within
    #[arg(long)]
    pub clamp: bool,
    /// Allow moving forward: what is passed over will never be read
    #[arg(long)]
    pub skip: bool,
    /// Only if the partition's epoch is still this one, as `offsets show` told
    #[arg(long, value_name = "EPOCH", conflicts_with = "all_partitions")]
    pub if_epoch: Option<i64>,
    /// Do it
    #[arg(long, requires = "reason", conflicts_with = "dry_run")]
    pub execute: bool,
    /// Only show what would be done (the default)
    #[arg(long)]
    pub dry_run: bool,
    /// Why, for `offsets history`: required with --execute
    #[arg(long, value_parser = words)]
    pub reason: Option<String>,
    /// Who, for `offsets history` [default: user@host]
    #[arg(long, value_name = "NAME", value_parser = words)]
    pub by: Option<String>,
}

/// Arguments of `offsets history`.
#[derive(Args, Clone, Debug)]
pub struct HistoryArgs {
    /// Only this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// At most so many, the newest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..))]
    pub limit: i64,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Where to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Earliest,
    Latest,
    Offset(Offset),
    Time(OffsetDateTime),
    Shift(i64),
}

impl MoveArgs {
    /// The one target given; clap makes sure that there is one.
    pub(super) fn target(&self) -> Target {
        match (self.to_offset, self.to_datetime, self.shift_by) {
            (Some(offset), ..) => Target::Offset(Offset(offset)),
            (_, Some(time), _) => Target::Time(time),
            (.., Some(shift)) => Target::Shift(shift),
            _ if self.to_latest => Target::Latest,
            _ => Target::Earliest,
        }
    }
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|error| format!("{error}; RFC 3339 is expected, such as 2026-01-31T12:00:00Z"))
}

fn words(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it must not be empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use clap::Parser;
    use time::macros::datetime;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: OffsetsArgs,
    }

    fn parse(line: &str) -> Result<OffsetsArgs, String> {
        let words = std::iter::once("offsets").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.args).map_err(|error| error.to_string())
    }

    fn moving(line: &str) -> MoveArgs {
        match parse(&format!("move {line}")).unwrap().command {
            Some(OffsetsCommand::Move(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_command_positions_are_shown() {
        let args = parse("--topic t --json").unwrap();
        for args in [args, parse("show --topic t --json").unwrap()] {
            let OffsetsCommand::Show(show) = args.chosen().unwrap() else { panic!("not show") };
            assert_eq!((show.topic.as_deref(), show.json), (Some("t"), true));
        }
    }

    #[test]
    fn an_option_before_the_command_is_not_lost_in_silence() {
        let misplaced = parse("--topic t history").unwrap().chosen().unwrap_err();
        assert!(misplaced.to_string().contains("--topic"), "{misplaced}");
        assert!(parse("--json show").unwrap().chosen().is_err());
    }

    #[test]
    fn every_target_is_understood() {
        let target = |to: &str| moving(&format!("--topic t --partition 3 {to}")).target();
        assert_eq!(target("--to-earliest"), Target::Earliest);
        assert_eq!(target("--to-latest"), Target::Latest);
        assert_eq!(target("--to-offset 12"), Target::Offset(Offset(12)));
        assert_eq!(target("--shift-by -5"), Target::Shift(-5));
        assert_eq!(target("--shift-by 0"), Target::Shift(0));
        assert_eq!(
            target("--to-datetime 2026-01-31T12:00:00+01:00"),
            Target::Time(datetime!(2026-01-31 11:00 UTC))
        );
    }

    #[test]
    fn partitions_are_named_or_all_are_meant() {
        let args = moving("--topic t --partition 0,2 --partition 5 --to-earliest");
        assert_eq!(args.partitions, [0, 2, 5]);
        assert!(moving("--topic t --all-partitions --to-earliest").all_partitions);
        for bad in
            ["--topic t --to-earliest", "--topic t --partition 0 --all-partitions --to-earliest"]
        {
            assert!(parse(&format!("move {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_move_is_a_dry_run_unless_told_to_execute_with_a_reason() {
        let base = "--topic t --partition 0 --to-earliest";
        assert!(!moving(base).execute);
        assert!(!moving(&format!("{base} --dry-run")).execute);
        let args = moving(&format!("{base} --execute --reason ticket-42 --by ann"));
        assert!(args.execute);
        assert_eq!(args.reason.as_deref(), Some("ticket-42"));
        let refused = parse(&format!("move {base} --execute")).unwrap_err();
        assert!(refused.contains("--reason"), "{refused}");
        assert!(parse(&format!("move {base} --execute --reason=")).is_err(), "an empty reason");
        assert!(parse(&format!("move {base} --execute --dry-run --reason r")).is_err());
    }

    #[test]
    fn what_contradicts_itself_or_is_no_target_is_refused() {
        for bad in [
            "",
            "--to-earliest --to-latest",
            "--to-offset -1",
            "--to-offset many",
            "--to-datetime yesterday",
            "--to-datetime 2026-01-31T12:00:00",
        ] {
            assert!(parse(&format!("move --topic t --partition 0 {bad}")).is_err(), "{bad}");
        }
        assert!(parse("move --topic t --all-partitions --to-latest --if-epoch 3").is_err());
        assert!(parse("move --partition 0 --to-latest").is_err(), "no topic");
        assert!(parse("history --limit 0").is_err());
    }
}
