//! What events are about: types, sources, profiles, activity.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

const GIVEN_NAMES: [&str; 10] =
    ["Ada", "Björn", "Chloé", "Đorđe", "Emeka", "Fatima", "Grace", "Hiroshi", "美玲", "Zoë"];
const FAMILY_NAMES: [&str; 10] = [
    "Adeyemi",
    "García",
    "Hansen",
    "Kovač",
    "Lindqvist",
    "Müller",
    "Okafor",
    "Sato",
    "Smith",
    "王",
];
const COUNTRIES: [&str; 8] = ["BR", "DE", "FR", "IN", "JP", "NG", "SE", "US"];
const PLANS: [&str; 3] = ["free", "plus", "team"];
const PAGES: [&str; 6] = ["/", "/account", "/cart", "/help", "/prices", "/search"];
const WORDS: [&str; 24] = [
    "account", "again", "basket", "blue", "checkout", "customer", "delivery", "first", "garden",
    "gift", "green", "large", "later", "letter", "monday", "offer", "order", "parcel", "paper",
    "question", "small", "street", "thanks", "window",
];

/// Types of activity, as often as listed.
const ACTIVITIES: [&str; 10] = [
    "page.viewed",
    "page.viewed",
    "page.viewed",
    "page.viewed",
    "session.started",
    "session.started",
    "item.added",
    "item.added",
    "search.made",
    "order.placed",
];

/// A type of activity.
pub(super) fn activity(rng: &mut impl Rng) -> &'static str {
    pick(&ACTIVITIES, rng)
}

/// The service that sends events of this type.
pub(super) fn source(kind: &str) -> &'static str {
    match kind {
        "user.created" | "user.updated" | "user.deleted" => "/accounts",
        "order.placed" | "item.added" => "/shop",
        _ => "/web",
    }
}

/// The data of an event of this type, as JSON text that ends in a member.
pub(super) fn of(kind: &str, user: usize, rng: &mut impl Rng) -> String {
    match kind {
        "user.created" => format!(
            r#"{{"name":"{} {}","email":"user-{user}@example.org","country":"{}","plan":"{}","phone":{}}}"#,
            pick(&GIVEN_NAMES, rng),
            pick(&FAMILY_NAMES, rng),
            pick(&COUNTRIES, rng),
            pick(&PLANS, rng),
            optional(&phone(rng), rng),
        ),
        "user.updated" => match rng.random_range(0..4) {
            0 => format!(r#"{{"plan":"{}"}}"#, pick(&PLANS, rng)),
            1 => format!(r#"{{"country":"{}","phone":null}}"#, pick(&COUNTRIES, rng)),
            2 => format!(r#"{{"phone":{}}}"#, optional(&phone(rng), rng)),
            _ => format!(
                r#"{{"settings":{{"language":"{}","newsletter":{},"theme":null}}}}"#,
                pick(&COUNTRIES, rng).to_lowercase(),
                rng.random::<bool>()
            ),
        },
        "user.deleted" => r#"{"reason":"requested"}"#.to_owned(),
        "order.placed" => format!(
            r#"{{"order":{},"amount":{}.{:02},"currency":"EUR","items":[{},{}]}}"#,
            rng.random_range(1..10_000_000),
            rng.random_range(1..500),
            rng.random_range(0..100),
            rng.random_range(1..5_000),
            rng.random_range(1..5_000),
        ),
        "item.added" => format!(
            r#"{{"item":{},"quantity":{}}}"#,
            rng.random_range(1..5_000),
            rng.random_range(1..5)
        ),
        "search.made" => format!(
            r#"{{"words":"{} {}","hits":{}}}"#,
            pick(&WORDS, rng),
            pick(&WORDS, rng),
            rng.random_range(0..1_000)
        ),
        _ => format!(
            r#"{{"page":"{}","milliseconds":{}}}"#,
            pick(&PAGES, rng),
            rng.random_range(5..3_000)
        ),
    }
}

/// Some thousands of characters of words. ASCII, so that it may be cut anywhere, and without
/// anything JSON would escape.
pub(super) fn prose(rng: &mut impl Rng) -> String {
    let words: Vec<&str> = (0..2_048).map(|_| pick(&WORDS, rng)).collect();
    words.join(" ")
}

fn phone(rng: &mut impl Rng) -> String {
    format!("\"+49 30 {}\"", rng.random_range(1_000_000..9_999_999))
}

fn optional<'a>(json: &'a str, rng: &mut impl Rng) -> &'a str {
    if rng.random_ratio(1, 3) { "null" } else { json }
}

fn pick<'a>(choices: &[&'a str], rng: &mut impl Rng) -> &'a str {
    choices.choose(rng).copied().unwrap_or_default()
}
