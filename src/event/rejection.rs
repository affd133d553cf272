//! Why a record cannot be an event.

use std::fmt;

/// Why a record became a dead letter. The codes are stable: they are stored with dead letters
/// and label the `dead_letters_total` metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The value is null (a tombstone).
    EmptyValue,
    /// The value is not JSON text.
    NotJson,
    /// The value, or its `data`, is JSON but not an object.
    NotAnObject,
    /// A required attribute is absent.
    MissingAttribute,
    /// An attribute has the wrong type, length or form.
    InvalidAttribute,
    /// `time` is too far in the future, or older than the ledger's retention.
    TimeOutOfRange,
    /// A NUL character, which no Postgres text can hold.
    NulCharacter,
    /// Bytes that are not UTF-8, or half of a surrogate pair.
    InvalidUnicode,
    /// A number beyond what is sensible to store exactly.
    NumberOutOfRange,
    /// Arrays and objects nested too deeply.
    TooDeep,
    /// Key, value and headers together are too large.
    TooLarge,
    /// Postgres refused it. Decoding never says so, only applying does.
    RejectedByDatabase,
}

impl Reason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 12] = [
        Self::EmptyValue,
        Self::NotJson,
        Self::NotAnObject,
        Self::MissingAttribute,
        Self::InvalidAttribute,
        Self::TimeOutOfRange,
        Self::NulCharacter,
        Self::InvalidUnicode,
        Self::NumberOutOfRange,
        Self::TooDeep,
        Self::TooLarge,
        Self::RejectedByDatabase,
    ];

    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::EmptyValue => "empty_value",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::MissingAttribute => "missing_attribute",
            Self::InvalidAttribute => "invalid_attribute",
            Self::TimeOutOfRange => "time_out_of_range",
            Self::NulCharacter => "nul_character",
            Self::InvalidUnicode => "invalid_unicode",
            Self::NumberOutOfRange => "number_out_of_range",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::RejectedByDatabase => "rejected_by_database",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Why this record cannot be an event, and what its producer should send instead.
///
/// `detail` is one sentence on what is wrong and one on what to send. It names attributes,
/// limits and positions and never quotes a value, which may be personal data, so that it can be
/// logged and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The stable classification.
    pub reason: Reason,
    /// What is wrong and what to send instead, for the producer.
    pub detail: String,
}

impl Rejection {
    /// Pairs a reason with its explanation. The explanation must not quote the record.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable_and_all_listed_once() {
        let codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(
            codes,
            [
                "empty_value",
                "not_json",
                "not_an_object",
                "missing_attribute",
                "invalid_attribute",
                "time_out_of_range",
                "nul_character",
                "invalid_unicode",
                "number_out_of_range",
                "too_deep",
                "too_large",
                "rejected_by_database",
            ]
        );
    }
}
