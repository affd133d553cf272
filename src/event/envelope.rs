//! An event as the rest of the worker knows it.

use std::fmt;

use bytestring::ByteString;
use time::OffsetDateTime;

use super::ids::{EventId, Sequence, UserId};
use super::json::JsonObject;

/// What happened, as far as the `users` row is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// `user.created`: the profile becomes the data.
    Created,
    /// `user.updated`: the data is merged into the profile.
    Updated,
    /// `user.deleted`: the profile is emptied.
    Deleted,
    /// Any other type: the user did something.
    Activity(ByteString),
}

impl EventKind {
    /// The kind that a CloudEvents `type` names, compared exactly.
    pub fn from_type(name: ByteString) -> Self {
        match &*name {
            "user.created" => Self::Created,
            "user.updated" => Self::Updated,
            "user.deleted" => Self::Deleted,
            _ => Self::Activity(name),
        }
    }

    /// The CloudEvents `type`.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Created => "user.created",
            Self::Updated => "user.updated",
            Self::Deleted => "user.deleted",
            Self::Activity(name) => name,
        }
    }
}

/// Where in a distributed trace an event was produced (W3C Trace Context).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// `version-trace_id-parent_id-flags` in lower-case hexadecimal: 55 bytes.
    pub traceparent: String,
    /// Vendors' own context, at most 512 bytes of visible ASCII.
    pub tracestate: Option<String>,
}

impl TraceContext {
    const MAX_TRACESTATE: usize = 512;

    /// Checks the shape. A malformed `traceparent` yields `None`, a malformed `tracestate` is left
    /// out: a broken trace must never cost an event.
    pub fn new(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let mut hex = |length: usize| {
            let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            parts.next().filter(|part| part.len() == length && part.bytes().all(digit))
        };
        let (version, trace_id, parent_id, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let all_zero = |part: &str| part.bytes().all(|b| b == b'0');
        if version == "ff" || all_zero(trace_id) || all_zero(parent_id) || parts.next().is_some() {
            return None;
        }
        let fits = |text: &&str| {
            (1..=Self::MAX_TRACESTATE).contains(&text.len())
                && text.bytes().all(|b| (b' '..=b'~').contains(&b))
        };
        Some(Self {
            traceparent: traceparent.to_owned(),
            tracestate: tracestate.filter(fits).map(str::to_owned),
        })
    }

    fn size(&self) -> usize {
        self.traceparent.len() + self.tracestate.as_ref().map_or(0, String::len)
    }
}

/// An event that keeps the contract: Postgres will take it as it is.
///
/// `Debug` shows neither the user nor the data.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// Identifies the event, together with `time`.
    pub id: EventId,
    /// When it happened: UTC, whole microseconds, as `timestamptz` holds it.
    pub time: OffsetDateTime,
    /// Who produced it: 1 to 1,024 bytes.
    pub source: ByteString,
    /// What happened.
    pub kind: EventKind,
    /// To whom.
    pub user_id: UserId,
    /// The user's version that this event makes, when the producer counts them.
    pub sequence: Option<Sequence>,
    /// The payload.
    pub data: JsonObject,
    /// The trace it belongs to.
    pub trace: Option<TraceContext>,
}

impl Event {
    /// Bytes held in memory besides itself and the record, approximately: for budgets, not for
    /// accounting.
    pub fn held(&self) -> usize {
        self.trace.as_ref().map_or(0, TraceContext::size)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("time", &self.time)
            .field("kind", &self.kind)
            .field("sequence", &self.sequence)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_a_well_formed_traceparent_counts() {
        assert_eq!(TraceContext::new(PARENT, None).unwrap().traceparent, PARENT);
        let zeros = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for bad in ["", "00", &PARENT[1..], &PARENT.to_uppercase(), zeros] {
            assert_eq!(TraceContext::new(bad, None), None, "{bad}");
        }
        assert_eq!(TraceContext::new(&format!("{PARENT}-x"), None), None);
        assert_eq!(TraceContext::new(&PARENT.replacen("00", "ff", 1), None), None);
        assert_eq!(
            TraceContext::new(&PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)), None),
            None
        );
    }

    #[test]
    fn a_malformed_tracestate_is_left_out() {
        let state = |text: &str| TraceContext::new(PARENT, Some(text)).unwrap().tracestate;
        assert_eq!(state("a=1,b=2").as_deref(), Some("a=1,b=2"));
        for bad in ["", "a=\n", "a=ä", &"x".repeat(513)] {
            assert_eq!(state(bad), None);
        }
    }

    #[test]
    fn debug_shows_neither_user_nor_data() {
        let event = Event {
            id: EventId::of("/a", "1"),
            time: OffsetDateTime::UNIX_EPOCH,
            source: "/a".into(),
            kind: EventKind::Created,
            user_id: UserId::new("alice").unwrap(),
            sequence: None,
            data: JsonObject::parse(r#"{"mail":"canary"}"#).unwrap(),
            trace: None,
        };
        let shown = format!("{event:?} {:?} {:?}", event.user_id, event.data);
        assert!(!shown.contains("alice") && !shown.contains("canary"), "{shown}");
    }
}
