//! The structured binding: the value is one JSON object with everything in it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::attributes::{Attribute, Binding, Envelope, trace, utf8};
use super::envelope::TraceContext;
use super::json;
use super::record::RawRecord;
use super::rejection::{Reason, Rejection};
use super::text;

/// Reads the value. Trace headers count here too: whoever instruments a producer sets headers
/// and knows nothing of its payload.
pub(super) fn read<'a>(record: &'a RawRecord, value: &'a [u8]) -> Result<Envelope<'a>, Rejection> {
    let text = utf8(|| "The value".to_owned(), value)?;
    let object: Object<'a> = serde_json::from_str(text).map_err(|error| no_object(text, &error))?;
    if object.get(Attribute::DataBase64).is_some() {
        let detail = "Attribute `data_base64` is not supported. Send a JSON object in `data`.";
        return Err(Rejection::new(Reason::InvalidAttribute, detail));
    }
    Ok(Envelope {
        binding: Binding::Structured,
        specversion: object.text(Attribute::SpecVersion)?,
        id: object.text(Attribute::Id)?,
        source: object.text(Attribute::Source)?,
        kind: object.text(Attribute::Type)?,
        subject: object.text(Attribute::Subject)?,
        time: object.text(Attribute::Time)?,
        sequence: object.text_or_number(Attribute::Sequence)?,
        trace: trace(record, "traceparent", "tracestate").or_else(|| object.trace()),
        data: object.get(Attribute::Data),
    })
}

/// The members of the value that are attributes, as raw text. A repeated one counts as it stands
/// last, as `jsonb` would have it; a null one is absent.
///
/// Raw text, because the type of an attribute is the producer's affair and deserves an answer of
/// its own: a wrong one must not look like a syntax error, nor matter when a later member of
/// that name replaces it.
struct Object<'a>([Option<&'a RawValue>; Attribute::COUNT]);

impl<'a> Object<'a> {
    fn get(&self, attribute: Attribute) -> Option<&'a RawValue> {
        self.0[attribute as usize]
    }

    fn text(&self, attribute: Attribute) -> Result<Option<Cow<'a, str>>, Rejection> {
        let Some(json) = self.get(attribute).map(RawValue::get) else { return Ok(None) };
        let Some(inner) = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            let (label, found) = (Binding::Structured.label(attribute), json::type_of(json));
            let detail = format!("{label} is {found}. Send a JSON string.");
            return Err(Rejection::new(Reason::InvalidAttribute, detail));
        };
        if !text::any(inner, |byte| byte == b'\\') {
            return Ok(Some(Cow::Borrowed(inner)));
        }
        // The syntax was good, so what can still be wrong is what an escape stands for.
        let unescaped = serde_json::from_str(json).map_err(|_| {
            let label = Binding::Structured.label(attribute);
            let detail = format!(
                "{label} has half of a surrogate pair. \
                 Send characters beyond U+FFFF as both halves, or as UTF-8."
            );
            Rejection::new(Reason::InvalidUnicode, detail)
        })?;
        Ok(Some(Cow::Owned(unescaped)))
    }

    fn text_or_number(&self, attribute: Attribute) -> Result<Option<Cow<'a, str>>, Rejection> {
        match self.get(attribute).map(RawValue::get) {
            Some(json) if json::type_of(json) == "a number" => Ok(Some(Cow::Borrowed(json))),
            _ => self.text(attribute),
        }
    }

    fn trace(&self) -> Option<TraceContext> {
        let text = |attribute| self.text(attribute).ok().flatten();
        TraceContext::new(&text(Attribute::TraceParent)?, text(Attribute::TraceState).as_deref())
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut object = Object([None; Attribute::COUNT]);
                while let Some(attribute) = map.next_key::<Attribute>()? {
                    object.0[attribute as usize] = map.next_value()?;
                }
                Ok(object)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// Explains why the value could not be read as [`Object`], by looking again more patiently.
#[cold]
fn no_object(text: &str, error: &serde_json::Error) -> Rejection {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return json::syntax("the value", &error);
    }
    let found = json::type_of(text.trim_start());
    if found == "an object" {
        // Good syntax and the right type: it was a name that could not be unescaped.
        let detail = format!(
            "A name in the value has half of a surrogate pair, near line {} column {}. \
             Send characters beyond U+FFFF as both halves, or as UTF-8.",
            error.line(),
            error.column()
        );
        return Rejection::new(Reason::InvalidUnicode, detail);
    }
    let detail = format!("The value is {found}. Send one CloudEvent per record, as a JSON object.");
    Rejection::new(Reason::NotAnObject, detail)
}
