//! Steering the assignment: claims, fences, halts, and what is due.

use std::time::{Duration, Instant};

use rdkafka::Offset as KafkaOffset;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use tracing::{error, info, warn};

use crate::apply::{AfterFence, Claim};
use crate::batch::{Control, Delivery, Generation, Poisoned};
use crate::config::StartFrom;
use crate::consume::assignment::{Partition, Phase, Recheck};
use crate::consume::begin::Pending;
use crate::consume::context::Rebalance;
use crate::consume::log_ends::{Answer, Question};
use crate::consume::poll::PollLoop;
use crate::consume::start::{self, Halt};
use crate::observe::board::{Health, PartitionState};
use crate::observe::metrics;
use crate::types::{Offset, TopicPartition};

/// How long to wait before asking a broker again that did not answer.
const ASK_AGAIN: Duration = Duration::from_millis(500);

impl PollLoop {
    pub(super) fn on_rebalance(&mut self, rebalance: Rebalance) {
        match rebalance {
            Rebalance::Assigned(partitions) => self.on_assigned(partitions),
            Rebalance::Revoked { partitions, lost } => self.on_revoked(&partitions, lost),
        }
    }

    fn on_assigned(&mut self, partitions: Vec<TopicPartition>) {
        // librdkafka does not begin another rebalance before this one is answered.
        self.serve_pending(true);
        self.metrics.rebalance(metrics::Rebalance::Assigned);
        info!(partitions = partitions.len(), "partitions assigned");
        for source in &partitions {
            let partition = Partition {
                source: source.clone(),
                generation: Generation::default(),
                lane: self.assignment.least_loaded(self.lanes.len()),
                phase: Phase::Claiming,
                epoch: None,
                assigned: false,
                next: Offset(0),
                consumed: self.metrics.records_consumed(source),
            };
            self.assignment.insert(partition);
            self.board.assigned(source);
            self.claim(source);
        }
        // After the claims are noted: nobody may take us for ready in between.
        self.board.joined();
        self.pending = Some(Pending { partitions, since: Instant::now() });
    }

    pub(super) fn on_revoked(&mut self, partitions: &[TopicPartition], lost: bool) {
        if lost {
            self.metrics.rebalance(metrics::Rebalance::Lost);
            warn!(partitions = partitions.len(), "partitions lost: the group went on without us");
        } else {
            self.metrics.rebalance(metrics::Rebalance::Revoked);
            info!(partitions = partitions.len(), "partitions revoked");
        }
        for source in partitions {
            if let Some(partition) = self.assignment.remove(source) {
                self.lanes[partition.lane].handle.control(Control::Revoke(vec![source.clone()]));
            }
            self.mirror.remove(source);
            self.board.revoked(source);
        }
        if let Some(pending) = &mut self.pending {
            pending.partitions.retain(|source| !partitions.contains(source));
        }
    }

    /// Asks the partition's lane to claim it, under a new generation; not when about to leave.
    fn claim(&mut self, source: &TopicPartition) {
        if self.draining {
            return;
        }
        let generation = self.assignment.next_generation();
        let Some(partition) = self.assignment.get_mut(source) else { return };
        partition.generation = generation;
        partition.phase = Phase::Claiming;
        let wanted = vec![(source.clone(), generation)];
        self.lanes[partition.lane].handle.control(Control::Claim(wanted));
        self.board.state(source, PartitionState::Claiming);
        if partition.assigned {
            self.pause(std::slice::from_ref(source));
        }
    }

    pub(super) fn on_claimed(&mut self, generation: Generation, claim: Claim) {
        let source = claim.source.clone();
        if !self.is_current(&source, generation) {
            return;
        }
        self.board.claimed(&source, claim.epoch, claim.next);
        if let Some(next) = claim.next {
            self.mirror.insert(source.clone(), next);
            self.mirror_due = true;
        }
        // Only now: ends asked for before the claim could be older than the offset it brought.
        if let Some(partition) = self.assignment.get_mut(&source) {
            partition.epoch = Some(claim.epoch);
            partition.phase = Phase::Locating { claim, ask_again: None };
        }
        self.ask_log_ends(&source, generation);
    }

    fn ask_log_ends(&self, source: &TopicPartition, generation: Generation) {
        let committed = self.options.start_from == StartFrom::Committed;
        self.log_ends.ask(Question { source: source.clone(), generation, committed });
    }

    /// Whether the partition is still at this generation.
    fn is_current(&self, source: &TopicPartition, generation: Generation) -> bool {
        self.assignment.get(source).is_some_and(|partition| partition.generation == generation)
    }

    pub(super) fn on_log_ends(&mut self, answer: Answer) {
        let Answer { source, generation, ends } = answer;
        let start_from = self.options.start_from;
        let Some(partition) = self.assignment.get_mut(&source) else { return };
        if partition.generation != generation {
            return;
        }
        let halted = match (&mut partition.phase, ends) {
            (
                Phase::Locating { ask_again, .. }
                | Phase::Reading { recheck: Some(Recheck { ask_again, .. }), .. },
                None,
            ) => {
                *ask_again = Some(Instant::now() + ASK_AGAIN);
                None
            }
            (Phase::Locating { claim, .. }, Some(ends)) => {
                match start::decide(claim, ends, start_from) {
                    Ok(start) => {
                        let first_ever = claim.next.is_none();
                        partition.phase = Phase::Ready { start, first_ever };
                        None
                    }
                    Err(halt) => Some(halt),
                }
            }
            // It has been read since, so it is another one whose fetching stopped.
            (Phase::Reading { recheck, .. }, Some(_))
                if recheck.as_ref().is_some_and(|recheck| partition.next > recheck.at) =>
            {
                *recheck = None;
                None
            }
            (Phase::Reading { recheck: Some(Recheck { at, .. }), .. }, Some(ends)) => {
                match start::within(*at, ends) {
                    // Fetching stopped somewhere; if here, then because the log was cut short
                    // below us, and has grown past us since. A claim compares the last record
                    // applied, and begins anew.
                    Ok(()) => return self.claim(&source),
                    Err(halt) => Some(halt),
                }
            }
            _ => None,
        };
        if let Some(halt) = halted {
            self.halt(&source, halt);
        }
    }

