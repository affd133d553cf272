//! Lanes: each gathers records of its own partitions into batches and has one batch in flight.
//!
//! A lane is a tokio task with a Postgres connection of its own. While a batch is written the next
//! one gathers, so light load gives small, quick batches and a backlog full ones. The poll thread
//! talks to a lane by [`Control`] and [`Delivery`]; the lane answers by [`Notice`].

mod breaker;
mod gather;
mod lane;
mod outcome;
mod retry;
mod screen;
#[cfg(test)]
mod simulation;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::apply::{AfterFence, Claim};
use crate::event::RawRecord;
use crate::types::{Offset, TopicPartition};

pub use breaker::{BreakerLimits, Poisoned, Trip};
pub use gather::Limits;
pub use lane::{Lane, LaneOptions};
pub use retry::{Retry, RetryOptions};

/// Counts the times a partition was assigned or claimed anew: what was sent under an earlier
/// generation is void.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// Poll thread to lane: which partitions are the lane's.
#[derive(Debug)]
pub enum Control {
    /// Claim these partitions in Postgres and answer with [`Notice::Claimed`].
    Claim(Vec<(TopicPartition, Generation)>),
    /// These are no longer ours: drop what was gathered of them.
    Revoke(Vec<TopicPartition>),
    /// Write what is gathered, then answer [`Notice::Drained`] and end.
    Drain,
}

/// Poll thread to lane: what was read.
#[derive(Debug)]
pub enum Delivery {
    /// A record.
    Record(Generation, RawRecord),
    /// Reading has passed to this offset without a record: transaction markers, or the very
    /// start. Sent after every record before it.
    Advance(Generation, TopicPartition, Offset),
}

impl Delivery {
    /// Bytes held, roughly.
    fn size(&self) -> usize {
        match self {
            Delivery::Record(_, record) => record.held() + 128,
            Delivery::Advance(..) => 128,
        }
    }
}

/// Lane to poll thread.
#[derive(Debug)]
pub enum Notice {
    /// A partition was claimed: read from where the claim says.
    Claimed(Generation, Claim),
    /// A partition is fenced: nothing of it will be written under this generation.
    Fenced(Generation, TopicPartition, AfterFence),
    /// A partition's breaker tripped: nothing more of it will be written under this generation.
    Poisoned(Generation, TopicPartition, Poisoned),
    /// These offsets are in Postgres now: mirror them to Kafka.
    Committed(Vec<(TopicPartition, Offset)>),
    /// The lane has ended after [`Control::Drain`].
    Drained {
        /// Which lane.
        lane: usize,
    },
}

/// The poll thread's end of a lane.
pub struct LaneHandle {
    control: mpsc::UnboundedSender<Control>,
    deliveries: mpsc::Sender<Delivery>,
    queued: Arc<Queued>,
}

/// The lane's end.
pub struct LaneInbox {
    control: mpsc::UnboundedReceiver<Control>,
    deliveries: mpsc::Receiver<Delivery>,
    queued: Arc<Queued>,
}

#[cfg(test)]
impl LaneInbox {
    /// What is next in the queue, as a lane takes it.
    pub(crate) fn take(&mut self) -> Option<Delivery> {
        let taken = self.deliveries.try_recv().ok()?;
        self.queued.took(&taken);
        Some(taken)
    }
}

/// Bytes on the way from the poll thread to a lane.
struct Queued {
    bytes: AtomicUsize,
    max_bytes: usize,
}

impl Queued {
    fn took(&self, delivery: &Delivery) {
        self.bytes.fetch_sub(delivery.size(), Ordering::Relaxed);
    }
}

/// Connects a lane to the poll thread by a queue bounded in records and bytes. (Control messages
/// are a few per rebalance; their queue needs no bound.)
pub fn connect(max_records: usize, max_bytes: usize) -> (LaneHandle, LaneInbox) {
    let (control_tx, control) = mpsc::unbounded_channel();
    let (deliveries_tx, deliveries) = mpsc::channel(max_records);
    let queued = Arc::new(Queued { bytes: AtomicUsize::new(0), max_bytes });
    (
        LaneHandle { control: control_tx, deliveries: deliveries_tx, queued: queued.clone() },
        LaneInbox { control, deliveries, queued },
    )
}

impl LaneHandle {
    /// Sends a control message; false when the lane is gone.
    pub fn control(&self, message: Control) -> bool {
        self.control.send(message).is_ok()
    }

    /// Sends what was read, or gives it back when the lane's queue is full.
    ///
    /// # Errors
    /// The delivery itself, to be offered again.
    #[expect(clippy::result_large_err, reason = "what comes back is what was given")]
    pub fn deliver(&self, delivery: Delivery) -> Result<(), Delivery> {
        let size = delivery.size();
        let before = self.queued.bytes.load(Ordering::Relaxed);
        // One record always fits, however large: it could not pass otherwise.
        if before > 0 && before + size > self.queued.max_bytes {
            return Err(delivery);
        }
        self.queued.bytes.fetch_add(size, Ordering::Relaxed);
        self.deliveries.try_send(delivery).map_err(|error| {
            self.queued.bytes.fetch_sub(size, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(d) | mpsc::error::TrySendError::Closed(d) => d,
            }
        })
    }

    /// Records and bytes in the queue, roughly.
    pub fn queued(&self) -> (usize, usize) {
        let records = self.deliveries.max_capacity() - self.deliveries.capacity();
        (records, self.queued.bytes.load(Ordering::Relaxed))
    }

    /// True when at least half of the queue is free: time to resume what was paused.
    pub fn has_room(&self) -> bool {
        self.deliveries.capacity() * 2 >= self.deliveries.max_capacity()
            && self.queued.bytes.load(Ordering::Relaxed) * 2 <= self.queued.max_bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;
    use crate::types::RecordOffset;

    fn record(bytes: usize) -> Delivery {
        let record = RawRecord {
            source: TopicPartition::new("t", 0),
            offset: RecordOffset(0),
            timestamp_ms: None,
            key: None,
            value: Some(vec![0; bytes].into()),
            headers: vec![],
        };
        Delivery::Record(Generation(1), record)
    }

    #[test]
    fn a_lanes_queue_is_bounded_in_records_and_bytes_but_takes_any_single_record() {
        let (handle, mut inbox) = connect(3, 10_000);
        assert!(handle.deliver(record(50_000)).is_ok(), "one record always fits");
        assert!(handle.deliver(record(1)).is_err(), "no byte is left");
        assert!(!handle.has_room());
        inbox.take().expect("one is queued");
        assert!(handle.has_room());
        for _ in 0..3 {
            assert!(handle.deliver(record(1)).is_ok());
        }
        assert!(handle.deliver(record(1)).is_err(), "three records are the limit");
    }
}
