//! What can happen in a schedule, and how often.

use crate::apply::verdict::Verdict;

use super::database::Commit;
use super::member::Fate;
use super::{LANES, MEMBERS, PARTITIONS};

/// What happens next. Numbers name partitions, members and lanes, modulo how many there are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Produce {
        partition: usize,
        gap: i64,
    },
    Marker {
        partition: usize,
    },
    Rebalance {
        partition: usize,
        member: usize,
    },
    Hear {
        member: usize,
    },
    Confirm {
        partition: usize,
        member: usize,
    },
    Read {
        partition: usize,
        member: usize,
    },
    /// librdkafka hands out once more what it handed out before.
    Repeat {
        partition: usize,
        member: usize,
    },
    Deliver {
        member: usize,
        lane: usize,
    },
    /// A member does all it can without an answer from Postgres.
    Work {
        member: usize,
    },
    Start {
        member: usize,
        lane: usize,
    },
    Finish {
        member: usize,
        lane: usize,
        fate: Fate,
    },
    Notices {
        member: usize,
    },
    Decide {
        committed: bool,
    },
    Pass {
        millis: u64,
    },
    Sleep {
        member: usize,
    },
    Wake {
        member: usize,
    },
    Crash {
        member: usize,
        commit: Commit,
    },
    Replicate,
    FailOver,
    Move {
        partition: usize,
        back: i64,
    },
}

impl Act {
    /// Reads an act from random bits: proptest draws one number far faster than a tree of choices.
    pub(super) fn from_bits(bits: u32) -> Self {
        let [dice, a, b, c] = bits.to_le_bytes().map(usize::from);
        let (partition, member, lane) = (a % PARTITIONS, b % MEMBERS, a % LANES);
        let commit = COMMITS[c % COMMITS.len()];
        match dice % 100 {
            0..14 => Act::Produce { partition, gap: (c % 3) as i64 },
            14..15 => Act::Marker { partition },
            15..18 => Act::Rebalance { partition, member },
            18..26 => Act::Hear { member },
            26..28 => Act::Confirm { partition, member },
            28..31 => Act::Read { partition, member },
            31..32 => Act::Repeat { partition, member },
            32..36 => Act::Deliver { member, lane },
            36..40 => Act::Start { member, lane },
            40..44 => Act::Notices { member },
            44..62 => Act::Work { member },
            62..86 => Act::Finish { member, lane, fate: Fate::from_bits(c) },
            86..87 => Act::Decide { committed: c % 2 == 0 },
            87..92 => Act::Pass { millis: c as u64 * 3 },
            92..93 => Act::Sleep { member },
            93..95 => Act::Wake { member },
            95..96 => Act::Crash { member, commit },
            96..97 => Act::Replicate,
            97..98 if c % 8 == 0 => Act::FailOver,
            98..99 if c % 2 == 0 => Act::Move { partition, back: (c % 4) as i64 },
            _ => Act::Work { member },
        }
    }
}

impl Fate {
    fn from_bits(bits: usize) -> Self {
        let refusals =
            [Verdict::Outage, Verdict::Retry, Verdict::Data, Verdict::Smaller, Verdict::Reconnect];
        match bits % 32 {
            index @ 0..5 => Fate::Refused(refusals[index]),
            5 => Fate::Unheard,
            index @ 6..16 => Fate::Served(COMMITS[index % COMMITS.len()]),
            _ => Fate::Served(Commit::Answered),
        }
    }
}

const COMMITS: [Commit; 4] =
    [Commit::Answered, Commit::DoneUnheard, Commit::LostUnheard, Commit::Lingers];
