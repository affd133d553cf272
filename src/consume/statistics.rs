//! What librdkafka's statistics tell of the ends of logs. Every fetch brings both ends, and nothing
//! else of librdkafka's shows the second one without a request of its own.

use std::collections::HashMap;

use serde::Deserialize;
use tracing::warn;

use crate::consume::poll::PollLoop;
use crate::observe::board::PartitionView;
use crate::types::{Offset, TopicPartition};

/// Transactions last for milliseconds, as a rule; producers let brokers end them after a minute,
/// unless told otherwise.
const LONG: f64 = 60.0;

/// The two ends of a log, from one fetch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    source: TopicPartition,
    /// The last stable offset: as far as a read-committed reader gets.
    stable: Offset,
    /// The high watermark: as far as there are records.
    high: Offset,
}

#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, Topic>,
}

#[derive(Deserialize)]
struct Topic {
    partitions: HashMap<String, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    partition: i32,
    fetch_state: String,
    hi_offset: i64,
    ls_offset: i64,
}

/// Reads librdkafka's JSON. Partitions that are not being fetched are left out.
///
/// # Errors
/// When it is not the JSON we know.
pub(super) fn fetched(json: &[u8]) -> serde_json::Result<Vec<Fetched>> {
    let Statistics { topics } = serde_json::from_slice(json)?;
    let known = |p: &Partition| p.fetch_state == "active" && p.hi_offset >= 0 && p.ls_offset >= 0;
    let all = topics.into_iter().flat_map(|(topic, found)| {
        found.partitions.into_values().filter(known).map(move |p| Fetched {
            source: TopicPartition::new(topic.as_str(), p.partition),
            stable: Offset(p.ls_offset),
            high: Offset(p.hi_offset),
        })
    });
    Ok(all.collect())
}

impl PollLoop {
    pub(super) fn on_fetched(&mut self, fetched: Vec<Fetched>) {
        for Fetched { source, stable, high } in fetched {
            self.board.fetched(&source, stable, high);
        }
        let partitions = self.board.partitions();
        let Some(longest) = longest_withheld(&partitions) else { return };
        if let Some(suppressed) = self.log.pass("withheld") {
            warn!(
                partition = %longest.source,
                records = longest.withheld_records,
                seconds = longest.withheld_seconds,
                suppressed,
                "a producer's transaction stays open, and kafka withholds what was written behind it"
            );
        }
    }
}

/// Where the last stable offset has stood still longest, if that is too long anywhere.
fn longest_withheld(partitions: &[PartitionView]) -> Option<&PartitionView> {
    let seconds = |view: &PartitionView| view.withheld_seconds.unwrap_or_default();
    partitions
        .iter()
        .filter(|view| seconds(view) > LONG)
        .max_by(|a, b| seconds(a).total_cmp(&seconds(b)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_told_of_what_is_being_fetched_and_of_nothing_else() {
        let partition = |number: i32, state: &str, hi: i64, ls: i64| {
            format!(
                r#""{number}": {{"partition": {number}, "fetch_state": "{state}",
                   "hi_offset": {hi}, "ls_offset": {ls}, "eof_offset": -1001}}"#
            )
        };
        let json = format!(
            r#"{{"name": "x", "brokers": {{}}, "topics": {{"t": {{"topic": "t", "partitions": {{{}}}}}}}}}"#,
            [
                partition(0, "active", 7, 5),
                partition(1, "none", 7, 5),
                partition(2, "active", -1001, -1001),
                partition(-1, "none", -1001, -1001),
            ]
            .join(",")
        );
        let expected =
            Fetched { source: TopicPartition::new("t", 0), stable: Offset(5), high: Offset(7) };
        assert_eq!(fetched(json.as_bytes()).unwrap(), [expected]);
        assert_eq!(fetched(br#"{"name": "x", "type": "consumer"}"#).unwrap(), []);
        fetched(b"{").unwrap_err();
    }
}
