//! The board: the one place the working loops report to, and health, status and gauges read from.
//!
//! Health is therefore the loops' own progress, not a probe's opinion.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::heartbeat::{Heartbeat, Pulse};
use super::partition::Tracked;
pub use super::partition::{PartitionState, PartitionStatus, PartitionView};
use crate::types::{Epoch, Offset, TopicPartition};

/// Whether something we need answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Up,
    /// It does not.
    Down {
        /// Why, for an operator: no secrets, no personal data.
        reason: String,
    },
}

impl Health {
    /// Not up, and why.
    pub fn down(reason: impl Into<String>) -> Self {
        Self::Down { reason: reason.into() }
    }

    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }
}

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// Not yet in the group: Kafka has not said what is ours.
    Starting,
    /// At work.
    Running,
    /// Finishing what was read.
    Stopping,
}

/// Who this copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Consumer group.
    pub group: String,
    /// The name this copy claims partitions under.
    pub worker_id: String,
}

/// The board. Cheap to clone; all clones are one board.
#[derive(Clone)]
pub struct StatusBoard(Arc<Inner>);

struct Inner {
    identity: Identity,
    started: Instant,
    lifecycle: AtomicU8,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) partitions: BTreeMap<TopicPartition, Tracked>,
    /// Partitions given up behind: where they stood, and since when they were.
    given_up: BTreeMap<TopicPartition, (Offset, Instant)>,
    pub(super) lanes: Vec<Health>,
    pub(super) kafka: Health,
    pulses: Vec<Arc<Pulse>>,
    /// For the watchdog: see `Progress`.
    pub(super) troubles: u64,
    stuck: Option<String>,
}

impl StatusBoard {
    /// An empty board of a worker that has reached nothing yet. It has one lane until it knows
    /// better: see [`Self::connected`].
    pub fn new(identity: Identity) -> Self {
        let unknown = || Health::down("not connected yet");
        Self(Arc::new(Inner {
            identity,
            started: Instant::now(),
            lifecycle: AtomicU8::new(Lifecycle::Starting as u8),
            state: Mutex::new(State {
                partitions: BTreeMap::new(),
                given_up: BTreeMap::new(),
                lanes: vec![unknown()],
                kafka: unknown(),
                pulses: Vec::new(),
                troubles: 0,
                stuck: None,
            }),
        }))
    }

    /// Who this copy is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Time since the board was made.
    pub fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Kafka gave us the partition; a claim is under way. Whatever was known of it is forgotten.
    pub fn assigned(&self, source: &TopicPartition) {
        self.lock().partitions.insert(source.clone(), Tracked::new());
    }

    /// The partition is no longer ours: it vanishes, and later reports about it go unheard.
    pub fn revoked(&self, source: &TopicPartition) {
        let mut state = self.lock();
        if let Some(tracked) = state.partitions.remove(source)
            && let Some(behind) = tracked.behind()
        {
            state.given_up.insert(source.clone(), behind);
        }
    }

    /// The claim is ours; `applied` is where Postgres stands, if the partition was ever read.
    pub fn claimed(&self, source: &TopicPartition, epoch: Epoch, applied: Option<Offset>) {
        // Where it stands as when it was given up, it has been behind all the while.
        let given_up = self.lock().given_up.remove(source);
        let since = given_up.and_then(|(at, since)| (applied == Some(at)).then_some(since));
        self.update(source, |partition| {
            partition.status.epoch = Some(epoch);
            partition.status.applied = applied;
            partition.status.pending_since_ms = None;
            partition.behind_since = partition.behind_since.or(since);
        });
    }

    /// Reading begins, in this state: what went wrong before is over.
    pub fn reading(&self, source: &TopicPartition, state: PartitionState) {
        self.update(source, |partition| {
            partition.enter(state);
            partition.status.last_error = None;
        });
    }

    /// The claim was renewed where it stood.
    pub fn renewed(&self, source: &TopicPartition, epoch: Epoch) {
        self.update(source, |partition| partition.status.epoch = Some(epoch));
    }

    /// Positions moved in Postgres: the commit is known to have happened.
    pub fn applied(&self, positions: &[(TopicPartition, Offset)]) {
        for (source, next) in positions {
            self.update(source, |partition| {
                partition.status.applied = Some(*next);
                // What halted a partition stays true while its last batch is being written.
                if partition.status.state != PartitionState::Halted {
                    partition.status.last_error = None;
                }
            });
        }
    }

    /// The partition's read-committed end, freshly asked for.
    pub fn end(&self, source: &TopicPartition, end: Offset) {
        self.update(source, |partition| {
            partition.status.end = Some(end);
            partition.withheld.asked(end, Instant::now());
        });
    }

    /// The partition's read-committed end, and how far its records reach, as a fetch told.
    pub fn fetched(&self, source: &TopicPartition, end: Offset, high: Offset) {
        self.update(source, |partition| {
            // Nothing is fetched otherwise: it would be old news, or of another log.
            if partition.status.state == PartitionState::Reading {
                partition.withheld.fetched(end, high, Instant::now());
            }
        });
    }

    /// The timestamp of the oldest record received but not applied, in milliseconds since 1970;
    /// `None` when none waits.
    pub fn pending(&self, source: &TopicPartition, since_ms: Option<i64>) {
        self.update(source, |partition| partition.status.pending_since_ms = since_ms);
    }

    /// What the partition is doing now.
    pub fn state(&self, source: &TopicPartition, state: PartitionState) {
        self.update(source, |partition| partition.enter(state));
    }

