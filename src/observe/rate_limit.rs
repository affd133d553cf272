//! Log lines that cannot become a flood.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// More keys than this are never remembered.
const MAX_KEYS: usize = 1_024;

/// Lets one log line through per interval and key, and tells how many it held back since.
///
/// ```
/// # use std::time::Duration;
/// # use user_events_worker::observe::rate_limit::LogGate;
/// let gate = LogGate::new(Duration::from_secs(10));
/// if let Some(suppressed) = gate.pass("postgres_away") {
///     tracing::warn!(suppressed, "Postgres is away");
/// }
/// ```
#[derive(Debug)]
pub struct LogGate {
    interval: Duration,
    keys: Mutex<HashMap<String, Passed>>,
}

#[derive(Debug)]
struct Passed {
    at: Instant,
    suppressed: u64,
}

impl LogGate {
    /// A gate that opens once per `interval` for each key.
    pub fn new(interval: Duration) -> Self {
        Self { interval, keys: Mutex::new(HashMap::new()) }
    }

    /// Whether a line may be logged now; then how many with this key were held back since the last.
    pub fn pass(&self, key: &str) -> Option<u64> {
        self.pass_at(key, Instant::now())
    }

    fn pass_at(&self, key: &str, now: Instant) -> Option<u64> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(passed) = keys.get_mut(key) {
            if now.duration_since(passed.at) < self.interval {
                passed.suppressed += 1;
                return None;
            }
            passed.at = now;
            return Some(std::mem::take(&mut passed.suppressed));
        }
        if keys.len() >= MAX_KEYS {
            keys.retain(|_, passed| now.duration_since(passed.at) < self.interval);
        }
        // Too many at once: hold back rather than forget who has passed.
        if keys.len() >= MAX_KEYS {
            return None;
        }
        keys.insert(key.to_owned(), Passed { at: now, suppressed: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_and_key() {
        let gate = LogGate::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |key, seconds| gate.pass_at(key, start + Duration::from_secs(seconds));
        assert_eq!(at("a", 0), Some(0));
        assert_eq!(at("a", 1), None);
        assert_eq!(at("b", 1), Some(0));
        assert_eq!(at("a", 9), None);
        assert_eq!(at("a", 10), Some(2));
        assert_eq!(at("a", 20), Some(0));
    }

    #[test]
    fn keys_are_bounded() {
        let gate = LogGate::new(Duration::from_secs(10));
        let start = Instant::now();
        for key in 0..MAX_KEYS {
            assert_eq!(gate.pass_at(&key.to_string(), start), Some(0));
        }
        assert_eq!(gate.pass_at("one more", start), None);
        assert_eq!(gate.pass_at("one more", start + Duration::from_secs(10)), Some(0));
    }
}