    /// Looks after every partition: begins late ones, asks again, advances over gaps at the end,
    /// claims again what is surely ours.
    pub(super) fn steer(&mut self) {
        if self.draining {
            return;
        }
        let now = Instant::now();
        let mut begin = Vec::new();
        let mut ask = Vec::new();
        let mut claim = Vec::new();
        for partition in self.assignment.iter_mut() {
            let source = partition.source.clone();
            match &mut partition.phase {
                Phase::Ready { start, first_ever } if partition.assigned => {
                    begin.push((source, *start, *first_ever));
                }
                Phase::Locating { ask_again, .. }
                | Phase::Reading { recheck: Some(Recheck { ask_again, .. }), .. }
                    if ask_again.is_some_and(|at| at <= now) =>
                {
                    *ask_again = None;
                    ask.push((source, partition.generation));
                }
                Phase::Fenced { since } => {
                    let undisturbed = now - (*since).max(self.last_error);
                    if partition.assigned && undisturbed >= self.options.session_timeout {
                        claim.push(source);
                    }
                }
                _ => {}
            }
        }
        for (source, start, first_ever) in begin {
            self.begin_late(&source, start, first_ever);
        }
        for (source, generation) in ask {
            self.ask_log_ends(&source, generation);
        }
        if !claim.is_empty() && !self.consumer.assignment_lost() {
            for source in claim {
                info!(partition = %source, "still assigned after a whole session: claiming again");
                self.claim(&source);
            }
        }
        self.advance_to_positions();
    }

    /// At the end of a log, markers and aborted records leave a gap that no record fills: the
    /// consumer's position has passed it, so the offset may, too.
    fn advance_to_positions(&mut self) {
        let Ok(positions) = self.consumer.position() else { return };
        for element in positions.elements() {
            let KafkaOffset::Offset(position) = element.offset() else { continue };
            let found = self.assignment.find(element.topic(), element.partition());
            let Some(partition) = found else { continue };
            let position = Offset(position);
            let reading = matches!(partition.phase, Phase::Reading { recheck: None, .. });
            if reading && position > partition.next {
                partition.next = position;
                let source = partition.source.clone();
                let advance = Delivery::Advance(partition.generation, source, position);
                self.lanes[partition.lane].deliver(advance);
            }
        }
    }

    pub(super) fn on_fenced(
        &mut self,
        generation: Generation,
        source: &TopicPartition,
        after: AfterFence,
    ) {
        if !self.is_current(source, generation) {
            return;
        }
        self.mirror.remove(source);
        match after {
            AfterFence::ClaimAgain => self.claim(source),
            AfterFence::WaitForKafka => {
                if let Some(partition) = self.assignment.get_mut(source) {
                    partition.phase = Phase::Fenced { since: Instant::now() };
                }
                self.board.state(source, PartitionState::Fenced);
                self.pause(std::slice::from_ref(source));
            }
        }
    }

    /// A lane will write no more of a partition: too many dead letters.
    pub(super) fn on_poisoned(
        &mut self,
        generation: Generation,
        source: &TopicPartition,
        poisoned: Poisoned,
    ) {
        if self.is_current(source, generation) {
            self.halt(source, Halt::Poisoned(poisoned));
        }
    }

    /// Stops a partition loudly; the others go on.
    pub(super) fn halt(&mut self, source: &TopicPartition, halt: Halt) {
        error!(partition = %source, reason = %halt, "partition halted");
        if let Some(partition) = self.assignment.get_mut(source) {
            partition.phase = Phase::Halted;
        }
        self.board.state(source, PartitionState::Halted);
        self.board.error(source, halt.to_string());
        if self.assignment.get(source).is_some_and(|p| p.assigned) {
            self.pause(std::slice::from_ref(source));
        }
    }

    /// Something is odd about a log: claim it again, which compares the last record applied.
    pub(super) fn verify(&mut self, source: &TopicPartition) {
        let phase = self.assignment.get(source).map(|partition| &partition.phase);
        if matches!(phase, Some(Phase::Reading { .. })) && !self.draining {
            warn!(partition = %source, "the log shrank or went missing: verifying that it is the same");
            self.claim(source);
        }
    }

    /// librdkafka passes over what fails its checksum, and does not say where: claim everything
    /// again, which reads from where Postgres stands. While the log stays broken, so do we.
    pub(super) fn read_again(&mut self, error: &KafkaError) {
        self.board.kafka(Health::down(error.to_string()));
        if let Some(suppressed) = self.log.pass("corrupt") {
            error!(%error, suppressed, "kafka sent corrupt records: reading them again");
        }
        for source in self.assignment.which(|p| matches!(p.phase, Phase::Reading { .. })) {
            self.claim(&source);
        }
    }

    /// librdkafka stopped fetching a partition whose offset is outside the log, or whose log was cut
    /// short below it, and does not say which one: ask about all.
    pub(super) fn recheck(&mut self) {
        let mut ask = Vec::new();
        for partition in self.assignment.iter_mut() {
            if let Phase::Reading { recheck, .. } = &mut partition.phase {
                *recheck = Some(Recheck { at: partition.next, ask_again: None });
                ask.push((partition.source.clone(), partition.generation));
            }
        }
        for (source, generation) in ask {
            self.ask_log_ends(&source, generation);
        }
    }
}
