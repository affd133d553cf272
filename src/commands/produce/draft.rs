//! An event about to be written, in either CloudEvents binding.

use std::borrow::Cow;

use crate::event::Header;

type Text = Cow<'static, str>;

/// The attributes and data of an event. Whatever is `None` is left out.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) specversion: Text,
    pub(super) id: Option<Text>,
    pub(super) source: Option<Text>,
    pub(super) kind: Option<Text>,
    pub(super) subject: Option<Text>,
    pub(super) time: Option<Text>,
    pub(super) sequence: Option<Text>,
    /// JSON text.
    pub(super) data: String,
}

impl Draft {
    fn attributes(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let optional = [
            ("ce_id", &self.id),
            ("ce_source", &self.source),
            ("ce_type", &self.kind),
            ("ce_subject", &self.subject),
            ("ce_time", &self.time),
            ("ce_sequence", &self.sequence),
        ];
        let present =
            optional.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?)));
        std::iter::once(("ce_specversion", self.specversion.as_ref())).chain(present)
    }

    /// The value of the structured binding: one JSON object with everything in it.
    pub(super) fn structured(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.data.len() + 320);
        for (name, text) in self.attributes() {
            value.extend_from_slice(if value.is_empty() { b"{\"" } else { b",\"" });
            value.extend_from_slice(name.trim_start_matches("ce_").as_bytes());
            value.extend_from_slice(b"\":");
            push_json(&mut value, text);
        }
        value.extend_from_slice(b",\"data\":");
        value.extend_from_slice(self.data.as_bytes());
        value.push(b'}');
        value
    }

    /// Headers and value of the binary binding: attributes outside, the data inside.
    pub(super) fn binary(self) -> (Vec<Header>, Vec<u8>) {
        let mut headers: Vec<Header> =
            self.attributes().map(|(name, text)| header(name, text)).collect();
        headers.push(header("content-type", "application/json"));
        (headers, self.data.into_bytes())
    }
}

/// A header of text.
pub(super) fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: Some(value.to_owned().into()) }
}

/// Appends a text as JSON string.
fn push_json(out: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|b| b < 0x20 || b == b'"' || b == b'\\') {
        out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        Draft {
            specversion: "1.0".into(),
            id: Some("1".into()),
            source: Some("/shop".into()),
            kind: Some("user.created".into()),
            subject: Some("he said \"\u{0}\"".into()),
            time: None,
            sequence: Some("7".into()),
            data: r#"{"a":[1]}"#.to_owned(),
        }
    }

    #[test]
    fn both_bindings_say_the_same() {
        let value: serde_json::Value = serde_json::from_slice(&draft().structured()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "specversion": "1.0", "id": "1", "source": "/shop", "type": "user.created",
                "subject": "he said \"\u{0}\"", "sequence": "7", "data": {"a": [1]},
            })
        );
        let (headers, data) = draft().binary();
        assert_eq!(data, br#"{"a":[1]}"#);
        for (name, text) in value.as_object().unwrap().iter().filter(|(name, _)| *name != "data") {
            assert!(headers.contains(&header(&format!("ce_{name}"), text.as_str().unwrap())));
        }
        assert_eq!(headers.len(), 7);
    }
}
