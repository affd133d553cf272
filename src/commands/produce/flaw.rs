//! The ways in which a producer can break the contract.

use super::draft::Draft;
use crate::event::Reason;

/// One way to break the contract: exactly one thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    Truncated,
    PlainText,
    Array,
    DataIsText,
    NoId,
    NoSource,
    NoType,
    NoTime,
    EmptyId,
    LongSubject,
    UnreadableTime,
    NegativeSequence,
    OldSpecVersion,
    FarFuture,
    LongAgo,
    NulInData,
    NulInSubject,
    NotUtf8,
    HalfSurrogate,
    HugeNumber,
    DeepNesting,
    /// Last, because it is left out unless asked for: what is too large is configured.
    Oversized,
}

impl Flaw {
    pub(super) const ALL: [Self; 22] = [
        Self::Truncated,
        Self::PlainText,
        Self::Array,
        Self::DataIsText,
        Self::NoId,
        Self::NoSource,
        Self::NoType,
        Self::NoTime,
        Self::EmptyId,
        Self::LongSubject,
        Self::UnreadableTime,
        Self::NegativeSequence,
        Self::OldSpecVersion,
        Self::FarFuture,
        Self::LongAgo,
        Self::NulInData,
        Self::NulInSubject,
        Self::NotUtf8,
        Self::HalfSurrogate,
        Self::HugeNumber,
        Self::DeepNesting,
        Self::Oversized,
    ];

    /// The reason of the dead letter that must come of it.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Truncated | Self::PlainText => Reason::NotJson,
            Self::Array | Self::DataIsText => Reason::NotAnObject,
            Self::NoId | Self::NoSource | Self::NoType | Self::NoTime => Reason::MissingAttribute,
            Self::EmptyId
            | Self::LongSubject
            | Self::UnreadableTime
            | Self::NegativeSequence
            | Self::OldSpecVersion => Reason::InvalidAttribute,
            Self::FarFuture | Self::LongAgo => Reason::TimeOutOfRange,
            Self::NulInData | Self::NulInSubject => Reason::NulCharacter,
            Self::NotUtf8 | Self::HalfSurrogate => Reason::InvalidUnicode,
            Self::HugeNumber => Reason::NumberOutOfRange,
            Self::DeepNesting => Reason::TooDeep,
            Self::Oversized => Reason::TooLarge,
        }
    }

    /// Spoils what can be spoilt before the event is written. `oversized` is in bytes.
    pub(super) fn spoil(self, draft: &mut Draft, oversized: usize) {
        let text = |text: &'static str| Some(text.into());
        match self {
            Self::DataIsText => draft.data = r#""sign-up""#.to_owned(),
            Self::NoId => draft.id = None,
            Self::NoSource => draft.source = None,
            Self::NoType => draft.kind = None,
            Self::NoTime => draft.time = None,
            Self::EmptyId => draft.id = text(""),
            Self::LongSubject => draft.subject = Some("long-".repeat(60).into()),
            Self::UnreadableTime => draft.time = text("yesterday at noon"),
            Self::NegativeSequence => draft.sequence = text("-1"),
            Self::OldSpecVersion => draft.specversion = "0.3".into(),
            Self::FarFuture => draft.time = text("2999-12-31T23:59:59Z"),
            Self::LongAgo => draft.time = text("1999-12-31T23:59:59Z"),
            Self::NulInData => draft.data = r#"{"note":"a\u0000b"}"#.to_owned(),
            Self::NulInSubject => draft.subject = text("user\0"),
            Self::HalfSurrogate => draft.data = r#"{"note":"\ud83d"}"#.to_owned(),
            Self::HugeNumber => draft.data = r#"{"amount":1e999}"#.to_owned(),
            Self::DeepNesting => {
                draft.data = format!(r#"{{"note":{}{}}}"#, "[".repeat(200), "]".repeat(200));
            }
            Self::Oversized => draft.data = format!(r#"{{"note":"{}"}}"#, "x".repeat(oversized)),
            Self::Truncated | Self::PlainText | Self::Array | Self::NotUtf8 => {}
        }
    }

    /// Spoils what can only be spoilt in the bytes written.
    pub(super) fn spoil_bytes(self, value: &mut Vec<u8>) {
        match self {
            Self::Truncated => drop(value.pop()),
            Self::PlainText => *value = b"user signed up".to_vec(),
            Self::Array => *value = b"[\"user.created\",\"user-1\"]".to_vec(),
            Self::NotUtf8 => *value = b"{\"note\":\"caf\xe9\"}".to_vec(),
            _ => {}
        }
    }
}
