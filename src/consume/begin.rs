//! Telling librdkafka: where a partition begins, and whether it is fetched for now.

use std::time::{Duration, Instant};

use rdkafka::Offset as KafkaOffset;
use rdkafka::consumer::{Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use tracing::warn;

use crate::batch::Delivery;
use crate::consume::assignment::{Partition, Phase};
use crate::consume::poll::PollLoop;
use crate::consume::start::Start;
use crate::observe::board::PartitionState;
use crate::types::TopicPartition;

/// How long a seek may take: it is local to librdkafka.
const SEEK: Duration = Duration::from_secs(1);

/// A rebalance that librdkafka waits for us to answer with `assign`.
pub(super) struct Pending {
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) since: Instant,
}

impl PollLoop {
    /// Answers librdkafka's rebalance once it is known where every new partition begins, or when
    /// that takes too long: a database that is away must not hold up the group. What is not known
    /// yet is assigned paused, and begins later by a seek.
    pub(super) fn serve_pending(&mut self, at_once: bool) {
        let Some(pending) = &self.pending else { return };
        let undecided = |source: &TopicPartition| {
            self.assignment.get(source).is_some_and(|partition| {
                matches!(partition.phase, Phase::Claiming | Phase::Locating { .. })
            })
        };
        let patient = pending.since.elapsed() < self.options.claim_patience;
        if patient && !at_once && pending.partitions.iter().any(undecided) {
            return;
        }
        let Some(Pending { partitions, since }) = self.pending.take() else { return };
        if let Err(error) = self.assign(&partitions) {
            // Out of date already: librdkafka's next event tells. Until then, try again.
            if let Some(suppressed) = self.log.pass("assign") {
                warn!(%error, suppressed, "kafka client would not take the assignment");
            }
            self.pending = (!at_once).then_some(Pending { partitions, since });
        }
    }

