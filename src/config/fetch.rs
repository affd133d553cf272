//! How much librdkafka fetches at a time, so that every answer of a broker feeds every lane.

/// What a partition gives to an answer, at least: no less than a producer's batch, or only the
/// first partition of an answer gets on. (Two of them are above librdkafka's `message.max.bytes`,
/// below which it takes no `fetch.max.bytes`.)
const SHARE: u64 = 512 << 10;
/// .. and at most: however large the prefetch, no partition keeps the others waiting for more.
const GREATEST_SHARE: u64 = 4 << 20;

/// Sizes of fetches, in bytes. Memory follows the size of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    /// Of a whole answer of one broker.
    pub(super) answer: u64,
    /// Of each partition in it.
    pub(super) partition: u64,
}

impl Fetch {
    /// A broker fills its answer partition by partition, and librdkafka asks in the same order
    /// after every full queue: if one partition could fill the answer, the other lanes would
    /// starve. So there are two shares even for one lane: it may have many partitions.
    pub(super) fn new(prefetch: u64, lanes: usize) -> Self {
        let lanes = lanes.max(2) as u64;
        let answer = (lanes * SHARE).max(prefetch);
        Self { answer, partition: (answer / lanes).min(GREATEST_SHARE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_share_for_every_lane_and_is_no_larger_than_it_must_be() {
        for (prefetch_kib, lanes, answer_kib, partition_kib) in [
            (512, 2, 1024, 512),
            (64, 2, 1024, 512),
            (512, 1, 1024, 512),
            (512, 3, 1536, 512),
            (512, 8, 4096, 512),
            (1024, 2, 1024, 512),
            (4096, 2, 4096, 2048),
            (4096, 3, 4096, 1365),
            (1 << 20, 2, 1 << 20, 4096),
        ] {
            let Fetch { answer, partition } = Fetch::new(prefetch_kib << 10, lanes);
            let kib = (answer >> 10, partition >> 10);
            assert_eq!(kib, (answer_kib, partition_kib), "{prefetch_kib} KiB, {lanes} lanes");
        }
    }
}
