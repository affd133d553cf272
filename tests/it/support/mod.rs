//! What the tests share: scenes, workers, events, and patience.

pub mod checker;
mod checks;
mod event;
mod fault;
pub mod load;
pub mod locks;
pub mod pgbouncer;
mod prometheus;
pub mod proxy;
pub mod replica;
mod scene;
mod services;
mod watched;
mod worker;

use std::time::Duration;

pub use checks::ago;
pub use event::{EventBuilder, event};
pub use fault::{Fault, write_down};
pub use locks::Held;
pub use prometheus::Page;
pub use scene::Scene;
pub use services::{Service, Services};
pub use worker::{Worker, WorkerBuilder};

/// How long a test waits for something that must happen, on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` answers something, asking again and again.
///
/// # Panics
/// When `what` has not happened within [`PATIENCE`].
pub async fn eventually<T, F: AsyncFnMut() -> Option<T>>(what: &str, mut condition: F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = condition().await {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "has not happened within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A name no other test has: letters, digits and `_` only.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}_{:016x}", rand::random::<u64>())
}