    /// Something went wrong with the partition: shown until progress is made. No personal data.
    pub fn error(&self, source: &TopicPartition, message: impl Into<String>) {
        let message = message.into();
        self.update(source, |partition| {
            partition.status.last_error = Some(message);
            partition.reasons += 1;
        });
    }

    /// These wait for a batch of their lane that is tried again, whole or in parts, before them.
    pub fn wait<'a>(&self, sources: impl Iterator<Item = &'a TopicPartition>) {
        for source in sources {
            self.update(source, |partition| partition.reasons += 1);
        }
    }

    /// How long each partition has stood for no known reason, as the watchdog counts; the others
    /// do not stand.
    pub fn standing(&self, standing: &BTreeMap<TopicPartition, Duration>) {
        for (source, partition) in &mut self.lock().partitions {
            partition.status.standing = standing.get(source).copied().unwrap_or_default();
        }
    }

    /// Postgres answers, and that many lanes will work with it.
    pub fn connected(&self, lanes: usize) {
        self.lock().lanes = vec![Health::Up; lanes];
    }

    /// Whether Postgres answers on a lane's connection.
    pub fn postgres(&self, lane: usize, health: Health) {
        let mut state = self.lock();
        state.troubles += u64::from(!health.is_up());
        if let Some(slot) = state.lanes.get_mut(lane) {
            *slot = health;
        }
    }

    /// Whether Kafka answers.
    pub fn kafka(&self, health: Health) {
        let mut state = self.lock();
        state.troubles += u64::from(!health.is_up());
        state.kafka = health;
    }

    /// The health of Kafka, and of Postgres on every lane.
    pub fn health(&self) -> (Health, Vec<Health>) {
        let state = self.lock();
        (state.kafka.clone(), state.lanes.clone())
    }

    /// Enters another part of life.
    pub fn lifecycle(&self, lifecycle: Lifecycle) {
        self.0.lifecycle.store(lifecycle as u8, Ordering::Release);
    }

    /// Kafka has answered our joining the group, be it with nothing for us: no longer starting.
    pub fn joined(&self) {
        let (from, to) = (Lifecycle::Starting as u8, Lifecycle::Running as u8);
        // Refused when it is running already, or stopping: that is as it should be.
        self.0.lifecycle.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).ok();
    }

    /// The current part of life.
    pub fn current_lifecycle(&self) -> Lifecycle {
        match self.0.lifecycle.load(Ordering::Acquire) {
            0 => Lifecycle::Starting,
            1 => Lifecycle::Running,
            _ => Lifecycle::Stopping,
        }
    }

    /// All partitions of ours as they are now, in order.
    pub fn partitions(&self) -> Vec<PartitionView> {
        let now = Instant::now();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.partitions_at(now, i64::try_from(now_ms).unwrap_or(i64::MAX))
    }

    fn partitions_at(&self, now: Instant, now_ms: i64) -> Vec<PartitionView> {
        let state = self.lock();
        let view =
            |(source, partition): (&TopicPartition, &Tracked)| partition.view(source, now, now_ms);
        state.partitions.iter().map(view).collect()
    }

    /// Whether this copy does its part; else every reason why not. A halted or fenced partition
    /// does not count: a rolling deployment would not make it better, and must not wait for it.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        let mut reasons = Vec::new();
        match self.current_lifecycle() {
            Lifecycle::Running => {}
            Lifecycle::Starting => reasons.push("starting".to_owned()),
            Lifecycle::Stopping => reasons.push("stopping".to_owned()),
        }
        let state = self.lock();
        for (source, partition) in &state.partitions {
            if partition.status.state == PartitionState::Claiming {
                reasons.push(format!("{source} is not claimed yet"));
            }
        }
        for (lane, health) in state.lanes.iter().enumerate() {
            if let Health::Down { reason } = health {
                reasons.push(format!("Postgres, lane {lane}: {reason}"));
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// A pulse for a loop of that name; from now on the loop must beat.
    pub fn heartbeat(&self, name: impl Into<String>) -> Heartbeat {
        let pulse = Arc::new(Pulse::new(name.into(), self.0.started));
        self.lock().pulses.push(Arc::clone(&pulse));
        Heartbeat::new(pulse)
    }

    /// The watchdog has given up, and why; or has not.
    pub fn stuck(&self, reason: Option<String>) {
        self.lock().stuck = reason;
    }

    /// Whether every loop has turned within `stall` and the watchdog has not given up; else what is
    /// wrong.
    pub fn liveness(&self, stall: Duration) -> Result<(), Vec<String>> {
        let mut state = self.lock();
        state.pulses.retain(|pulse| !pulse.is_finished());
        let mut wrong: Vec<_> = state
            .pulses
            .iter()
            .map(|pulse| (pulse.name(), pulse.silence()))
            .filter(|(_, silence)| *silence > stall)
            .map(|(name, silence)| format!("{name} has not turned for {} s", silence.as_secs()))
            .collect();
        wrong.extend(state.stuck.clone());
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Changes a partition that is ours; a late report about one that is not goes unheard.
    fn update(&self, source: &TopicPartition, change: impl FnOnce(&mut Tracked)) {
        if let Some(partition) = self.lock().partitions.get_mut(source) {
            change(partition);
            partition.note_lag(Instant::now());
        }
    }

    /// A panic elsewhere leaves no half-made entry behind: each change is a plain assignment.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
