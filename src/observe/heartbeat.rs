//! Signs of life of the working loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A loop that has ended in good order.
const FINISHED: u64 = u64::MAX;

/// What the board keeps of a loop: its name and when it last turned.
pub(super) struct Pulse {
    name: String,
    zero: Instant,
    /// Milliseconds after `zero`.
    last: AtomicU64,
}

impl Pulse {
    pub(super) fn new(name: String, zero: Instant) -> Self {
        let pulse = Self { name, zero, last: AtomicU64::new(0) };
        pulse.beat();
        pulse
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_finished(&self) -> bool {
        self.last.load(Ordering::Relaxed) == FINISHED
    }

    /// Time since the last beat.
    pub(super) fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.zero.elapsed().saturating_sub(last)
    }

    fn beat(&self) {
        // Milliseconds of u64 outlast the machine.
        self.last.store(self.zero.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// A loop's sign of life. Dropping it is no good order: a loop that dies by a panic or an early
/// return goes silent and fails `/livez`, which is the point.
pub struct Heartbeat(Arc<Pulse>);

impl Heartbeat {
    pub(super) fn new(pulse: Arc<Pulse>) -> Self {
        Self(pulse)
    }

    /// The loop has turned. One clock reading and one store.
    pub fn beat(&self) {
        self.0.beat();
    }

    /// The loop has ended as it should, and will not be missed.
    pub fn finish(self) {
        self.0.last.store(FINISHED, Ordering::Relaxed);
    }
}
