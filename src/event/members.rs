//! The top-level members of a profile, and changes to them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::value::RawValue;

use super::json::JsonObject;

/// The top-level members of a profile, their values kept as the JSON text they came in.
///
/// `Debug` shows nothing of them: profiles are personal data.
#[derive(Clone)]
pub struct Members(Form);

/// Most changes are one event's, and go to Postgres as they came: only those that meet another are
/// taken apart.
#[derive(Clone)]
enum Form {
    AsSent(JsonObject),
    ByName(ByName),
}

/// Of a repeated name the last counts, as in `jsonb`.
type ByName = BTreeMap<String, Box<RawValue>>;

/// The only text of a null.
const NULL: &str = "null";

impl Default for Members {
    fn default() -> Self {
        Self(Form::ByName(ByName::new()))
    }
}

impl Members {
    /// The members of an object, nulls included.
    pub fn of(object: &JsonObject) -> Self {
        Self(Form::AsSent(object.clone()))
    }

    /// Without those that are null.
    pub fn without_nulls(self) -> Self {
        Patch::from(self).set
    }

    fn by_name(&self) -> Cow<'_, ByName> {
        match &self.0 {
            Form::AsSent(object) => Cow::Owned(parse(object)),
            Form::ByName(members) => Cow::Borrowed(members),
        }
    }

    fn into_by_name(self) -> ByName {
        match self.0 {
            Form::AsSent(object) => parse(&object),
            Form::ByName(members) => members,
        }
    }

    fn taken_apart(self) -> Self {
        Self(Form::ByName(self.into_by_name()))
    }

    /// As the text of one JSON object, in which a name may be repeated if it was sent so.
    pub fn to_json(&self) -> Cow<'_, str> {
        match &self.0 {
            Form::AsSent(object) => object.as_str().into(),
            // Names and raw values always serialize.
            Form::ByName(members) => serde_json::to_string(members).unwrap_or_default().into(),
        }
    }

    /// Merges a patch into these: its values replace, its removals remove.
    pub fn apply(&mut self, patch: Patch) {
        let mut members = std::mem::take(self).into_by_name();
        members.retain(|name, _| !patch.remove.contains(name));
        members.extend(patch.set.into_by_name());
        self.0 = Form::ByName(members);
    }
}

/// What a [`JsonObject`] holds can always be read like this.
fn parse(object: &JsonObject) -> ByName {
    serde_json::from_str(object.as_str()).unwrap_or_default()
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.by_name(), other.by_name());
        let ours = ours.iter().map(|(name, value)| (name, value.get()));
        ours.eq(theirs.iter().map(|(name, value)| (name, value.get())))
    }
}

impl Eq for Members {}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Members(..)")
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

impl From<Members> for Patch {
    /// Null removes, anything else sets.
    fn from(members: Members) -> Self {
        if matches!(&members.0, Form::AsSent(object) if !object.as_str().contains(NULL)) {
            return Self { set: members, remove: BTreeSet::new() };
        }
        let is_null = |_: &String, value: &mut Box<RawValue>| value.get() == NULL;
        let mut set = members.into_by_name();
        let remove = set.extract_if(.., is_null).map(|(name, _)| name).collect();
        Self { set: Members(Form::ByName(set)), remove }
    }
}

impl Patch {
    /// The change that an object asks for.
    pub fn of(object: &JsonObject) -> Self {
        Members::of(object).into()
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
        let next = Self { set: next.set.taken_apart(), ..next };
        self.remove.retain(|name| !next.set.by_name().contains_key(name));
        self.remove.extend(next.remove.iter().cloned());
        self.set.apply(next);
        self
    }
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patch(.., {} removed)", self.remove.len())
    }
}
