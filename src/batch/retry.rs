//! When to try again: the crate's one retry policy.
//!
//! Exponential backoff with jitter by the `backoff` crate (unmaintained, RUSTSEC-2025-0012; it is
//! small, does what it says, and stands behind this module so that replacing it is one edit).

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// The policy's two ends.
#[derive(Clone, Copy, Debug)]
pub struct RetryOptions {
    /// First wait.
    pub initial: Duration,
    /// Longest wait.
    pub max: Duration,
}

/// A run of failures, and how long to wait after the next.
pub struct Retry {
    policy: ExponentialBackoff,
    failures: u32,
}

impl Retry {
    /// No failure so far.
    pub fn new(options: RetryOptions) -> Self {
        let policy = ExponentialBackoff {
            current_interval: options.initial,
            initial_interval: options.initial,
            max_interval: options.max,
            // An outage may last for days: there is no number of tries after which to give up.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { policy, failures: 0 }
    }

    /// How long to wait after one more failure of a database that is away.
    pub fn after_outage(&mut self) -> Duration {
        self.failures += 1;
        self.policy.next_backoff().unwrap_or(self.policy.max_interval)
    }

    /// How long to wait when a human must mend something: at least two seconds.
    pub fn after_misconfiguration(&mut self) -> Duration {
        self.after_outage().max(Duration::from_secs(2)).min(self.policy.max_interval * 2)
    }

    /// A short, jittered wait after losing against a concurrent transaction.
    pub fn after_conflict(&mut self) -> Duration {
        self.failures += 1;
        Duration::from_millis(rand::random_range(5..=50))
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It worked.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.policy.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_and_start_over_after_a_success() {
        let options =
            RetryOptions { initial: Duration::from_millis(100), max: Duration::from_secs(2) };
        let mut retry = Retry::new(options);
        let first = retry.after_outage();
        assert!(first <= Duration::from_millis(150), "{first:?}");
        let last = (0..30).map(|_| retry.after_outage()).last().unwrap_or_default();
        assert!(last >= Duration::from_secs(1) && last <= Duration::from_secs(3), "{last:?}");
        assert_eq!(retry.failures(), 31);
        retry.succeeded();
        assert!(retry.after_outage() <= Duration::from_millis(150));
    }
}
