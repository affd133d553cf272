//! The Postgres side: one batch, one transaction.
//!
//! ```text
//! BEGIN            READ COMMITTED, time-outs by SET LOCAL
//! claims.rs        fence: move the offsets, where our claim is the newest   -> or Fenced
//! ledger.rs        insert the events; what comes back is fresh
//! users.rs         filter the stale, fold the rest, upsert one row per user
//! dead_letters.rs  keep what broke the contract
//! COMMIT           all of it, or nothing
//! ```
//!
//! [`verdict`] says what an error means, [`split`](Batch::split) finds a guilty record, and
//! [`Writer`] runs it all on a connection of its own.

mod batch;
mod claims;
mod column;
mod dead_letters;
pub mod identity;
mod ledger;
#[doc(hidden)]
pub mod measure;
pub mod migrate;
mod months;
pub mod moves;
mod outcome;
mod prepared;
mod session;
mod users;
pub mod verdict;
mod writer;

pub use batch::{Batch, Content, Fingerprint, Item, OffsetRange};
pub use claims::{AfterFence, Claim, Fenced, OPERATOR};
#[cfg(test)]
pub(crate) use claims::{Holder, judge_fence};
pub use dead_letters::{Caps, DeadLetter};
pub use outcome::{Applied, ApplyError, Outcome, Resolution};
pub use prepared::ReadyBatch;
pub use session::{Session, SessionOptions};
#[cfg(test)]
pub(crate) use writer::committed;
pub use writer::{Held, Writer, WriterOptions};
