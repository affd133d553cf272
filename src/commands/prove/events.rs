//! The events of the load: everything that may happen to a user, and nonsense. They share no code
//! with the worker: what they mean is written down here once more.

use std::sync::Arc;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::{Builder, Uuid};

/// `source` of every event.
pub const SOURCE: &str = "/prove";
/// How many users have all their events in one partition.
const AT_HOME: usize = 300;
/// How many users of either kind have theirs in all partitions.
const CROSSING: usize = 4;
/// Events that may come once more.
const MEMORY: usize = 2_000;

/// Whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// All events in one partition: their order is known, and so is the whole row.
    AtHome(usize),
    /// Activities in all partitions, whose order is not known. The name is before all others: with
    /// those after all others, what a deadlock needs.
    First(usize),
    /// The same; the name is after all others.
    Last(usize),
}

/// The names of [`User::First`] begin with this.
pub const FIRST: &str = "a-crossing-";
/// The names of [`User::Last`] begin with this.
pub const LAST: &str = "z-crossing-";

impl User {
    /// The user id.
    pub fn name(self) -> String {
        match self {
            Self::AtHome(number) => format!("home-{number:04}"),
            Self::First(number) => format!("{FIRST}{number}"),
            Self::Last(number) => format!("{LAST}{number}"),
        }
    }

    /// Whether its events are in more than one partition.
    pub fn crosses(self) -> bool {
        !matches!(self, Self::AtHome(_))
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `user.created`
    Created,
    /// `user.updated`
    Updated,
    /// `user.deleted`
    Deleted,
    /// An activity.
    Viewed,
}

impl Kind {
    /// The event's `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "user.created",
            Self::Updated => "user.updated",
            Self::Deleted => "user.deleted",
            Self::Viewed => "page.viewed",
        }
    }
}

/// An event as its producer meant it.
#[derive(Clone, Debug)]
pub struct Meant {
    /// Identity, with `time`.
    pub id: Uuid,
    /// Whole microseconds.
    pub time: OffsetDateTime,
    /// Whose.
    pub user: User,
    /// What.
    pub kind: Kind,
    /// The user's version.
    pub sequence: Option<i64>,
    /// What the data is made of.
    pub number: u32,
}

impl Meant {
    /// `data`.
    pub fn data(&self) -> Value {
        let number = self.number;
        match (self.kind, number % 4) {
            (Kind::Created, _) => json!({"name": format!("n{number}"), "a": number, "void": null}),
            (Kind::Updated, 0) => json!({"a": null, "b": number}),
            (Kind::Updated, 1) => json!({"c": {"deep": [number, null]}}),
            (Kind::Updated, _) => json!({"a": number}),
            (Kind::Deleted | Kind::Viewed, _) => json!({"n": number}),
        }
    }

    fn time(&self) -> String {
        // RFC 3339 can say every time of this century.
        self.time.format(&Rfc3339).unwrap_or_default()
    }

    fn structured(&self) -> Value {
        let mut event = json!({
            "specversion": "1.0",
            "id": self.id.to_string(),
            "source": SOURCE,
            "type": self.kind.name(),
            "subject": self.user.name(),
            "time": self.time(),
            "data": self.data(),
        });
        if let Some(sequence) = self.sequence {
            event["sequence"] = sequence.to_string().into();
        }
        event
    }

    fn record(&self) -> Record {
        // One in five in the binary binding.
        if !self.number.is_multiple_of(5) {
            return Record::plain(self.user.name(), self.structured().to_string());
        }
        let mut headers = vec![
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", self.id.to_string()),
            ("ce_source", SOURCE.to_owned()),
            ("ce_type", self.kind.name().to_owned()),
            ("ce_subject", self.user.name()),
            ("ce_time", self.time()),
        ];
        headers.extend(self.sequence.map(|sequence| ("ce_sequence", sequence.to_string())));
        Record { headers, ..Record::plain(self.user.name(), self.data().to_string()) }
    }
}

/// How a record breaks the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No JSON.
    NotJson,
    /// A JSON array.
    NotAnObject,
    /// No `id`.
    NoId,
    /// A `time` that is none.
    NoTime,
}

impl Flaw {
    const ALL: [Self; 4] = [Self::NotJson, Self::NotAnObject, Self::NoId, Self::NoTime];

    /// The reason its dead letter must have.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::NoId => "missing_attribute",
            Self::NoTime => "invalid_attribute",
        }
    }

    fn value(self, number: u32) -> String {
        match self {
            Self::NotJson => format!("{{nonsense {number}"),
            Self::NotAnObject => format!("[{number}]"),
            Self::NoId => json!({"source": SOURCE, "type": "x", "subject": "nobody",
                "time": "2026-01-01T00:00:00Z", "data": {"n": number}})
            .to_string(),
            Self::NoTime => json!({"id": number.to_string(), "source": SOURCE, "type": "x",
                "subject": "nobody", "time": "yesterday"})
            .to_string(),
        }
    }
}

