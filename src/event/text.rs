//! What every short text of the contract has in common.

use std::fmt;

/// What is wrong with a text that should identify something. Lengths and positions in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFlaw {
    /// It has no characters.
    Empty,
    /// It is longer than allowed.
    TooLong {
        /// Its length.
        length: usize,
        /// The greatest length allowed.
        limit: usize,
    },
    /// It contains U+0000, which Postgres cannot store.
    Nul {
        /// Bytes before the character.
        at: usize,
    },
    /// It contains another control character (U+0001-001F, U+007F-009F), which CloudEvents
    /// forbids in attributes.
    Control {
        /// Bytes before the character.
        at: usize,
    },
}

impl fmt::Display for TextFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::TooLong { length, limit } => {
                write!(f, "is {length} bytes long, more than the {limit} allowed")
            }
            Self::Nul { at } => write!(f, "has a NUL character at byte {at}"),
            Self::Control { at } => write!(f, "has a control character at byte {at}"),
        }
    }
}

impl std::error::Error for TextFlaw {}

/// Checks that `text` has 1 to `limit` bytes and no control character.
pub(super) fn check(text: &str, limit: usize) -> Result<(), TextFlaw> {
    if text.is_empty() {
        return Err(TextFlaw::Empty);
    }
    if text.len() > limit {
        return Err(TextFlaw::TooLong { length: text.len(), limit });
    }
    // U+0080-009F begin with 0xC2, as harmless characters do: a quick look at the bytes decides
    // nearly always, a look at the characters decides the rest.
    if !any(text, |b| b < 0x20 || b == 0x7f || b == 0xc2) {
        return Ok(());
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        None => Ok(()),
        Some((at, '\0')) => Err(TextFlaw::Nul { at }),
        Some((at, _)) => Err(TextFlaw::Control { at }),
    }
}

/// Whether any byte is such a one. Looks at all of them, which is faster than to stop at the first:
/// the compiler takes sixteen at a time.
pub(super) fn any(text: &str, such: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(false, |found, byte| found | such(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_found_wherever_they_hide() {
        for c in ('\0'..='\u{2ff}').chain(['\u{2028}', '\u{ffff}', '\u{10ffff}']) {
            let text = format!("a{c}b");
            let expected = match c {
                '\0' => Err(TextFlaw::Nul { at: 1 }),
                '\u{1}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => Err(TextFlaw::Control { at: 1 }),
                _ => Ok(()),
            };
            assert_eq!(check(&text, 10), expected, "{:x}", u32::from(c));
        }
    }

    #[test]
    fn lengths_are_bytes() {
        assert_eq!(check("", 4), Err(TextFlaw::Empty));
        assert_eq!(check("äö", 4), Ok(()));
        assert_eq!(check("äöx", 4), Err(TextFlaw::TooLong { length: 5, limit: 4 }));
    }
}
