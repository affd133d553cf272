//! The account at the end: what was sent, what Kafka holds, what Postgres holds.

use std::collections::BTreeMap;
use std::fmt;

use super::stored::Stored;
use crate::commands::produce::{Expectation, Tally};
use crate::event::Reason;

/// The three sides of the account. None of them comes from the worker's own counters.
#[derive(Clone, Debug)]
pub struct Reconciliation {
    /// What the producer sent.
    pub sent: Tally,
    /// The end of every partition in Kafka.
    pub kafka: BTreeMap<i32, i64>,
    /// What is in Postgres. The demo's worker skips nothing: a record without a value is a dead
    /// letter.
    pub stored: Stored,
}

impl Reconciliation {
    /// Records in Kafka.
    pub fn produced(&self) -> u64 {
        self.kafka.values().map(|end| end.unsigned_abs()).sum()
    }

    /// Events that took effect.
    pub fn applied(&self) -> u64 {
        self.stored.ledger.saturating_sub(self.stored.stale)
    }

    /// Dead letters for whatever reason.
    pub fn dead_letters(&self) -> u64 {
        self.stored.dead_letters.values().sum()
    }

    /// Records that left no trace but a position behind them: what duplicates must do. Negative
    /// when Postgres holds more than Kafka ever did.
    pub fn without_trace(&self) -> i64 {
        let traces = self.stored.ledger + self.dead_letters();
        self.produced().cast_signed().saturating_sub(traces.cast_signed())
    }

    fn expected_dead_letters(&self) -> BTreeMap<&'static str, u64> {
        let reasons = self.sent.iter().filter_map(|(expected, records)| match expected {
            Expectation::Malformed(reason) => Some((reason.code(), records)),
            Expectation::Tombstone => Some((Reason::EmptyValue.code(), records)),
            _ => None,
        });
        reasons.collect()
    }

    /// Whether every record has exactly one outcome, and the one it must have.
    ///
    /// # Errors
    /// Everything that does not hold, a sentence each.
    pub fn holds(&self) -> Result<(), Vec<String>> {
        let stored = &self.stored;
        let mut wrong = Vec::new();
        let mut equal = |what: &str, expected: i64, found: i64| {
            if expected != found {
                wrong.push(format!("{what}: {found} instead of {expected}"));
            }
        };
        let sent = |expectation| self.sent.of(expectation).cast_signed();
        let number = u64::cast_signed;
        equal("records in Kafka", number(self.sent.total()), number(self.produced()));
        equal("applied events", sent(Expectation::Fresh), number(self.applied()));
        equal("stale events", sent(Expectation::OutOfOrder), number(stored.stale));
        equal("records without a trace", sent(Expectation::Duplicate), self.without_trace());
        equal("events in the ledger more than once", 0, number(stored.repeated));
        equal("events missing in the ledger", 0, number(stored.missing));
        equal("events in the ledger that were not sent", 0, number(stored.unknown));
        equal("users that differ from the ledger", 0, number(stored.wrong_users));
        let mut dead_letters = self.expected_dead_letters();
        for (reason, found) in &stored.dead_letters {
            let expected = dead_letters.remove(reason.as_str()).unwrap_or_default();
            equal(&format!("dead letters, {reason}"), number(expected), number(*found));
        }
        for (reason, expected) in dead_letters {
            equal(&format!("dead letters, {reason}"), number(expected), 0);
        }
        for (partition, end) in &self.kafka {
            let position = stored.positions.get(partition).copied().unwrap_or_default();
            equal(&format!("position in partition {partition}"), *end, position);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

impl fmt::Display for Reconciliation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |what: &str, sent: u64, found: &dyn fmt::Display, place: &str| {
            writeln!(f, "{what:<16} {sent:>12} {found:>12}  {place}")
        };
        let sent = &self.sent;
        let dead_letters = sent.malformed() + sent.of(Expectation::Tombstone);
        row("produced", sent.total(), &self.produced(), "ends of the partitions in Kafka")?;
        row(
            "= applied",
            sent.of(Expectation::Fresh),
            &self.applied(),
            "ledger, without the stale",
        )?;
        row("+ stale", sent.of(Expectation::OutOfOrder), &self.stored.stale, "ledger")?;
        row(
            "+ duplicates",
            sent.of(Expectation::Duplicate),
            &self.without_trace(),
            "passed, and no trace left",
        )?;
        row("+ skipped", 0, &0, "the demo is configured to skip nothing")?;
        row("+ dead letters", dead_letters, &self.dead_letters(), "dead_letters")?;
        let expected = self.expected_dead_letters();
        let reasons = self.stored.dead_letters.keys().map(String::as_str);
        let reasons: std::collections::BTreeSet<_> =
            expected.keys().copied().chain(reasons).collect();
        for reason in reasons {
            let found = self.stored.dead_letters.get(reason).copied().unwrap_or_default();
            let sent = expected.get(reason).copied().unwrap_or_default();
            row("", sent, &found, reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn balanced() -> Reconciliation {
        let mut sent = Tally::default();
        for (expected, records) in [
            (Expectation::Fresh, 90),
            (Expectation::OutOfOrder, 3),
            (Expectation::Duplicate, 4),
            (Expectation::Malformed(Reason::NotJson), 2),
            (Expectation::Tombstone, 1),
        ] {
            (0..records).for_each(|_| sent.add(expected));
        }
        let dead_letters = [("not_json", 2), ("empty_value", 1)];
        let positions = BTreeMap::from([(0, 60), (1, 40)]);
        Reconciliation {
            sent,
            kafka: positions.clone(),
            stored: Stored {
                ledger: 93,
                stale: 3,
                dead_letters: dead_letters.map(|(reason, n)| (reason.to_owned(), n)).into(),
                positions,
                ..Stored::default()
            },
        }
    }

    #[test]
    fn it_holds_when_every_record_has_its_outcome() {
        let account = balanced();
        assert_eq!(account.holds(), Ok(()));
        let table = account.to_string();
        for line in ["produced 100 100", "= applied 90 90", "+ duplicates 4 4", "2 2 not_json"] {
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words(&table).contains(line), "{line} in {table}");
        }
    }

    #[test]
    fn it_does_not_hold_when_anything_is_off() {
        type Spoil = fn(&mut Reconciliation);
        let spoilt: [(Spoil, &str); 10] = [
            (|a| a.sent.add(Expectation::Fresh), "records in Kafka: 100 instead of 101"),
            (|a| a.stored.ledger -= 1, "applied events: 89 instead of 90"),
            (|a| a.stored.ledger += 9, "records without a trace: -5 instead of 4"),
            (|a| a.stored.stale += 1, "stale events: 4 instead of 3"),
            (|a| a.stored.repeated = 1, "more than once: 1"),
            (|a| a.stored.missing = 1, "missing in the ledger: 1"),
            (|a| a.stored.unknown = 1, "not sent: 1"),
            (|a| a.stored.wrong_users = 1, "differ from the ledger: 1"),
            (|a| a.stored.dead_letters = BTreeMap::new(), "not_json: 0 instead of 2"),
            (
                |a| a.stored.positions = BTreeMap::from([(0, 60), (1, 39)]),
                "partition 1: 39 instead of 40",
            ),
        ];
        for (spoil, complaint) in spoilt {
            let mut account = balanced();
            spoil(&mut account);
            let wrong = account.holds().unwrap_err();
            assert!(wrong.iter().any(|wrong| wrong.contains(complaint)), "{complaint}: {wrong:?}");
        }
    }
}
