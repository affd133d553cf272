//! Building records, well-formed and otherwise.

use rdkafka::message::{Header, OwnedHeaders};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A record to send: by default a structured CloudEvent whose key is the user.
#[derive(Clone, Debug)]
pub struct EventBuilder {
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub timestamp_ms: Option<i64>,
    pub raw: Option<Option<Vec<u8>>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub attributes: serde_json::Map<String, serde_json::Value>,
    pub data: String,
    pub binary: bool,
}

/// An event of `user` with the given id and type, happening now.
pub fn event(user: &str, id: &str, kind: &str) -> EventBuilder {
    let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap();
    let mut builder = EventBuilder {
        partition: None,
        key: Some(user.into()),
        timestamp_ms: None,
        raw: None,
        headers: vec![],
        attributes: serde_json::Map::new(),
        data: "{}".into(),
        binary: false,
    };
    for (name, value) in [
        ("specversion", "1.0"),
        ("id", id),
        ("source", "test"),
        ("type", kind),
        ("subject", user),
        ("time", &now),
    ] {
        builder.attributes.insert(name.into(), value.into());
    }
    builder
}

impl EventBuilder {
    /// Sets an attribute.
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// Takes an attribute away.
    pub fn without(mut self, name: &str) -> Self {
        self.attributes.remove(name);
        self
    }

    /// The JSON text of `data`, as it is.
    pub fn data(mut self, json: &str) -> Self {
        self.data = json.into();
        self
    }

    /// RFC 3339.
    pub fn time(self, at: &str) -> Self {
        self.with("time", at)
    }

    /// The same, from a time.
    pub fn at(self, at: OffsetDateTime) -> Self {
        self.time(&at.format(&Rfc3339).unwrap())
    }

    /// The user's own version.
    pub fn sequence(self, number: i64) -> Self {
        self.with("sequence", number.to_string())
    }

    /// To this partition, whatever the key.
    pub fn to(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// With this record timestamp, in milliseconds since 1970.
    pub fn sent_at(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Attributes in `ce_` headers, `data` as the value.
    pub fn binary(mut self) -> Self {
        self.binary = true;
        self
    }

    /// One more header.
    pub fn header(mut self, name: &str, value: Option<&[u8]>) -> Self {
        self.headers.push((name.into(), value.map(<[u8]>::to_vec)));
        self
    }

    /// These bytes as the value, whatever else was said; `None` is a tombstone.
    pub fn raw(mut self, value: Option<&[u8]>) -> Self {
        self.raw = Some(value.map(<[u8]>::to_vec));
        self
    }

    /// This key.
    pub fn key(mut self, key: Option<&[u8]>) -> Self {
        self.key = key.map(<[u8]>::to_vec);
        self
    }

    /// The value as it goes to Kafka.
    pub fn value(&self) -> Option<Vec<u8>> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        if self.binary {
            return Some(self.data.clone().into_bytes());
        }
        let mut text = serde_json::to_string(&self.attributes).unwrap();
        text.pop();
        if text.len() > 1 {
            text.push(',');
        }
        Some(format!("{text}\"data\":{}}}", self.data).into_bytes())
    }

    /// The headers as they go to Kafka.
    pub fn kafka_headers(&self) -> OwnedHeaders {
        let mut headers = OwnedHeaders::new();
        if self.binary {
            for (name, value) in &self.attributes {
                let value = value.as_str().map(str::to_owned).unwrap_or_else(|| value.to_string());
                headers =
                    headers.insert(Header { key: &format!("ce_{name}"), value: Some(&value) });
            }
        }
        for (name, value) in &self.headers {
            headers = headers.insert(Header { key: name, value: value.as_deref() });
        }
        headers
    }
}
