//! The contract with producers: pure functions that know neither Kafka nor Postgres.
//!
//! ```text
//! RawRecord --decode--> Event          what the ledger stores
//!                |        |
//!                |        +--UserChange::of, then--> one change per user and batch
//!                +----> Rejection      why a record becomes a dead letter
//! ```
//!
//! [`decode()`] holds the rules for one record, [`users`] the rules for the `users` row, and
//! [`model`] says the latter a second time, as plainly as possible, to be tested against.

mod attributes;
mod binary;
mod decode;
mod envelope;
mod ids;
mod json;
mod members;
pub mod model;
pub mod record;
mod rejection;
mod structured;
mod text;
pub mod users;

pub use decode::{Decoded, Rules, Tombstones, decode};
pub use envelope::{Event, EventKind, TraceContext};
pub use ids::{EventId, Sequence, UserId};
pub use json::JsonObject;
pub use record::{Header, RawRecord};
pub use rejection::{Reason, Rejection};
pub use text::TextFlaw;
pub use users::{Members, Patch, ProfileChange, SequenceGate, Touch, UserChange, Verdict};
