//! The fold against the model, the model against hand-made cases, patches against plain JSON.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::{Map, Value};
use time::Duration;

use super::*;
use crate::event::model::{UserRow, apply_one};
use crate::event::{EventId, JsonObject, UserId};

fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(second)
}

fn event(kind: &str, second: i64, sequence: Option<i64>, data: &str) -> Event {
    Event {
        id: EventId::of("/test", "1"),
        time: at(second),
        source: "/test".into(),
        kind: EventKind::from_type(kind.to_owned().into()),
        user_id: UserId::new("u").unwrap(),
        sequence: sequence.and_then(Sequence::new),
        data: JsonObject::parse(data).unwrap(),
        trace: None,
    }
}

/// Applies events one at a time and shows the row: profile, sequence, created, updated, deleted,
/// last, count.
fn history(events: &[Event]) -> String {
    let mut gate = SequenceGate::default();
    let step = |row, event: &Event| Some(apply_one(row, event, gate.admit(event.sequence)));
    let row = events.iter().fold(None, step).unwrap();
    let seconds = |time: Option<OffsetDateTime>| time.map(OffsetDateTime::unix_timestamp);
    format!(
        "{} {:?} {:?} {:?} {:?} {:?} {}",
        row.profile.to_json(),
        row.sequence.map(Sequence::get),
        seconds(Some(row.created_at)),
        seconds(row.updated_at),
        seconds(row.deleted_at),
        seconds(Some(row.last_event_at)),
        row.event_count
    )
    .replace("Some", "")
}

