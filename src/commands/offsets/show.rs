//! `offsets show`: where every partition stands.

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;

use crate::apply::moves::Position;
use crate::commands::offsets::logs::Log;
use crate::commands::offsets::table::{cell, lay_out};
use crate::commands::offsets::{View, seconds};
use crate::config::StartFrom;
use crate::consume::{LogEnds, within};
use crate::types::{Offset, TopicPartition};

/// One partition, as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    topic: String,
    partition: i32,
    next_offset: Option<i64>,
    epoch: Option<i64>,
    claimed_by: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    claimed_at: Option<OffsetDateTime>,
    log_start: Option<i64>,
    log_end: Option<i64>,
    lag: Option<i64>,
    note: Option<String>,
}

/// Every partition that Kafka or Postgres knows of, in key order.
pub(super) fn rows(view: &View, start_from: StartFrom) -> Vec<Row> {
    let positions: BTreeMap<_, _> = view.positions.iter().map(|p| (&p.source, p)).collect();
    let mut sources: Vec<&TopicPartition> =
        view.logs.keys().chain(positions.keys().copied()).collect();
    sources.sort();
    sources.dedup();
    sources
        .into_iter()
        .map(|source| {
            let position = positions.get(source).copied();
            row(source, position, view.logs.get(source), start_from)
        })
        .collect()
}

fn row(
    source: &TopicPartition,
    position: Option<&Position>,
    log: Option<&Log>,
    start_from: StartFrom,
) -> Row {
    let next = position.and_then(|position| position.next);
    let (lag, note) = judge(next, log, start_from);
    Row {
        topic: source.topic.to_string(),
        partition: source.partition,
        next_offset: next.map(|next| next.0),
        epoch: position.map(|position| position.epoch.0),
        claimed_by: position.map(|position| position.claimed_by.clone()),
        claimed_at: position.map(|position| position.claimed_at),
        log_start: log.map(|log| log.span.start.0),
        log_end: log.map(|log| log.span.end.0),
        lag,
        note,
    }
}

/// The lag, where it can be told, and what is odd. The words are those of `/status`.
fn judge(
    next: Option<Offset>,
    log: Option<&Log>,
    start_from: StartFrom,
) -> (Option<i64>, Option<String>) {
    let Some(log) = log else {
        return (None, Some("kafka has no such partition".to_owned()));
    };
    let Some(next) = next else {
        return (None, Some(format!("never read: begins at kafka.start_from = {start_from}")));
    };
    let ends = LogEnds { low: log.span.start, high: log.span.end, committed: None };
    let note = within(next, ends).err().map(|halt| halt.to_string());
    // Beyond the end there is no lag: that position is not of this log.
    let lag = (next <= log.span.end).then(|| log.span.end.0 - next.0);
    (lag, note)
}

/// A table; what is odd follows below it, a line each.
pub(super) fn table(rows: &[Row]) -> String {
    let header = [
        "TOPIC",
        "PARTITION",
        "NEXT-OFFSET",
        "LOG-START",
        "LOG-END",
        "LAG",
        "EPOCH",
        "CLAIMED-BY",
        "CLAIMED-AT",
    ];
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.topic.clone(),
                row.partition.to_string(),
                cell(row.next_offset),
                cell(row.log_start),
                cell(row.log_end),
                cell(row.lag),
                cell(row.epoch),
                cell(row.claimed_by.as_ref()),
                cell(row.claimed_at.map(seconds)),
            ]
        })
        .collect();
    let mut text = lay_out(header, &cells);
    for row in rows {
        if let Some(note) = &row.note {
            text.push_str(&format!("\n{}[{}]: {note}", row.topic, row.partition));
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn judged(next: Option<i64>) -> (Option<i64>, String) {
        let log = Log { span: Offset(10)..Offset(40), at_time: None };
        let (lag, note) = judge(next.map(Offset), Some(&log), StartFrom::Latest);
        (lag, note.unwrap_or_default())
    }

    #[test]
    fn lag_is_what_is_left_to_read() {
        assert_eq!(judged(Some(10)), (Some(30), String::new()));
        assert_eq!(judged(Some(40)), (Some(0), String::new()));
    }

    #[test]
    fn what_is_odd_is_told() {
        let (lag, note) = judged(Some(4));
        assert_eq!(lag, Some(36));
        assert!(
            note.contains("records 4..10 were deleted") && note.contains("6 offsets"),
            "{note}"
        );
        let (lag, note) = judged(Some(41));
        assert_eq!(lag, None);
        assert!(note.contains("position 41 lies beyond the end of the log (40)"), "{note}");
        let (lag, note) = judged(None);
        assert_eq!(lag, None);
        assert!(note.contains("never read") && note.contains("latest"), "{note}");
        assert!(judge(Some(Offset(1)), None, StartFrom::Latest).1.unwrap().contains("kafka"));
    }
}
