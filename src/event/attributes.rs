//! The attributes of CloudEvents, and an envelope that carries them in either binding.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::envelope::TraceContext;
use super::record::RawRecord;
use super::rejection::{Reason, Rejection};

/// The attributes that mean something here; all others are ignored.
#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
pub(super) enum Attribute {
    SpecVersion,
    Id,
    Source,
    Type,
    Subject,
    Time,
    Sequence,
    TraceParent,
    TraceState,
    Data,
    #[serde(rename = "data_base64")]
    DataBase64,
    #[serde(other)]
    Unknown,
}

impl Attribute {
    /// How many there are, to index an array by them.
    pub(super) const COUNT: usize = Self::Unknown as usize + 1;

    /// The name of the header that carries it in the binary binding.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::SpecVersion => "ce_specversion",
            Self::Id => "ce_id",
            Self::Source => "ce_source",
            Self::Type => "ce_type",
            Self::Subject => "ce_subject",
            Self::Time => "ce_time",
            Self::Sequence => "ce_sequence",
            Self::TraceParent => "ce_traceparent",
            Self::TraceState => "ce_tracestate",
            Self::Data => "ce_data",
            Self::DataBase64 => "ce_data_base64",
            Self::Unknown => "ce_",
        }
    }

    /// The name of the member that carries it in the structured binding.
    pub(super) fn member(self) -> &'static str {
        self.header().trim_start_matches("ce_")
    }
}

/// The two ways in which CloudEvents travel over Kafka.
#[derive(Clone, Copy)]
pub(super) enum Binding {
    /// The value is one JSON object with everything in it.
    Structured,
    /// Attributes are headers, the value is the data.
    Binary,
}

impl Binding {
    /// How a producer that uses this binding knows the attribute, to begin a sentence with.
    pub(super) fn label(self, attribute: Attribute) -> String {
        match self {
            Self::Structured => format!("Attribute `{}`", attribute.member()),
            Self::Binary => format!("Header `{}`", attribute.header()),
        }
    }
}

/// What a record says in either binding: the right types, nothing else believed yet.
pub(super) struct Envelope<'a> {
    pub(super) binding: Binding,
    pub(super) specversion: Option<Cow<'a, str>>,
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) source: Option<Cow<'a, str>>,
    pub(super) kind: Option<Cow<'a, str>>,
    pub(super) subject: Option<Cow<'a, str>>,
    pub(super) time: Option<Cow<'a, str>>,
    pub(super) sequence: Option<Cow<'a, str>>,
    pub(super) trace: Option<TraceContext>,
    /// JSON of any type but null.
    pub(super) data: Option<&'a RawValue>,
}

/// The value of the first header of this name, in any case; `None` also when it is null.
pub(super) fn header<'a>(record: &'a RawRecord, name: &str) -> Option<&'a [u8]> {
    let first = record.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    first.value.as_deref()
}

/// The trace context that the named headers carry, when they carry a proper one.
pub(super) fn trace(record: &RawRecord, parent: &str, state: &str) -> Option<TraceContext> {
    let text = |name| header(record, name).and_then(|bytes| std::str::from_utf8(bytes).ok());
    TraceContext::new(text(parent)?, text(state))
}

/// Takes bytes as text. `what` begins the sentence that says they are none.
pub(super) fn utf8(what: impl FnOnce() -> String, bytes: &[u8]) -> Result<&str, Rejection> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to() + 1;
        let detail = format!("{} is not UTF-8 from byte {at} on. Send UTF-8.", what());
        Rejection::new(Reason::InvalidUnicode, detail)
    })
}
