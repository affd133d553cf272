//! JSON text that Postgres will take as `jsonb`.

use std::fmt;
use std::ops::ControlFlow;

use bytestring::ByteString;
use serde_json::value::RawValue;

use super::rejection::{Reason, Rejection};

/// The text of a JSON object that `jsonb` accepts and stores without loss.
///
/// JSON allows more than `jsonb` does: NUL characters, half surrogate pairs and numbers of any
/// size are refused by Postgres, which would undo a whole batch; endless nesting exhausts its
/// stack. Whoever holds this type need not think about any of that.
///
/// `Debug` shows the length only: profiles are personal data.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonObject(ByteString);

impl JsonObject {
    /// How deep arrays and objects may nest, the object itself being the first level.
    pub const MAX_DEPTH: usize = 128;
    /// The longest number, in characters.
    pub const MAX_NUMBER_LENGTH: usize = 1100;
    /// The greatest exponent of a number, either way.
    pub const MAX_EXPONENT: usize = 400;
    /// The longest text, in bytes. Postgres fails with `XX000` on an array of more than 2^24
    /// elements and with `54000` when a value takes more than 256 MiB, which can be six times its
    /// text. Both are beyond reach of this many bytes, so nothing needs to be counted.
    pub const MAX_BYTES: usize = 32 << 20;

    /// The object without members.
    pub fn empty() -> Self {
        Self("{}".into())
    }

    /// Takes a text as data. Positions in errors are bytes, counted from the first of the text.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let value = serde_json::from_str(text).map_err(|error| syntax("`data`", &error))?;
        Self::of(value, |text| text.to_owned().into())
    }

    /// Takes a value whose syntax is known to be JSON's. `keep` makes its text last.
    pub(super) fn of<'a>(
        value: &'a RawValue,
        keep: impl FnOnce(&'a str) -> ByteString,
    ) -> Result<Self, Rejection> {
        let text = value.get();
        if !text.starts_with('{') {
            let detail = format!("`data` is {}. Send a JSON object in `data`.", type_of(text));
            return Err(Rejection::new(Reason::NotAnObject, detail));
        }
        if text.len() > Self::MAX_BYTES {
            let (length, limit) = (text.len(), Self::MAX_BYTES);
            let detail = format!("`data` has {length} bytes. Send at most {limit}.");
            return Err(Rejection::new(Reason::TooLarge, detail));
        }
        match scan(text.as_bytes()) {
            ControlFlow::Continue(()) => Ok(Self(keep(text))),
            ControlFlow::Break(flaw) => Err(flaw.explain()),
        }
    }

    /// The JSON text, as the producer wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JsonObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonObject({} bytes)", self.0.len())
    }
}

/// What kind of value a JSON text is, with its article.
pub(super) fn type_of(text: &str) -> &'static str {
    match text.bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Explains a text that is not JSON. Only errors of syntax come here: their messages quote
/// nothing and end in line and column.
pub(super) fn syntax(what: &str, error: &serde_json::Error) -> Rejection {
    let detail = format!("The text of {what} is not JSON: {error}. Send one JSON object in UTF-8.");
    Rejection::new(Reason::NotJson, detail)
}

/// What `jsonb` would refuse, and where.
struct Flaw {
    reason: Reason,
    at: usize,
}

impl Flaw {
    fn explain(&self) -> Rejection {
        let (is, send) = match self.reason {
            Reason::NulCharacter => (
                "has a NUL character (\\u0000)".to_owned(),
                "Leave it out: Postgres text cannot hold it.".to_owned(),
            ),
            Reason::InvalidUnicode => (
                "has half of a surrogate pair".to_owned(),
                "Send characters beyond U+FFFF as both halves, or as UTF-8.".to_owned(),
            ),
            Reason::NumberOutOfRange => (
                "has a number that is too long or too large".to_owned(),
                format!(
                    "Send at most {} characters and an exponent within {}, or send a string.",
                    JsonObject::MAX_NUMBER_LENGTH,
                    JsonObject::MAX_EXPONENT
                ),
            ),
            _ => (
                "nests arrays and objects too deeply".to_owned(),
                format!("Send at most {} levels.", JsonObject::MAX_DEPTH),
            ),
        };
        let at = self.at + 1;
        Rejection::new(self.reason, format!("`data` {is} at byte {at}. {send}"))
    }
}

type Scan<T> = ControlFlow<Flaw, T>;

fn flaw<T>(reason: Reason, at: usize) -> Scan<T> {
    ControlFlow::Break(Flaw { reason, at })
}

/// Looks once at every byte of a text that is known to be JSON. Neither recurses nor allocates.
fn scan(text: &[u8]) -> Scan<()> {
    let mut depth = 0;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at = match byte {
            b'"' => string(text, at + 1)?,
            b'-' | b'0'..=b'9' => number(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > JsonObject::MAX_DEPTH {
                    return flaw(Reason::TooDeep, at);
                }
                at + 1
            }
            b'}' | b']' => {
                depth -= 1;
                at + 1
            }
            _ => at + 1,
        };
    }
    ControlFlow::Continue(())
}

/// Scans a string from behind its opening quote; answers the position behind its closing one.
fn string(text: &[u8], mut at: usize) -> Scan<usize> {
    loop {
        at += text[at..].iter().take_while(|&&byte| byte != b'"' && byte != b'\\').count();
        at = match text.get(at..) {
            Some([b'\\', b'u', ..]) => match code_unit(text, at) {
                Some(0) => return flaw(Reason::NulCharacter, at),
                Some(0xd800..=0xdbff) => match code_unit(text, at + 6) {
                    Some(0xdc00..=0xdfff) => at + 12,
                    _ => return flaw(Reason::InvalidUnicode, at),
                },
                Some(0xdc00..=0xdfff) => return flaw(Reason::InvalidUnicode, at),
                _ => at + 6,
            },
            Some([b'\\', ..]) => at + 2,
            _ => return ControlFlow::Continue(at + 1),
        }
    }
}

/// The UTF-16 code unit that the six bytes `\uXXXX` name, if there are such.
fn code_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Scans a number; answers the position behind it.
fn number(text: &[u8], start: usize) -> Scan<usize> {
    let part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let length = text[start..].iter().take_while(part).count();
    let number = &text[start..start + length];
    let exponent = number.iter().position(|byte| matches!(byte, b'e' | b'E')).map(|e| {
        let digits = number[e + 1..].iter().filter(|byte| byte.is_ascii_digit());
        digits.fold(0_usize, |sum, d| sum.saturating_mul(10).saturating_add(usize::from(d - b'0')))
    });
    if length > JsonObject::MAX_NUMBER_LENGTH || exponent > Some(JsonObject::MAX_EXPONENT) {
        return flaw(Reason::NumberOutOfRange, start);
    }
    ControlFlow::Continue(start + length)
}