#[test]
fn the_model_says_what_the_contract_says() {
    let created = |t| event("user.created", t, None, r#"{"a":1,"b":{"x":null},"c":null}"#);
    let updated = |t| event("user.updated", t, None, r#"{"b":null,"d":{"y":2}}"#);
    let deleted = |t| event("user.deleted", t, None, r#"{"ignored":1}"#);
    let login = |t| event("login", t, None, r#"{"ignored":1}"#);
    let numbered = |t, n| event("user.updated", t, Some(n), &format!(r#"{{"n":{n}}}"#));
    let cases: &[(&[Event], &str)] = &[
        (&[login(5)], "{} None (5) None None (5) 1"),
        (&[created(5)], r#"{"a":1,"b":{"x":null}} None (5) (5) None (5) 1"#),
        (&[updated(5)], r#"{"d":{"y":2}} None (5) (5) None (5) 1"#),
        (&[deleted(5)], "{} None (5) None (5) (5) 1"),
        (&[login(5), created(3)], r#"{"a":1,"b":{"x":null}} None (5) (3) None (5) 2"#),
        (&[created(5), updated(6)], r#"{"a":1,"d":{"y":2}} None (5) (6) None (6) 2"#),
        (&[updated(6), created(7)], r#"{"a":1,"b":{"x":null}} None (6) (7) None (7) 2"#),
        (&[created(5), deleted(6)], "{} None (5) (5) (6) (6) 2"),
        (&[created(5), deleted(6), updated(7), login(8)], "{} None (5) (5) (6) (8) 4"),
        (&[deleted(6), created(4)], r#"{"a":1,"b":{"x":null}} None (6) (4) None (6) 2"#),
        (&[deleted(6), deleted(7)], "{} None (6) None (7) (7) 2"),
        (&[numbered(5, 3), numbered(9, 3)], r#"{"n":3} (3) (5) (5) None (9) 2"#),
        (&[numbered(5, 3), numbered(9, 2)], r#"{"n":3} (3) (5) (5) None (9) 2"#),
        (&[numbered(5, 3), numbered(4, 4)], r#"{"n":4} (4) (5) (4) None (5) 2"#),
        (&[numbered(5, 3), login(6), numbered(7, 2)], r#"{"n":3} (3) (5) (5) None (7) 3"#),
        (&[deleted(5), numbered(6, 3), deleted(7)], "{} (3) (5) None (7) (7) 3"),
        (&[numbered(5, 0)], r#"{"n":0} (0) (5) (5) None (5) 1"#),
    ];
    for (events, expected) in cases {
        assert_eq!(history(events), *expected, "{events:?}");
    }
}

#[test]
fn debug_tells_nothing_of_a_profile() {
    let change = UserChange::of(&event("user.updated", 1, None, r#"{"name":"canary","k":null}"#));
    let row = change.clone().apply_to(None);
    let shown = format!("{change:?} {row:?}");
    assert!(!shown.contains("canary") && !shown.contains("name"), "{shown}");
}

prop_compose! {
    /// An object of few names, so that they meet, with repeated ones and nulls.
    fn object()(members in prop::collection::vec((0..4u8, 0..4u8), 0..5)) -> String {
        let value = |v: &u8| if *v == 0 { "null".to_owned() } else { format!(r#"{{"v":{v},"n":null}}"#) };
        let member = |(k, v): &(u8, u8)| format!(r#""k{k}":{}"#, value(v));
        format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
    }
}

prop_compose! {
    fn any_event()(
        kind in prop::sample::select(vec![
            "user.created", "user.updated", "user.updated", "user.deleted", "login",
        ]),
        second in 0..100i64,
        sequence in prop::option::of(0..12i64),
        data in object(),
    ) -> Event {
        event(kind, second, sequence, &data)
    }
}

/// A stored user, or none: whatever a history of events can leave behind.
fn start() -> impl Strategy<Value = Option<UserRow>> {
    prop::collection::vec((any_event(), any::<bool>()), 0..4).prop_map(|history| {
        history.iter().fold(None, |row, (event, fresh)| {
            let verdict = if *fresh { Verdict::Fresh } else { Verdict::Stale };
            Some(apply_one(row, event, verdict))
        })
    })
}

fn fold(changes: impl IntoIterator<Item = UserChange>) -> Option<UserChange> {
    changes.into_iter().reduce(UserChange::then)
}

fn change(event: &Event, verdict: Verdict) -> UserChange {
    match verdict {
        Verdict::Fresh => UserChange::of(event),
        Verdict::Stale => UserChange::stale(event),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn any_split_into_batches_equals_one_at_a_time(
        start in start(),
        events in prop::collection::vec((any_event(), 1..5usize), 1..16),
    ) {
        let last = start.as_ref().and_then(|row| row.sequence);
        let mut gate = SequenceGate::new(last);
        let single = events.iter().fold(start.clone(), |row, (event, _)| {
            Some(apply_one(row, event, gate.admit(event.sequence)))
        });

        let mut batched = start;
        let mut rest = events.as_slice();
        while let Some((_, length)) = rest.first() {
            let (batch, later) = rest.split_at((*length).min(rest.len()));
            let mut gate = SequenceGate::new(batched.as_ref().and_then(|row| row.sequence));
            let changes = batch.iter().map(|(event, _)| change(event, gate.admit(event.sequence)));
            batched = Some(fold(changes).unwrap().apply_to(batched));
            rest = later;
        }
        prop_assert_eq!(batched, single);
    }

    #[test]
    fn folding_is_associative(
        events in prop::collection::vec((any_event(), any::<bool>()), 3..9),
        cuts in (0..100usize, 0..100usize),
    ) {
        let changes: Vec<_> = events.iter().map(|(event, fresh)| {
            change(event, if *fresh { Verdict::Fresh } else { Verdict::Stale })
        }).collect();
        let first = 1 + cuts.0 % (changes.len() - 2);
        let second = first + 1 + cuts.1 % (changes.len() - first - 1);
        let part = |range: std::ops::Range<usize>| fold(changes[range].iter().cloned()).unwrap();
        let (a, b, c) = (part(0..first), part(first..second), part(second..changes.len()));
        prop_assert_eq!(a.clone().then(b.clone()).then(c.clone()), a.then(b.then(c)));
    }

    #[test]
    fn patches_do_what_they_say(objects in prop::collection::vec(object(), 1..6)) {
        // Against another way to merge: `Value` knows nothing of `Members` and `Patch`.
        let mut plain = Map::new();
        for object in &objects {
            let members: Map<String, Value> = serde_json::from_str(object).unwrap();
            for (name, value) in members {
                if value.is_null() { plain.remove(&name); } else { plain.insert(name, value); }
            }
        }
        let patches = objects.iter().map(|text| Patch::of(&JsonObject::parse(text).unwrap()));
        let folded = patches.reduce(Patch::then).unwrap();
        let set: Map<String, Value> = serde_json::from_str(&folded.set().to_json()).unwrap();
        prop_assert!(folded.remove().all(|name| !set.contains_key(name)));
        prop_assert!(set.values().all(|value| !value.is_null()));
        let mut members = Members::default();
        members.apply(folded);
        let members: Map<String, Value> = serde_json::from_str(&members.to_json()).unwrap();
        prop_assert_eq!(members, plain);
    }
}
