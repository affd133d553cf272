//! What the decoder lets through, Postgres takes: whatever a producer, or somebody who means harm,
//! writes into a record. One event that Postgres refuses costs a batch a bisection.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use user_events_worker::app::session_options;
use user_events_worker::apply::{
    Batch, Caps, Content, Fingerprint, Item, OffsetRange, Outcome, Writer, WriterOptions,
};
use user_events_worker::config::Config;
use user_events_worker::event::{Decoded, RawRecord, Rules, Tombstones, decode};
use user_events_worker::types::{Epoch, Offset, RecordOffset, TopicPartition};

use crate::support::Scene;

const RECORDS: usize = 10_000;
const BATCH: usize = 500;

/// Pieces of strings that have hurt somebody before.
const PIECES: [&str; 24] = [
    "a",
    " b",
    "'",
    "''; DROP TABLE users; --",
    "\u{1f600}",
    "e\u{301}",
    "$1",
    "{",
    "}",
    "%s",
    r"\\",
    r"\u0041",
    r"\/",
    r#"\""#,
    r"\ud83d\ude00",
    "\u{202e}",
    "\u{feff}",
    "\u{7f}",
    "\u{ffff}",
    r"\n",
    r"\u001f",
    r"\u0000",
    r"\ud83d",
    r"\ude00",
];

/// So many of them have nothing that an attribute must not hold,
const PLAIN: usize = 15;
/// and so many nothing that data must not hold.
const MILD: usize = 21;

/// Numbers at and beyond the edges of `numeric`, `bigint` and floating point.
const NUMBERS: [&str; 16] = [
    "0",
    "-0",
    "1e400",
    "-1e400",
    "1e401",
    "1e-400",
    "1e-401",
    "1E+399",
    "0.1e-390",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "1e308",
    "1.7976931348623159e308",
    "123456789012345678901234567890.123456789012345678901234567890",
    "1e99999999999",
];

struct Hostile(StdRng);

impl Hostile {
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.0.random_range(0..from.len())]
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.0.random_ratio(1, n)
    }

    /// The inside of a JSON string: one in four is likely to be refused.
    fn text(&mut self) -> String {
        let most = if self.one_in(50) { 300 } else { 6 };
        let mild = !self.one_in(4);
        let pieces = (0..self.0.random_range(1..=most)).map(|_| match mild {
            true => PIECES[self.0.random_range(0..MILD)],
            false => PIECES[self.0.random_range(0..PIECES.len())],
        });
        pieces.collect()
    }

    /// The inside of an attribute: mostly what its rules allow.
    fn attribute(&mut self) -> String {
        if self.one_in(20) {
            return self.text();
        }
        (0..self.0.random_range(1..=4)).map(|_| PIECES[self.0.random_range(0..PLAIN)]).collect()
    }

    fn number(&mut self) -> String {
        match self.0.random_range(0..20) {
            0 => "9".repeat(self.0.random_range(1..1_200)),
            1 => format!("0.{}", "0".repeat(self.0.random_range(1..1_200))),
            2..8 => self.pick(&NUMBERS).to_owned(),
            _ => self.0.random::<i64>().to_string(),
        }
    }

    fn json(&mut self, depth: usize) -> String {
        match self.0.random_range(0..if depth == 0 { 4 } else { 6 }) {
            0 => self.pick(&["null", "true", "false"]).to_owned(),
            1 => self.number(),
            2 | 3 => format!("\"{}\"", self.text()),
            4 => {
                let values: Vec<_> =
                    (0..self.0.random_range(0..4)).map(|_| self.json(depth - 1)).collect();
                format!("[{}]", values.join(","))
            }
            _ => self.object(depth),
        }
    }

    fn object(&mut self, depth: usize) -> String {
        let members: Vec<_> = (0..self.0.random_range(0..4))
            .map(|_| format!("\"{}\":{}", self.text(), self.json(depth.saturating_sub(1))))
            .collect();
        format!("{{{}}}", members.join(","))
    }

    fn data(&mut self) -> String {
        if self.one_in(30) {
            let levels = self.0.random_range(100..140);
            return format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        }
        if self.one_in(100) {
            return self.json(1);
        }
        self.object(3)
    }

    fn time(&mut self) -> String {
        let seconds = match self.0.random_range(0..40) {
            0 => 86_400 * 500,
            1 => -7_200,
            2 => return "9999-12-31T23:59:59.999999999Z".into(),
            3 => return "0000-01-01T00:00:00Z".into(),
            _ => self.0.random_range(0..86_400),
        };
        let at = OffsetDateTime::now_utc() - time::Duration::seconds(seconds);
        let at = at.replace_nanosecond(self.0.random_range(0..1_000_000_000)).unwrap();
        at.format(&Rfc3339).unwrap()
    }

    fn value(&mut self) -> String {
        let kind = self.pick(&["user.created", "user.updated", "user.deleted", "page.viewed"]);
        let kind = if self.one_in(10) { self.attribute() } else { kind.to_owned() };
        // Few users, so that hostile profiles meet in one row.
        let user =
            if self.one_in(10) { self.attribute() } else { self.pick(&["u", "v", "w"]).into() };
        let sequence = match self.0.random_range(0..8) {
            0 => r#","sequence":"9223372036854775807""#,
            1 => r#","sequence":"0""#,
            2 => r#","sequence":"9223372036854775808""#,
            _ => "",
        };
        format!(
            r#"{{"specversion":"1.0","id":"{}-{}","source":"{}","type":"{kind}","subject":"{user}","time":"{}","data":{}{sequence}}}"#,
            self.0.random::<u32>(),
            self.attribute(),
            self.attribute(),
            self.time(),
            self.data(),
        )
    }
}