    fn assign(&mut self, partitions: &[TopicPartition]) -> KafkaResult<()> {
        let list = self.fetch_list(partitions)?;
        match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_assign(&list)?,
            RebalanceProtocol::Eager | RebalanceProtocol::None => self.consumer.assign(&list)?,
        }
        let (mut waiting, mut going) = (Vec::new(), Vec::new());
        for source in partitions {
            let Some(partition) = self.assignment.get_mut(source) else { continue };
            partition.assigned = true;
            let lane_paused = self.lanes[partition.lane].paused;
            if let Phase::Ready { start, first_ever } = partition.phase {
                self.reading(source, start, first_ever);
                if !lane_paused && !self.draining {
                    going.push(source.clone());
                    continue;
                }
            }
            waiting.push(source.clone());
        }
        self.pause(&waiting);
        // librdkafka remembers a pause beyond a revocation: a partition taken away while paused
        // comes back paused.
        self.resume(&going);
        Ok(())
    }

    /// Reading has begun at `start`.
    fn reading(&mut self, source: &TopicPartition, start: Start, first_ever: bool) {
        let Some(partition) = self.assignment.get_mut(source) else { return };
        partition.phase = Phase::Reading { start, recheck: None };
        partition.next = start.next;
        let lane_paused = self.lanes[partition.lane].paused;
        let state = if lane_paused { PartitionState::Paused } else { PartitionState::Reading };
        if let (true, Some(epoch)) = (first_ever, partition.epoch) {
            self.board.claimed(source, epoch, Some(start.next));
            // Stored even if no record ever comes: a restart must not begin elsewhere.
            let advance = Delivery::Advance(partition.generation, source.clone(), start.next);
            self.lanes[partition.lane].deliver(advance);
        }
        self.board.reading(source, state);
    }

    /// Where each is to be fetched from.
    fn fetch_list(&self, partitions: &[TopicPartition]) -> KafkaResult<TopicPartitionList> {
        let from = |source: &TopicPartition| {
            let offset = self.assignment.get(source).and_then(Partition::fetch_from);
            // Without one it is paused; nothing read from the end is ever accepted.
            offset.map_or(KafkaOffset::End, |offset| KafkaOffset::Offset(offset.0))
        };
        partition_list(partitions.iter().map(|source| (source, from(source))))
    }

    /// Begins a partition that was assigned paused.
    pub(super) fn begin_late(&mut self, source: &TopicPartition, start: Start, first_ever: bool) {
        let lane_paused = self.assignment.get(source).is_some_and(|p| self.lanes[p.lane].paused);
        let offset = KafkaOffset::Offset(start.fetch.0);
        let begun = self
            .consumer
            .seek(&source.topic, source.partition, offset, SEEK)
            .or_else(|_| self.assign_again(source));
        match begun {
            Ok(()) => {
                self.reading(source, start, first_ever);
                if !lane_paused {
                    self.resume(std::slice::from_ref(source));
                }
            }
            Err(error) => {
                if let Some(suppressed) = self.log.pass("begin") {
                    warn!(partition = %source, %error, suppressed, "could not begin, will try again");
                }
            }
        }
    }

    /// Where an offset was outside the log librdkafka has given up fetching, and seeks no more:
    /// only an assignment makes it begin again.
    fn assign_again(&mut self, source: &TopicPartition) -> KafkaResult<()> {
        // The group is about to decide anew, and to assign would be taken for our consent.
        if self.pending.is_some() || self.consumer.assignment_lost() {
            return Err(KafkaError::Subscription("a rebalance is under way".to_owned()));
        }
        if matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative) {
            let list = self.fetch_list(std::slice::from_ref(source))?;
            // Refused if an earlier try came only this far.
            drop(self.consumer.incremental_unassign(&list));
            self.consumer.incremental_assign(&list)
        } else {
            // All or nothing. What is paused stays paused.
            let assigned = self.assignment.which(|p| p.assigned);
            self.consumer.assign(&self.fetch_list(&assigned)?)
        }
    }

    pub(super) fn pause_lane(&mut self, lane: usize) {
        self.lanes[lane].paused = true;
        let sources = self.assignment.which(|p| p.lane == lane && p.assigned);
        self.pause(&sources);
        for source in self.reading_of(lane) {
            self.board.state(&source, PartitionState::Paused);
        }
    }

    pub(super) fn resume_lane(&mut self, lane: usize) {
        self.lanes[lane].paused = false;
        let sources = self.reading_of(lane);
        self.resume(&sources);
        for source in &sources {
            self.board.state(source, PartitionState::Reading);
        }
    }

    fn reading_of(&self, lane: usize) -> Vec<TopicPartition> {
        self.assignment
            .which(|p| p.lane == lane && p.assigned && matches!(p.phase, Phase::Reading { .. }))
    }

    pub(super) fn pause(&mut self, sources: &[TopicPartition]) {
        self.pause_or_resume(sources, |consumer, list| consumer.pause(list), "pause");
    }

    fn resume(&mut self, sources: &[TopicPartition]) {
        self.pause_or_resume(sources, |consumer, list| consumer.resume(list), "resume");
    }

    fn pause_or_resume(
        &mut self,
        sources: &[TopicPartition],
        act: impl Fn(&super::WorkerConsumer, &TopicPartitionList) -> KafkaResult<()>,
        name: &'static str,
    ) {
        if sources.is_empty() {
            return;
        }
        let list = partition_list(sources.iter().map(|source| (source, KafkaOffset::Invalid)));
        if let Err(error) = list.and_then(|list| act(&self.consumer, &list)) {
            warn!(%error, name, "kafka client refused");
        }
    }
}

/// A list for librdkafka.
pub(super) fn partition_list<'a>(
    offsets: impl Iterator<Item = (&'a TopicPartition, KafkaOffset)>,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (source, offset) in offsets {
        list.add_partition_offset(&source.topic, source.partition, offset)?;
    }
    Ok(list)
}
