//! What can happen in a schedule, and how often.

use crate::apply::verdict::Verdict;

use super::database::Commit;
use super::log::Nature;
use super::seat::Fate;
use super::{LANES, MEMBERS, PARTITIONS};

/// What happens next. Numbers name partitions, members and lanes, modulo how many there are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Produce {
        partition: usize,
        gap: i64,
        nature: Nature,
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
    /// An operator moves a partition by so much, forward or back.
    Move {
        partition: usize,
        by: i64,
    },
    /// An operator moves a partition whose breaker tripped past the bad records.
    Relent {
        partition: usize,
    },
    /// Postgres falls silent for a lane.
    Silence {
        member: usize,
        lane: usize,
        commit: Commit,
    },
    /// A member is told to end.
    Drain {
        member: usize,
    },
    /// A member's watchdog leaves the group and joins it anew, and the group gives what it had to
    /// another, or back.
    Rebuild {
        member: usize,
        heir: usize,
    },
    /// A log looks odd: claimed and read again from where Postgres stands.
    Verify {
        partition: usize,
        member: usize,
    },
}

impl Act {
    /// Reads an act from random bits: proptest draws one number far faster than a tree of choices.
    pub(super) fn from_bits(bits: u32) -> Self {
        let [dice, a, b, c] = bits.to_le_bytes().map(usize::from);
        let (partition, member, lane) = (a % PARTITIONS, b % MEMBERS, a % LANES);
        let commit = COMMITS[c % COMMITS.len()];
        match dice {
            0..36 => Act::Produce { partition, gap: (c % 3) as i64, nature: Nature::from_bits(b) },
            36..39 => Act::Marker { partition },
            39..46 => Act::Rebalance { partition, member },
            46..66 => Act::Hear { member },
            66..71 => Act::Confirm { partition, member },
            71..79 => Act::Read { partition, member },
            79..82 => Act::Repeat { partition, member },
            82..92 => Act::Deliver { member, lane },
            92..102 => Act::Start { member, lane },
            102..112 => Act::Notices { member },
            112..158 => Act::Work { member },
            158..214 => Act::Finish { member, lane, fate: Fate::from_bits(c) },
            214..217 => Act::Decide { committed: c % 2 == 0 },
            217..229 => Act::Pass { millis: c as u64 * 3 },
            229..232 => Act::Sleep { member },
            232..237 => Act::Wake { member },
            237..239 => Act::Crash { member, commit },
            239..241 => Act::Replicate,
            241 if c % 3 == 0 => Act::FailOver,
            242..244 => Act::Move { partition, by: (c % 7) as i64 - 3 },
            244..247 => Act::Relent { partition },
            247..250 => Act::Silence { member, lane, commit },
            250 => Act::Drain { member },
            251..253 => Act::Rebuild { member, heir: c % MEMBERS },
            253..255 => Act::Verify { partition, member },
            _ => Act::Work { member },
        }
    }
}

impl Nature {
    fn from_bits(bits: usize) -> Self {
        match bits % 16 {
            0 | 1 => Nature::Malformed,
            2 | 3 => Nature::Refused,
            4 => Nature::Tombstone,
            _ => Nature::Good,
        }
    }
}

impl Fate {
    fn from_bits(bits: usize) -> Self {
        let refusals =
            [Verdict::Outage, Verdict::Retry, Verdict::Bug, Verdict::Smaller, Verdict::Reconnect];
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