fn record(offset: usize, value: String) -> RawRecord {
    RawRecord {
        source: TopicPartition::new("t", 0),
        offset: RecordOffset(offset as i64),
        timestamp_ms: None,
        key: Some(b"u".as_slice().into()),
        value: Some(value.into()),
        headers: vec![],
    }
}

fn batch(records: &[RawRecord], contents: Vec<Content>, epoch: Epoch, from: Offset) -> Batch {
    let items: Vec<Item> = records
        .iter()
        .zip(contents)
        .map(|(record, content)| Item { range: 0, record: Fingerprint::of(record), content })
        .collect();
    let last = items.last().unwrap().record;
    let source = records[0].source.clone();
    let range =
        OffsetRange { source, epoch, from: Some(from), to: last.offset.next(), last: Some(last) };
    Batch { items, ranges: vec![range] }
}

#[tokio::test]
async fn whatever_the_decoder_lets_through_postgres_takes() {
    let scene = Scene::new(1).await;
    assert_eq!(scene.worker().command(&["migrate"]).output().await.0, Some(0));
    let config =
        [("WORKER_POSTGRES__URL", &scene.database_url), ("WORKER_POSTGRES__SCHEMA", &scene.schema)];
    let config = config.map(|(name, value)| (name.to_owned(), value.clone()));
    let config = Config::load(None, config.into_iter()).unwrap();
    let caps = Caps { key: 100, value: 100, headers: 100 };
    let mut writer = Writer::new(WriterOptions {
        session: session_options(&config.postgres).unwrap(),
        group: "g".into(),
        worker: "w".into(),
        caps,
    });
    let source = TopicPartition::new("t", 0);
    let epoch = writer.claim(std::slice::from_ref(&source)).await.unwrap()[0].epoch;
    scene.execute("UPDATE source_offsets SET next_offset = 0").await;

    let seed = rand::random();
    eprintln!("hostile: seed {seed}");
    let mut hostile = Hostile(StdRng::seed_from_u64(seed));
    let rules = Rules {
        max_record_bytes: 1 << 20,
        max_future: std::time::Duration::from_secs(3_600),
        retention: std::time::Duration::from_secs(400 * 86_400),
        tombstones: Tombstones::DeadLetter,
    };
    let (mut stored, mut refused) = (0, BTreeMap::<&str, usize>::new());
    let (mut records, mut contents) = (Vec::new(), Vec::new());
    let mut from = Offset(0);
    for offset in 0..RECORDS {
        let record = record(offset, hostile.value());
        match decode(&record, &rules, OffsetDateTime::now_utc()) {
            Decoded::Event(event) => {
                contents.push(Content::Event(event, record.clone()));
                records.push(record);
            }
            Decoded::Rejected(rejection) => {
                *refused.entry(rejection.reason.code()).or_default() += 1;
            }
            Decoded::Skipped => panic!("nothing here is to be skipped"),
        }
        if contents.len() == BATCH {
            let batch = batch(&records, std::mem::take(&mut contents), epoch, from);
            from = batch.ranges[0].to;
            match writer.apply(&mut batch.into()).await {
                Outcome::Applied(applied) => {
                    stored += applied.applied + applied.stale;
                    assert!(applied.dead_letters.is_empty(), "{applied:?}");
                }
                other => panic!("seed {seed}, a batch that ends at offset {offset}: {other:?}"),
            }
            records.clear();
        }
    }
    eprintln!("hostile: {stored} stored, refused: {refused:?}");
    assert!(stored as usize >= RECORDS / 4, "{stored}");
    for reason in ["nul_character", "number_out_of_range", "too_deep", "time_out_of_range"] {
        assert!(refused.get(reason).is_some_and(|n| *n > 10), "{reason}: {refused:?}");
    }
    // It can be read again, and not only stored.
    let (read,): (i64,) =
        scene.fetch_one("SELECT count(data::text) + 0 * count(profile::text) FROM user_events, users WHERE users.user_id = 'u'").await;
    assert_eq!(read as u64, stored);
}
