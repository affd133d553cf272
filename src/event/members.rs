//! The top-level members of a profile, and changes to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::value::RawValue;

use super::json::JsonObject;

/// The top-level members of a profile, their values kept as the JSON text they came in.
///
/// `Debug` shows their number only: profiles are personal data.
#[derive(Clone, Default)]
pub struct Members(BTreeMap<String, Box<RawValue>>);

impl Members {
    /// The members of an object, nulls included. Of a repeated name the last counts, as in `jsonb`.
    pub fn of(object: &JsonObject) -> Self {
        // What a `JsonObject` holds can always be read like this.
        Self(serde_json::from_str(object.as_str()).unwrap_or_default())
    }

    /// Without those that are null.
    pub fn without_nulls(mut self) -> Self {
        self.0.retain(|_, value| !is_null(value));
        self
    }

    /// Names and values (JSON texts), ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.get()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the text of one JSON object.
    pub fn to_json(&self) -> String {
        // Names and raw values always serialize.
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// Merges a patch into these: its values replace, its removals remove.
    pub fn apply(&mut self, patch: Patch) {
        self.0.retain(|name, _| !patch.remove.contains(name));
        self.0.extend(patch.set.0);
    }
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Members {}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Members({})", self.0.len())
    }
}

/// A change to the top-level members of a profile: some are set, others removed, the rest stays.
/// No name is in both, so it does not matter which is done first.
///
/// `Debug` shows numbers only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Patch {
    set: Members,
    remove: BTreeSet<String>,
}

impl Patch {
    /// The change that an object asks for: null removes, anything else sets.
    pub fn of(object: &JsonObject) -> Self {
        let (mut set, mut remove) = (Members::of(object), BTreeSet::new());
        set.0.retain(|name, value| {
            let null = is_null(value);
            if null {
                remove.insert(name.clone());
            }
            !null
        });
        Self { set, remove }
    }

    /// The members to set. None of them is null.
    pub fn set(&self) -> &Members {
        &self.set
    }

    /// The names to remove, in order.
    pub fn remove(&self) -> impl ExactSizeIterator<Item = &str> {
        self.remove.iter().map(String::as_str)
    }

    /// This change and then another, as one.
    pub fn then(mut self, next: Self) -> Self {
        self.remove.retain(|name| !next.set.0.contains_key(name));
        self.remove.extend(next.remove.iter().cloned());
        self.set.apply(next);
        self
    }
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patch({} set, {} removed)", self.set.0.len(), self.remove.len())
    }
}
