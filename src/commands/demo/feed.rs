//! The demo's producer: waits for the worker rather than outrun it, and remembers what it sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::backlog::Backlog;
use crate::commands::produce::{Clock, Generated, Generator, Pace, Rate, Recipe, Sender, Tally};

/// How long to wait before looking again whether the worker has caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long the embedded broker may take to acknowledge the last records.
const SETTLE: Duration = Duration::from_secs(30);

/// What was sent: all that is known about it without asking the worker.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Records by what must become of them.
    pub tally: Tally,
    /// The id of every event but the duplicates.
    pub ids: Vec<Uuid>,
}

impl Sent {
    fn add(&mut self, record: &Generated) {
        use crate::commands::produce::Expectation::{Fresh, OutOfOrder};
        self.tally.add(record.expected);
        if matches!(record.expected, Fresh | OutOfOrder) {
            self.ids.extend(record.event_id);
        }
    }
}

/// A producer that keeps an account. It blocks: use it on a thread of its own.
pub struct Feed {
    generator: Generator,
    sender: Sender,
    backlog: Arc<Backlog>,
    stop: Arc<AtomicBool>,
    sent: Sent,
}

impl Feed {
    /// Connects to the broker. `stop` ends it early.
    ///
    /// # Errors
    /// Brokers out of reach, or a recipe that contradicts itself.
    pub fn connect(
        bootstrap_servers: &str,
        topic: &str,
        recipe: Recipe,
        backlog: Arc<Backlog>,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let properties = BTreeMap::from(
            [
                ("bootstrap.servers", bootstrap_servers),
                ("compression.codec", "lz4"),
                ("linger.ms", "5"),
                // What is on its way counts against the broker's memory like what waits there.
                ("queue.buffering.max.kbytes", "1024"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let observed = backlog.clone();
        let observer = Box::new(move |record| observed.delivered(record));
        Ok(Self {
            generator: Generator::new(recipe, Clock::System)?,
            sender: Sender::observed(&properties, topic, observer)?,
            backlog,
            stop,
            sent: Sent::default(),
        })
    }

    /// Sends `count` more records, at most `rate` per second (0: as fast as the worker can take
    /// them), and waits until all are acknowledged. `each` sees every record just sent.
    ///
    /// # Errors
    /// A record could not be delivered.
    pub fn send(
        &mut self,
        count: u64,
        rate: u64,
        mut each: impl FnMut(&Generated),
    ) -> anyhow::Result<()> {
        let mut rate = Rate::per_second(rate);
        let (backlog, stop, sent) = (&self.backlog, &self.stop, &mut self.sent);
        self.sender.pump(
            self.generator.by_ref().take(usize::try_from(count)?),
            |_| {
                if stop.load(Ordering::Relaxed) {
                    Pace::Stop
                } else if backlog.is_full() {
                    Pace::Wait(LOOK_AGAIN)
                } else {
                    rate.pass()
                }
            },
            |record| {
                sent.add(record);
                each(record);
            },
        )?;
        self.sender.settle(SETTLE)
    }

    /// The account.
    pub fn sent(&self) -> &Sent {
        &self.sent
    }
}
