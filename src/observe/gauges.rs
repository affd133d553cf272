//! The gauges, read from the board at every scrape and rendered as Prometheus text.
//!
//! Not kept in the recorder: that one never forgets a series, and lag of a revoked partition must
//! vanish at once, or two copies would report the same partition. And a gauge that is read cannot
//! disagree with `/status`.

use super::board::{Health, PartitionState, PartitionView, StatusBoard};
use super::names;

/// All gauges as they are now.
pub(super) fn render(board: &StatusBoard) -> String {
    let partitions = board.partitions();
    let (kafka, lanes) = board.health();
    let in_state = |state| {
        partitions.iter().filter(|partition| partition.status.state == state).count().to_string()
    };
    let up = |up: bool| u8::from(up).to_string();

    let mut page = Page::default();
    page.family(names::LAG_RECORDS, per_partition(&partitions, |view| view.lag_records));
    page.family(names::LAG_SECONDS, per_partition(&partitions, |view| view.lag_seconds));
    page.family(names::WITHHELD_RECORDS, per_partition(&partitions, |view| view.withheld_records));
    page.family(names::WITHHELD_SECONDS, per_partition(&partitions, |view| view.withheld_seconds));
    page.single(names::PARTITIONS_ASSIGNED, &partitions.len().to_string());
    page.single(names::PARTITIONS_PAUSED, &in_state(PartitionState::Paused));
    page.single(names::PARTITIONS_HALTED, &in_state(PartitionState::Halted));
    page.single(names::POSTGRES_UP, &up(lanes.iter().all(Health::is_up)));
    page.single(names::KAFKA_UP, &up(kafka.is_up()));
    page.family(
        names::BUILD_INFO,
        [(labels(&[("version", env!("CARGO_PKG_VERSION"))]), "1".to_owned())],
    );
    page.0
}

/// One series for every partition whose value is known.
fn per_partition<T: ToString>(
    partitions: &[PartitionView],
    value: impl Fn(&PartitionView) -> Option<T>,
) -> impl Iterator<Item = (String, String)> {
    partitions.iter().filter_map(move |view| {
        let number = view.source.partition.to_string();
        let labels = labels(&[("topic", &view.source.topic), ("partition", &number)]);
        Some((labels, value(view)?.to_string()))
    })
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn single(&mut self, name: &str, value: &str) {
        self.family(name, [(String::new(), value.to_owned())]);
    }

    /// `# HELP`, `# TYPE` and a line for every series; nothing at all without one.
    fn family(&mut self, name: &str, series: impl IntoIterator<Item = (String, String)>) {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return;
        }
        if let Some(metric) = names::metric(name) {
            self.0.push_str(&format!("# HELP {name} {}\n", metric.help));
            self.0.push_str(&format!("# TYPE {name} {}\n", metric.kind.as_str()));
        }
        for (labels, value) in series {
            self.0.push_str(&format!("{name}{labels} {value}\n"));
        }
        self.0.push('\n');
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// A label's value as the text format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::board::Identity;
    use super::*;
    use crate::types::{Epoch, Offset, TopicPartition};

    #[test]
    fn gauges_show_what_the_board_knows_and_nothing_else() {
        let identity = Identity { group: "g".to_owned(), worker_id: "w".to_owned() };
        let board = StatusBoard::new(identity);
        let text = render(&board);
        assert!(text.contains("user_events_partitions_assigned 0\n"));
        assert!(text.contains("user_events_postgres_up 0\n"));
        assert!(text.contains("# TYPE user_events_build_info gauge\n"));
        assert!(text.contains(&format!(
            "user_events_build_info{{version=\"{}\"}} 1\n",
            env!("CARGO_PKG_VERSION")
        )));
        assert!(!text.contains("lag_records"));

        let source = TopicPartition::new("odd\"\\\ntopic", 3);
        board.assigned(&source);
        assert!(!render(&board).contains("lag_records"), "unknown is not 0");
        board.claimed(&source, Epoch(1), Some(Offset(10)));
        board.end(&source, Offset(12));
        board.applied(&[(source.clone(), Offset(12))]);
        board.state(&source, PartitionState::Halted);
        board.postgres(0, Health::Up);
        let text = render(&board);
        let labels = r#"{topic="odd\"\\\ntopic",partition="3"}"#;
        assert!(text.contains(&format!("user_events_lag_records{labels} 0\n")), "{text}");
        assert!(text.contains(&format!("user_events_lag_seconds{labels} 0\n")), "{text}");
        assert!(text.contains("user_events_partitions_assigned 1\n"));
        assert!(text.contains("user_events_partitions_halted 1\n"));
        assert!(text.contains("user_events_postgres_up 1\n"));

        board.revoked(&source);
        assert!(!render(&board).contains("lag_"), "gone at once");
    }

    #[test]
    fn every_gauge_is_rendered() {
        let identity = Identity { group: "g".to_owned(), worker_id: "w".to_owned() };
        let board = StatusBoard::new(identity);
        let source = TopicPartition::new("t", 0);
        board.assigned(&source);
        board.claimed(&source, Epoch(1), Some(Offset(0)));
        board.end(&source, Offset(0));
        board.reading(&source, PartitionState::Reading);
        board.fetched(&source, Offset(0), Offset(0));
        let text = render(&board);
        for metric in names::ALL.iter().filter(|metric| metric.kind == names::Kind::Gauge) {
            assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)));
        }
    }
}
