//! From a record to an event, or to the reason why it is none.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::attributes::{Attribute, Envelope, trace, utf8};
use super::envelope::{Event, EventKind};
use super::ids::{EventId, Sequence, UserId};
use super::json::JsonObject;
use super::record::RawRecord;
use super::rejection::{Reason, Rejection};
use super::text::{self, TextFlaw};
use super::{binary, structured};

#[cfg(test)]
mod limits;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

/// The greatest length of `id` and of `source`, in bytes.
const MAX_REFERENCE: usize = 1024;
/// The greatest length of `type`, in bytes.
const MAX_TYPE: usize = 255;

/// What an operator decides about the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The greatest size of a record: key, value and headers, in bytes. Data has a limit of its
    /// own besides, [`JsonObject::MAX_BYTES`].
    pub max_record_bytes: usize,
    /// How far `time` may be ahead of the worker's clock.
    pub max_future: Duration,
    /// How far `time` may be behind it: as long as the ledger keeps its months.
    pub retention: Duration,
    /// What a null value means.
    pub tombstones: Tombstones,
}

/// What to do with a record whose value is null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Tombstones {
    /// It breaks the contract.
    #[default]
    DeadLetter,
    /// It is nothing to us.
    Skip,
    /// It deletes the user whom the record key names, at the record's timestamp.
    Delete,
}

impl From<Tombstones> for &'static str {
    fn from(tombstones: Tombstones) -> Self {
        match tombstones {
            Tombstones::DeadLetter => "dead_letter",
            Tombstones::Skip => "skip",
            Tombstones::Delete => "delete",
        }
    }
}

impl TryFrom<String> for Tombstones {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        match word.as_str() {
            "dead_letter" => Ok(Self::DeadLetter),
            "skip" => Ok(Self::Skip),
            "delete" => Ok(Self::Delete),
            _ => Err(format!("`{word}` is not one of dead_letter, skip, delete")),
        }
    }
}

/// What became of a record. Exactly one of these, always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// It keeps the contract.
    Event(Event),
    /// A tombstone, and the rules say to skip those.
    Skipped,
    /// It breaks the contract.
    Rejected(Rejection),
}

/// Decodes one record at the time `now`. Takes any bytes whatsoever, never panics and never
/// recurses; the same record under the same rules and time gives the same answer.
pub fn decode(record: &RawRecord, rules: &Rules, now: OffsetDateTime) -> Decoded {
    let decoded = if record.size() > rules.max_record_bytes {
        Err(too_large(record, rules))
    } else if let Some(value) = &record.value {
        let read = if binary::is_used(record) { binary::read } else { structured::read };
        read(record, value).and_then(|envelope| event(envelope, record, rules, now))
    } else {
        match rules.tombstones {
            Tombstones::DeadLetter => Err(Rejection::new(
                Reason::EmptyValue,
                "The value is null. Send a CloudEvent; to delete a user, one of type `user.deleted`.",
            )),
            Tombstones::Skip => return Decoded::Skipped,
            Tombstones::Delete => deletion(record, rules, now),
        }
    };
    decoded.map_or_else(Decoded::Rejected, Decoded::Event)
}

fn too_large(record: &RawRecord, rules: &Rules) -> Rejection {
    let detail = format!(
        "The record has {} bytes of key, value and headers. Send at most {}.",
        record.size(),
        rules.max_record_bytes
    );
    Rejection::new(Reason::TooLarge, detail)
}

/// Checks what an envelope says.
fn event(
    envelope: Envelope<'_>,
    record: &RawRecord,
    rules: &Rules,
    now: OffsetDateTime,
) -> Result<Event, Rejection> {
    if envelope.specversion.as_ref().is_some_and(|version| version != "1.0") {
        return Err(envelope.invalid(Attribute::SpecVersion, "is not 1.0. Send CloudEvents 1.0."));
    }
    let id = envelope.required(Attribute::Id, &envelope.id, MAX_REFERENCE)?;
    let source = envelope.required(Attribute::Source, &envelope.source, MAX_REFERENCE)?;
    let kind = envelope.required(Attribute::Type, &envelope.kind, MAX_TYPE)?;
    let user_id = envelope.user(record)?;
    let time = envelope.time(rules, now)?;
    let sequence = envelope.sequence()?;
    let keep = |text| record.share(text);
    let data = envelope.data.map(|data| JsonObject::of(data, |text| keep(text.into())));
    let data = data.transpose()?;
    Ok(Event {
        id: EventId::of(source, id),
        time,
        source: keep(source.clone()),
        kind: EventKind::from_type(keep(kind.clone())),
        user_id,
        sequence,
        data: data.unwrap_or_else(JsonObject::empty),
        trace: envelope.trace,
    })
}

impl<'a> Envelope<'a> {
    fn label(&self, attribute: Attribute) -> String {
        self.binding.label(attribute)
    }

    fn invalid(&self, attribute: Attribute, problem: &str) -> Rejection {
        let detail = format!("{} {problem}", self.label(attribute));
        Rejection::new(Reason::InvalidAttribute, detail)
    }

    fn missing(&self, attribute: Attribute, advice: &str) -> Rejection {
        let detail = format!("{} is missing. {advice}", self.label(attribute));
        Rejection::new(Reason::MissingAttribute, detail)
    }

