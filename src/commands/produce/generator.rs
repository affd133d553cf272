//! Realistic user events, from a recipe: pure, and the same each time.

use anyhow::Context;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::Zipf;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uuid::{Builder, Uuid};

use super::args::{Recipe, UuidVersion};
use super::data;
use super::draft::{Draft, header};
use super::flaw::Flaw;
use super::record::{Expectation, Generated};

/// Where the generator takes the time from.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The system's.
    System,
    /// One that moves with every event, for records that are the same each time.
    Steady {
        /// Time of the first event.
        start: OffsetDateTime,
        /// From one event to the next.
        step: Duration,
    },
}

impl Clock {
    /// The time now, in microseconds as events have it.
    fn tick(&mut self) -> OffsetDateTime {
        match self {
            Self::System => OffsetDateTime::now_utc().truncate_to_microsecond(),
            Self::Steady { start, step } => {
                let now = *start;
                *start = now.saturating_add(*step);
                now.truncate_to_microsecond()
            }
        }
    }
}

/// What is known about a user from the events so far.
#[derive(Clone, Copy, Default)]
struct User {
    /// The highest version sent; 0 before the first.
    sequence: i64,
    /// Between `user.created` and `user.deleted`.
    exists: bool,
}

/// Recent events to choose from for a retry, and recent users for a late event.
const MEMORY: usize = 512;

/// Share of events with a `traceparent`.
const TRACED: f64 = 0.01;

/// An endless stream of records as a [`Recipe`] asks for.
pub struct Generator {
    recipe: Recipe,
    clock: Clock,
    rng: Xoshiro256PlusPlus,
    ranks: Zipf<f64>,
    users: Vec<User>,
    /// The version before everyone's first: the milliseconds since 1970 at the start.
    base_sequence: i64,
    flaws: &'static [Flaw],
    prose: String,
    /// Events that may come once more.
    retries: Vec<Generated>,
    /// Users with a version, by index.
    versioned: Vec<usize>,
}

impl Generator {
    /// Prepares a stream.
    ///
    /// # Errors
    /// A recipe that contradicts itself.
    pub fn new(recipe: Recipe, mut clock: Clock) -> anyhow::Result<Self> {
        recipe.validate()?;
        let ranks = Zipf::new(f64::from(recipe.users), recipe.zipf)
            .context("--users and --zipf make no distribution")?;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(recipe.seed);
        let flaws = match recipe.oversized {
            0 => &Flaw::ALL[..Flaw::ALL.len() - 1],
            _ => &Flaw::ALL[..],
        };
        Ok(Self {
            prose: data::prose(&mut rng),
            users: vec![User::default(); usize::try_from(recipe.users)?],
            // Above whatever an earlier run has sent for the same users.
            base_sequence: clock.tick().unix_timestamp() * 1_000,
            retries: Vec::with_capacity(if recipe.duplicates > 0.0 { MEMORY } else { 0 }),
            versioned: Vec::with_capacity(MEMORY),
            ranks,
            rng,
            flaws,
            clock,
            recipe,
        })
    }

    fn record(&mut self) -> Generated {
        let Recipe { malformed, tombstones, duplicates, out_of_order, .. } = self.recipe;
        let mut roll: f64 = self.rng.random();
        let mut falls_on = |share: f64| {
            roll -= share;
            roll < 0.0
        };
        if falls_on(malformed) {
            return self.malformed();
        }
        if falls_on(tombstones) {
            return self.tombstone();
        }
        if falls_on(duplicates) && !self.retries.is_empty() {
            let again = self.rng.random_range(..self.retries.len());
            return Generated { expected: Expectation::Duplicate, ..self.retries[again].clone() };
        }
        let event = if falls_on(out_of_order) && !self.versioned.is_empty() {
            self.late()
        } else {
            self.fresh()
        };
        if duplicates > 0.0 {
            remember(&mut self.rng, &mut self.retries, &event, Generated::clone);
        }
        event
    }

    /// An event that takes effect.
    fn fresh(&mut self) -> Generated {
        let user = self.pick_user();
        let sequence = self.rng.random_bool(self.recipe.sequence).then(|| {
            let state = &mut self.users[user];
            state.sequence = state.sequence.max(self.base_sequence) + 1;
            state.sequence
        });
        if sequence.is_some() && self.recipe.out_of_order > 0.0 {
            remember(&mut self.rng, &mut self.versioned, &user, usize::clone);
        }
        let kind = self.kind(user);
        match kind {
            "user.created" => self.users[user].exists = true,
            "user.deleted" => self.users[user].exists = false,
            _ => {}
        }
        self.event(user, kind, sequence, Expectation::Fresh)
    }

    /// An event overtaken by another of the same user.
    fn late(&mut self) -> Generated {
        let user = self.versioned[self.rng.random_range(..self.versioned.len())];
        let sequence = self.users[user].sequence - self.rng.random_range(0..=3);
        let kind = self.kind(user);
        self.event(user, kind, Some(sequence), Expectation::OutOfOrder)
    }

    fn event(
        &mut self,
        user: usize,
        kind: &'static str,
        sequence: Option<i64>,
        expected: Expectation,
    ) -> Generated {
        let binary = self.rng.random_bool(self.recipe.binary);
        let (id, draft) = self.draft(user, kind, sequence, binary);
        self.write(user, draft, binary, Some(id), expected)
    }

