//! The words that identify: events, users, versions.

use std::fmt;

use bytestring::ByteString;
use uuid::Uuid;

use super::text::{self, TextFlaw};
use crate::types::{RecordOffset, TopicPartition};

/// The namespace of the identifiers derived here. Changing it, or the text hashed below, makes
/// every derived identifier new, and thereby every redelivered event.
const NAMESPACE: Uuid = Uuid::from_u128(0x5f13_f573_4ebe_4eaf_b05f_0049_425f_616b);

/// Identifies an event, together with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub Uuid);

impl EventId {
    /// The identity of an event from its CloudEvents attributes.
    ///
    /// An `id` that is a UUID, in any of its usual spellings, is taken as unique by itself.
    /// Any other is unique only within its `source`, so it becomes the UUIDv5 over
    /// `source`, a line feed and `id`. Neither may contain a control character, so no two pairs
    /// yield the same text.
    pub fn of(source: &str, id: &str) -> Self {
        Self(Uuid::try_parse(id).unwrap_or_else(|_| derive(&format!("{source}\n{id}"))))
    }

    /// The identity of the deletion that a tombstone stands for: its position, since it has
    /// nothing else. The three line feeds keep it apart from [`EventId::of`].
    pub fn of_tombstone(source: &TopicPartition, offset: RecordOffset) -> Self {
        Self(derive(&format!("tombstone\n{}\n{}\n{offset}", source.topic, source.partition)))
    }
}

fn derive(name: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies a user: 1 to 255 bytes without control characters, ordered by bytes as Postgres
/// orders `collate "C"`.
///
/// `Debug` shows the length only: a user id is personal data.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(ByteString);

impl UserId {
    /// The greatest length, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Takes a text as user id. Errors say what is wrong without quoting it.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TextFlaw> {
        let text = text.into();
        text::check(&text, Self::MAX_BYTES)?;
        Ok(Self(text))
    }

    /// The id itself. Not for logs.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first bytes as a number: of two ids, the one with the smaller prefix is the smaller.
    pub fn prefix(&self) -> u128 {
        let mut first = [0; size_of::<u128>()];
        let length = self.0.len().min(first.len());
        first[..length].copy_from_slice(&self.0.as_bytes()[..length]);
        u128::from_be_bytes(first)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({} bytes)", self.0.len())
    }
}

/// A user's own version, set by the producer: never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sequence(i64);

impl Sequence {
    /// Takes a number as version; `None` when it is negative.
    pub fn new(number: i64) -> Option<Self> {
        (number >= 0).then_some(Self(number))
    }

    /// Reads decimal digits and nothing else; `None` when there are other characters, none at
    /// all, or more than `i64::MAX` would say.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return None; // `str::parse` would take a sign
        }
        text.parse().ok().map(Self)
    }

    /// The number.
    pub fn get(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_an_identity_by_itself() {
        let id = "0192f0c1-2b3c-7def-8123-456789abcdef";
        assert_eq!(EventId::of("/a", id), EventId::of("/b", &id.to_uppercase()));
        assert_eq!(EventId::of("/a", id).to_string(), id);
    }

    #[test]
    fn any_other_id_is_derived_and_the_derivation_is_fixed() {
        // Stored ledgers depend on these. Computed by another implementation (Python's `uuid`).
        assert_eq!(EventId::of("/a", "1").to_string(), "d7bc90bb-8cdb-5e37-aeb7-cf05d93a5a36");
        assert_ne!(EventId::of("/a", "1"), EventId::of("/b", "1"));
        let orders = TopicPartition::new("orders", 3);
        assert_eq!(
            EventId::of_tombstone(&orders, RecordOffset(7)).to_string(),
            "7494894a-8cbf-52b6-aacd-4b583886b531"
        );
    }

    #[test]
    fn users_are_ordered_by_bytes() {
        let user = |text: &str| UserId::new(text.to_owned()).unwrap();
        assert!(user("Z") < user("a") && user("z") < user("ä") && user("a") < user("a0"));
        let long = "0123456789abcdef";
        for (less, more) in
            [("Z", "a"), ("z", "ä"), ("a", "a0"), ("ab", "ba"), ("0123456789abcdeX", long)]
        {
            assert!(user(less) < user(more) && user(less).prefix() < user(more).prefix());
        }
        assert_eq!(user(long).prefix(), user(&format!("{long}0")).prefix());
        assert_eq!(UserId::new("x".repeat(255)).unwrap().as_str().len(), 255);
        let too_long = Err(TextFlaw::TooLong { length: 256, limit: 255 });
        assert_eq!(UserId::new("x".repeat(256)), too_long);
        assert!(!format!("{:?}", user("alice")).contains("alice"));
    }

    #[test]
    fn sequences_are_decimal_u63() {
        assert_eq!(Sequence::parse("9223372036854775807"), Sequence::new(i64::MAX));
        assert_eq!(Sequence::parse("007"), Sequence::new(7));
        for bad in ["", "+1", "-1", "1.0", "1e3", " 1", "9223372036854775808", "٣"] {
            assert_eq!(Sequence::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Sequence::new(-1), None);
    }
}