    fn required<'t>(
        &self,
        attribute: Attribute,
        text: &'t Option<Cow<'a, str>>,
        limit: usize,
    ) -> Result<&'t Cow<'a, str>, Rejection> {
        let Some(text) = text else {
            let advice = format!("Send 1 to {limit} bytes without control characters.");
            return Err(self.missing(attribute, &advice));
        };
        text::check(text, limit).map_err(|flaw| bad_text(&self.label(attribute), limit, flaw))?;
        Ok(text)
    }

    /// `subject` names the user; when absent, the record key does.
    fn user(&self, record: &RawRecord) -> Result<UserId, Rejection> {
        match (&self.subject, &record.key) {
            (Some(subject), _) => UserId::new(record.share(subject.clone()))
                .map_err(|flaw| bad_text(&self.label(Attribute::Subject), UserId::MAX_BYTES, flaw)),
            (None, Some(key)) if !key.is_empty() => user_from_key(record, key),
            _ => Err(self.missing(
                Attribute::Subject,
                "Send the user id there or as the record key, which is empty too.",
            )),
        }
    }

    fn time(&self, rules: &Rules, now: OffsetDateTime) -> Result<OffsetDateTime, Rejection> {
        let advice = "Send an RFC 3339 time such as 2026-01-31T12:00:00.123456Z.";
        let Some(text) = &self.time else { return Err(self.missing(Attribute::Time, advice)) };
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
            self.invalid(Attribute::Time, &format!("is not an RFC 3339 time. {advice}"))
        })?;
        within(time, rules, now).map_err(|problem| {
            let detail = format!("{} {problem}", self.label(Attribute::Time));
            Rejection::new(Reason::TimeOutOfRange, detail)
        })
    }

    fn sequence(&self) -> Result<Option<Sequence>, Rejection> {
        let Some(text) = &self.sequence else { return Ok(None) };
        let sequence = Sequence::parse(text).ok_or_else(|| {
            let problem = "is not a version. Send decimal digits, at most 9223372036854775807.";
            self.invalid(Attribute::Sequence, problem)
        })?;
        Ok(Some(sequence))
    }
}

/// The deletion that a tombstone stands for.
fn deletion(record: &RawRecord, rules: &Rules, now: OffsetDateTime) -> Result<Event, Rejection> {
    let unusable = |what: &str| {
        let detail = format!(
            "The value is null and the record has no {what}, so that it cannot count as deletion. \
             Send both key and timestamp, or an event of type `user.deleted`."
        );
        Rejection::new(Reason::EmptyValue, detail)
    };
    let key = record.key.as_deref().filter(|key| !key.is_empty()).ok_or_else(|| unusable("key"))?;
    let user_id = user_from_key(record, key)?;
    let timestamp = record.timestamp_ms.ok_or_else(|| unusable("timestamp"))?;
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(timestamp) * 1_000_000)
        .map_err(|_| BEYOND.to_owned())
        .and_then(|time| within(time, rules, now))
        .map_err(|problem| {
            let detail = format!("The record timestamp of this deletion {problem}");
            Rejection::new(Reason::TimeOutOfRange, detail)
        })?;
    Ok(Event {
        id: EventId::of_tombstone(&record.source, record.offset),
        time,
        source: format!("kafka:{}", record.source.topic).into(),
        kind: EventKind::Deleted,
        user_id,
        sequence: None,
        data: JsonObject::empty(),
        trace: trace(record, "traceparent", "tracestate"),
    })
}

/// Takes the record key as user id.
fn user_from_key(record: &RawRecord, key: &[u8]) -> Result<UserId, Rejection> {
    let label = "The record key, taken as user id,";
    let text = utf8(|| label.to_owned(), key)?;
    UserId::new(record.share(text.into())).map_err(|flaw| bad_text(label, UserId::MAX_BYTES, flaw))
}

/// Explains a text that breaks its rule. `label` begins the sentence.
fn bad_text(label: &str, limit: usize, flaw: TextFlaw) -> Rejection {
    let reason = match flaw {
        TextFlaw::Nul { .. } => Reason::NulCharacter,
        TextFlaw::Empty | TextFlaw::TooLong { .. } | TextFlaw::Control { .. } => {
            Reason::InvalidAttribute
        }
    };
    let detail = format!("{label} {flaw}. Send 1 to {limit} bytes without control characters.");
    Rejection::new(reason, detail)
}

/// Ends the sentence on a time that no calendar here can hold.
const BEYOND: &str = "is not within the years -9999 to 9999. Send the time at which it happened.";

/// The time in UTC and cut to microseconds, if it lies within the rules. Errors end a sentence.
fn within(
    time: OffsetDateTime,
    rules: &Rules,
    now: OffsetDateTime,
) -> Result<OffsetDateTime, String> {
    let time = time.checked_to_offset(UtcOffset::UTC).ok_or(BEYOND)?;
    let time = time.truncate_to_microsecond();
    let ahead = time - now;
    let span = |duration| time::Duration::try_from(duration).unwrap_or(time::Duration::MAX);
    if ahead > span(rules.max_future) {
        let limit = in_words(rules.max_future);
        return Err(format!(
            "is more than {limit} ahead of the worker's clock. \
                            Send the time at which it happened, and check the producer's clock."
        ));
    }
    if -ahead > span(rules.retention) {
        let limit = in_words(rules.retention);
        return Err(format!(
            "is older than the {limit} that events are kept. \
                            Send events sooner, or ask for a longer retention."
        ));
    }
    Ok(time)
}

/// A duration as an operator would say it: retention in days, not in months of 30.44 days.
fn in_words(duration: Duration) -> String {
    match (duration.as_secs() / 86_400, duration.as_secs() % 86_400) {
        (days @ 2.., 0) => format!("{days} days"),
        _ => humantime::format_duration(duration).to_string(),
    }
}
