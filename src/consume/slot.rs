//! A lane as the polling thread sees it, and what waits before its full queue.

use std::collections::VecDeque;
use std::time::Instant;

use crate::batch::{Delivery, LaneHandle};
use crate::consume::record::RecordMemory;

/// See the module.
pub(super) struct LaneSlot {
    pub(super) handle: LaneHandle,
    pub(super) memory: RecordMemory,
    /// What its queue had no room for. More than one only if librdkafka hands out records of a
    /// partition just paused.
    pub(super) held: VecDeque<Delivery>,
    pub(super) held_since: Option<Instant>,
    pub(super) paused: bool,
    pub(super) drained: bool,
}

impl LaneSlot {
    pub(super) fn new(handle: LaneHandle) -> Self {
        Self {
            handle,
            memory: RecordMemory::new(),
            held: VecDeque::new(),
            held_since: None,
            paused: false,
            drained: false,
        }
    }

    /// Hands over a delivery, behind what is held already.
    pub(super) fn deliver(&mut self, delivery: Delivery) {
        if !self.offer() {
            self.held.push_back(delivery);
        } else if let Err(back) = self.handle.deliver(delivery) {
            self.held.push_back(back);
            self.held_since = Some(Instant::now());
        }
    }

    /// Offers what is held; true when nothing is left.
    pub(super) fn offer(&mut self) -> bool {
        while let Some(delivery) = self.held.pop_front() {
            if let Err(back) = self.handle.deliver(delivery) {
                self.held.push_front(back);
                self.held_since.get_or_insert_with(Instant::now);
                return false;
            }
        }
        self.held_since = None;
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;
    use crate::batch::{Generation, LaneInbox, connect};
    use crate::types::{Offset, TopicPartition};

    fn deliver(slot: &mut LaneSlot, offset: i64) {
        let source = TopicPartition::new("t", 0);
        slot.deliver(Delivery::Advance(Generation(1), source, Offset(offset)));
    }

    fn taken(inbox: &mut LaneInbox) -> Option<i64> {
        match inbox.take()? {
            Delivery::Advance(_, _, offset) => Some(offset.0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_full_queue_had_no_room_for_goes_before_what_comes_later() {
        let (handle, mut inbox) = connect(2, 1 << 20);
        let mut slot = LaneSlot::new(handle);
        (1..=4).for_each(|offset| deliver(&mut slot, offset));
        assert!(slot.held_since.is_some() && !slot.offer(), "two are held");
        // There is room for one, and two came before it.
        assert_eq!(taken(&mut inbox), Some(1));
        deliver(&mut slot, 5);
        assert_eq!((taken(&mut inbox), taken(&mut inbox)), (Some(2), Some(3)));
        deliver(&mut slot, 6);
        assert_eq!((taken(&mut inbox), taken(&mut inbox)), (Some(4), Some(5)));
        deliver(&mut slot, 7);
        assert!(slot.held_since.is_none() && slot.offer(), "nothing is left");
        assert_eq!((taken(&mut inbox), taken(&mut inbox)), (Some(6), Some(7)));
    }
}