/// What a record holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// An event.
    Event(Arc<Meant>),
    /// Something that breaks the contract; the number makes it differ from others.
    Nonsense(Flaw, u32),
}

/// A record, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Record key.
    pub key: String,
    /// Record value.
    pub value: String,
    /// Record headers.
    pub headers: Vec<(&'static str, String)>,
}

impl Record {
    fn plain(key: String, value: String) -> Self {
        Self { key, value, headers: Vec::new() }
    }
}

impl Content {
    /// The record that says it: the same each time.
    pub fn record(&self) -> Record {
        match self {
            Self::Event(event) => event.record(),
            Self::Nonsense(flaw, number) => Record::plain("nobody".to_owned(), flaw.value(*number)),
        }
    }
}

/// An endless stream of contents, each for a partition.
pub struct Events {
    rng: Xoshiro256PlusPlus,
    partitions: i32,
    /// The highest version sent, by user at home.
    versions: Vec<i64>,
    recent: Vec<(i32, Arc<Meant>)>,
}

impl Events {
    /// Draws from the seed; only ids and times differ from run to run.
    pub fn new(seed: u64, partitions: i32) -> Self {
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { rng, partitions, versions: vec![0; AT_HOME], recent: Vec::new() }
    }

    fn any_partition(&mut self) -> i32 {
        self.rng.random_range(0..self.partitions)
    }

    /// A retry of an earlier event: of a user who crosses partitions in any of them, so that the
    /// two copies may meet different workers.
    fn again(&mut self) -> Option<(i32, Arc<Meant>)> {
        if self.recent.is_empty() {
            return None;
        }
        let index = self.rng.random_range(0..self.recent.len());
        let (partition, event) = self.recent.get(index)?.clone();
        let partition = if event.user.crosses() { self.any_partition() } else { partition };
        Some((partition, event))
    }

    fn remember(&mut self, partition: i32, event: &Arc<Meant>) {
        if self.recent.len() < MEMORY {
            self.recent.push((partition, event.clone()));
            return;
        }
        let index = self.rng.random_range(0..MEMORY);
        if let Some(slot) = self.recent.get_mut(index) {
            *slot = (partition, event.clone());
        }
    }

    fn user(&mut self) -> User {
        match self.rng.random_range(0..100) {
            0..10 => User::First(self.rng.random_range(0..CROSSING)),
            10..20 => User::Last(self.rng.random_range(0..CROSSING)),
            // Low numbers come up more often.
            _ => {
                let skewed = self.rng.random::<f64>().powi(2);
                User::AtHome(((skewed * AT_HOME as f64) as usize).min(AT_HOME - 1))
            }
        }
    }

    fn kind(&mut self) -> Kind {
        match self.rng.random_range(0..100) {
            0..10 => Kind::Created,
            10..35 => Kind::Updated,
            35..40 => Kind::Deleted,
            _ => Kind::Viewed,
        }
    }

    /// Two in five events have a version; one in six of those comes late.
    fn sequence(&mut self, user: usize) -> Option<i64> {
        if self.rng.random_range(0..5) >= 2 {
            return None;
        }
        let late = self.rng.random_range(0..6) == 0;
        let version = self.versions.get_mut(user)?;
        *version += 1;
        Some(if late { (*version - 3).max(0) } else { *version })
    }

    fn event(&mut self) -> (i32, Meant) {
        let user = self.user();
        let time = OffsetDateTime::now_utc().truncate_to_microsecond();
        let millis = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let id = Builder::from_unix_timestamp_millis(millis, &self.rng.random()).into_uuid();
        let number = self.rng.random_range(0..1_000);
        let (partition, kind, sequence) = match user {
            User::AtHome(user) => {
                let home = i32::try_from(user).unwrap_or_default() % self.partitions;
                (home, self.kind(), self.sequence(user))
            }
            User::First(_) | User::Last(_) => (self.any_partition(), Kind::Viewed, None),
        };
        (partition, Meant { id, time, user, kind, sequence, number })
    }
}

impl Iterator for Events {
    type Item = (i32, Content);

    /// Two in a hundred are nonsense, six a retry.
    fn next(&mut self) -> Option<(i32, Content)> {
        let dice = self.rng.random_range(0..100);
        if dice < 2 {
            let flaw = Flaw::ALL[self.rng.random_range(0..Flaw::ALL.len())];
            return Some((self.any_partition(), Content::Nonsense(flaw, self.rng.random())));
        }
        if dice < 8
            && let Some((partition, event)) = self.again()
        {
            return Some((partition, Content::Event(event)));
        }
        let (partition, event) = self.event();
        let event = Arc::new(event);
        self.remember(partition, &event);
        Some((partition, Content::Event(event)))
    }
}