    fn malformed(&mut self) -> Generated {
        let flaw = self.flaws[self.rng.random_range(..self.flaws.len())];
        let user = self.pick_user();
        let kind = self.kind(user);
        let binary = self.rng.random_bool(self.recipe.binary);
        let (_, mut draft) = self.draft(user, kind, None, binary);
        flaw.spoil(&mut draft, self.recipe.oversized);
        let expected = Expectation::Malformed(flaw.reason());
        let mut record = self.write(user, draft, binary, None, expected);
        if let Some(value) = &mut record.value {
            flaw.spoil_bytes(value);
        }
        record
    }

    fn tombstone(&mut self) -> Generated {
        Generated {
            key: user_id(self.pick_user()).into_bytes(),
            value: None,
            headers: Vec::new(),
            event_id: None,
            expected: Expectation::Tombstone,
        }
    }

    fn draft(
        &mut self,
        user: usize,
        kind: &'static str,
        sequence: Option<i64>,
        binary: bool,
    ) -> (Uuid, Draft) {
        let time = self.clock.tick();
        let id = self.id(time);
        let mut draft = Draft {
            specversion: "1.0".into(),
            id: Some(id.to_string().into()),
            source: Some(data::source(kind).into()),
            kind: Some(kind.into()),
            subject: Some(user_id(user).into()),
            time: time.format(&Rfc3339).ok().map(Into::into),
            sequence: sequence.map(|sequence| sequence.to_string().into()),
            data: data::of(kind, user, &mut self.rng),
        };
        // What the other members of a structured value take.
        let envelope = if binary { 0 } else { 250 };
        self.pad(&mut draft.data, self.recipe.size.saturating_sub(envelope));
        (id, draft)
    }

    fn write(
        &mut self,
        user: usize,
        draft: Draft,
        binary: bool,
        event_id: Option<Uuid>,
        expected: Expectation,
    ) -> Generated {
        let (mut headers, value) = if binary {
            draft.binary()
        } else {
            // The worker takes structured events with and without it.
            let said = self.rng.random_bool(0.5);
            let headers = said.then(|| header("content-type", "application/cloudevents+json"));
            (headers.into_iter().collect(), draft.structured())
        };
        if self.rng.random_bool(TRACED) {
            let (trace, span): (u128, u64) = (self.rng.random(), self.rng.random());
            // Neither may be all zeros.
            let traceparent = format!("00-{:032x}-{:016x}-01", trace | 1, span | 1);
            headers.push(header("traceparent", &traceparent));
        }
        let key = user_id(user).into_bytes();
        Generated { key, value: Some(value), headers, event_id, expected }
    }

    fn pick_user(&mut self) -> usize {
        // Ranks are whole numbers from 1 to the number of users.
        let rank = self.rng.sample(self.ranks) as usize;
        rank.clamp(1, self.users.len()) - 1
    }

    /// What happens next to a user. Now and then a profile is updated that does not exist: such
    /// events arrive too.
    fn kind(&mut self, user: usize) -> &'static str {
        if !self.rng.random_bool(self.recipe.profile) {
            return data::activity(&mut self.rng);
        }
        match (self.users[user].exists, self.rng.random_ratio(1, 20)) {
            (true, false) | (false, true) => "user.updated",
            (true, true) => "user.deleted",
            (false, false) => "user.created",
        }
    }

    fn id(&mut self, time: OffsetDateTime) -> Uuid {
        match self.recipe.uuid {
            UuidVersion::V7 => {
                let millis = time.unix_timestamp_nanos() / 1_000_000;
                let millis = u64::try_from(millis).unwrap_or_default();
                Builder::from_unix_timestamp_millis(millis, &self.rng.random()).into_uuid()
            }
            UuidVersion::V4 => Builder::from_random_bytes(self.rng.random()).into_uuid(),
        }
    }

    /// Fills an object up to about `size` bytes with prose, which compresses as prose does.
    fn pad(&mut self, object: &mut String, size: usize) {
        const MEMBER: &str = r#","note":"#;
        let mut missing = size.saturating_sub(object.len() + MEMBER.len() + 2);
        if missing == 0 {
            return;
        }
        object.pop();
        object.push_str(MEMBER);
        object.push('"');
        while missing > 0 {
            let start = self.rng.random_range(..self.prose.len());
            let piece = &self.prose[start..];
            let piece = &piece[..piece.len().min(missing)];
            object.push_str(piece);
            missing -= piece.len();
        }
        object.push_str("\"}");
    }
}

impl Iterator for Generator {
    type Item = Generated;

    fn next(&mut self) -> Option<Generated> {
        Some(self.record())
    }
}

/// The id of a user by index.
fn user_id(user: usize) -> String {
    format!("user-{user}")
}

/// Keeps a sample of what went by: the recent more likely, some for long.
fn remember<T>(
    rng: &mut Xoshiro256PlusPlus,
    memory: &mut Vec<T>,
    item: &T,
    copy: impl Fn(&T) -> T,
) {
    if memory.len() < MEMORY {
        memory.push(copy(item));
    } else if rng.random_ratio(1, 8) {
        memory[rng.random_range(..MEMORY)] = copy(item);
    }
}
