//! The binary binding: attributes are headers, the value is the data.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::attributes::{Attribute, Binding, Envelope, header, trace, utf8};
use super::json;
use super::record::RawRecord;
use super::rejection::Rejection;

/// Headers that only this binding has. One is enough, so that a record that lacks the others
/// is told so instead of being taken for a structured one.
const MARKS: [Attribute; 4] =
    [Attribute::Id, Attribute::SpecVersion, Attribute::Type, Attribute::Source];

/// Begins the `content-type` of a structured record, which decides whatever headers there are.
const STRUCTURED: &[u8] = b"application/cloudevents";

/// Whether the record uses this binding.
pub(super) fn is_used(record: &RawRecord) -> bool {
    let has = |mark: &Attribute| {
        record.headers.iter().any(|header| header.name.eq_ignore_ascii_case(mark.header()))
    };
    let structured = || {
        let content_type = header(record, "content-type").unwrap_or_default();
        let begin = content_type.get(..STRUCTURED.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(STRUCTURED))
    };
    MARKS.iter().any(has) && !structured()
}

/// Reads headers and value.
pub(super) fn read<'a>(record: &'a RawRecord, value: &'a [u8]) -> Result<Envelope<'a>, Rejection> {
    let binding = Binding::Binary;
    let text = |attribute: Attribute| {
        let bytes = header(record, attribute.header());
        let text = bytes.map(|bytes| utf8(|| binding.label(attribute), bytes)).transpose()?;
        Ok(text.map(Cow::Borrowed))
    };
    Ok(Envelope {
        binding,
        specversion: text(Attribute::SpecVersion)?,
        id: text(Attribute::Id)?,
        source: text(Attribute::Source)?,
        kind: text(Attribute::Type)?,
        subject: text(Attribute::Subject)?,
        time: text(Attribute::Time)?,
        sequence: text(Attribute::Sequence)?,
        trace: trace(record, "traceparent", "tracestate")
            .or_else(|| trace(record, "ce_traceparent", "ce_tracestate")),
        data: data(value)?,
    })
}

/// The value as JSON. No bytes at all and `null` both mean no data.
fn data(value: &[u8]) -> Result<Option<&RawValue>, Rejection> {
    if value.is_empty() {
        return Ok(None);
    }
    let text = utf8(|| "The value".to_owned(), value)?;
    serde_json::from_str(text).map_err(|error| json::syntax("the value", &error))
}
