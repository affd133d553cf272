//! What the polling thread does about a stall: tell all it knows, join the group anew, give up.

use std::time::Instant;

use tracing::{error, info, warn};

use crate::consume::client::{Client, subscribe};
use crate::consume::log_ends::LogEndsThread;
use crate::consume::poll::PollLoop;
use crate::consume::watchdog::{Act, LOOK};
use crate::observe::board::Lifecycle;
use crate::observe::http;
use crate::observe::metrics::WatchdogAction;
use crate::types::TopicPartition;

/// So many partitions are named in a message; the dump has them all.
const NAMED: usize = 10;

impl PollLoop {
    pub(super) fn watch(&mut self) {
        if self.watched_at.elapsed() < LOOK || self.draining {
            return;
        }
        self.watched_at = Instant::now();
        let progress = self.board.progress();
        let act = self.watchdog.look(self.watched_at, &progress);
        self.board.standing(&self.watchdog.standing());
        match act {
            None => {}
            Some(Act::Rebuild(standing)) => {
                self.dump(
                    &standing,
                    "records wait and nothing is applied, for no known reason: rejoining the group",
                );
                self.metrics.watchdog(WatchdogAction::Rebuild);
                if let Err(error) = self.rebuild() {
                    error!(error = format!("{error:#}"), "could not rejoin the group");
                }
            }
            Some(Act::GiveUp(standing)) => {
                self.dump(
                    &standing,
                    "rejoining the group did not help: failing /livez, to be restarted",
                );
                self.metrics.watchdog(WatchdogAction::GiveUp);
                self.board.stuck(Some(format!(
                    "{}: records wait and nothing is applied, for no known reason, and rejoining \
                     the group did not help",
                    names(&standing)
                )));
            }
            Some(Act::Recovered) => {
                info!("no longer stuck");
                self.board.stuck(None);
            }
        }
    }

    /// All that `/status` knows, and how full the lanes' queues are.
    fn dump(&self, standing: &[TopicPartition], message: &'static str) {
        let queues: Vec<_> = self.lanes.iter().map(|lane| lane.handle.queued()).collect();
        let paused: Vec<_> = self.lanes.iter().map(|lane| lane.paused).collect();
        let status = http::status_json(&self.board);
        error!(standing = names(standing), %status, ?queues, ?paused, "{message}");
    }

    /// Leaves the group with the old consumer and joins it with a new one. Everything assigned is
    /// let go, as after a revocation, and claimed again when the group hands it out.
    fn rebuild(&mut self) -> anyhow::Result<()> {
        // What can fail comes first, while there is something to go back to.
        let Client { consumer, events, .. } = Client::new(self.properties.clone())?;
        let log_ends = LogEndsThread::start(
            consumer.clone(),
            self.board.clone(),
            self.options.topics.clone(),
            self.options.lag_interval,
        )?;
        self.events = events;
        let assigned = self.assignment.which(|_| true);
        self.on_revoked(&assigned, false);
        self.pending = None;
        // Not ready until the group has spoken again.
        self.board.lifecycle(Lifecycle::Starting);
        // Closing the old one happens here, on this thread: its last user is gone with its
        // asking thread. Should it hang, /livez fails for that.
        self.log_ends = log_ends;
        self.consumer = consumer;
        self.last_error = Instant::now();
        subscribe(&self.consumer, &self.options.topics)?;
        warn!("left the group and joined it anew");
        Ok(())
    }
}

/// Which partitions stand, for a message.
fn names(standing: &[TopicPartition]) -> String {
    if standing.is_empty() {
        return "the group hands out nothing".to_owned();
    }
    let named: Vec<_> = standing.iter().take(NAMED).map(ToString::to_string).collect();
    match standing.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
