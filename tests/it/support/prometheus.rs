//! Prometheus' text format, read as strictly as it is written down.

use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

/// A page of metrics.
#[derive(Debug)]
pub struct Page(pub BTreeMap<String, Family>);

/// One metric with all its series.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub help: String,
    /// Full name (`_bucket` and the like included), labels, value.
    pub samples: Vec<(String, Labels, f64)>,
}

impl Page {
    /// Reads a page.
    ///
    /// # Panics
    /// At whatever a strict reader would refuse.
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line ends, too");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("HELP has a text");
                let family = families.entry(name.into()).or_default();
                assert!(family.help.is_empty(), "a second HELP: {line}");
                assert!(family.samples.is_empty(), "HELP after samples: {line}");
                family.help = help.into();
                current = name.into();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("TYPE has a word");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                let family = families.entry(name.into()).or_default();
                assert!(family.kind.is_empty(), "a second TYPE: {line}");
                assert!(family.samples.is_empty(), "TYPE after samples: {line}");
                family.kind = kind.into();
                current = name.into();
            } else {
                assert!(!line.starts_with('#'), "neither HELP nor TYPE: {line}");
                let (name, labels, value) = sample(line);
                let family = families.get_mut(&current).expect("a family has begun");
                assert!(belongs(&name, &current, &family.kind), "{line} under {current}");
                let twice = family.samples.iter().any(|(n, l, _)| *n == name && *l == labels);
                assert!(!twice, "a series twice: {line}");
                family.samples.push((name, labels, value));
            }
        }
        let page = Self(families);
        page.0.iter().for_each(|(name, family)| family.check(name));
        page
    }

    /// The sum over the series of that full name whose labels include these.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).iter().map(|(_, value)| value).sum()
    }

    /// The series of that full name whose labels include these.
    pub fn series(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(Labels, f64)> {
        let wanted = |found: &Labels| {
            labels.iter().all(|(key, value)| found.get(*key).is_some_and(|found| found == value))
        };
        self.0
            .values()
            .flat_map(|family| &family.samples)
            .filter(|(full, found, _)| full == name && wanted(found))
            .map(|(_, found, value)| (found.clone(), *value))
            .collect()
    }

    /// The only series of that full name with these labels.
    pub fn only(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.series(name, labels);
        assert_eq!(series.len(), 1, "one series of {name} with {labels:?}: {series:?}");
        series[0].1
    }
}

impl Family {
    fn check(&self, name: &str) {
        assert!(!self.kind.is_empty() && !self.help.is_empty(), "{name} says what it is");
        assert!(!self.samples.is_empty(), "{name} has a series");
        for (full, _, value) in &self.samples {
            assert!(self.kind == "gauge" || *value >= 0.0, "{full} is {value}");
        }
        if self.kind == "histogram" {
            self.check_buckets(name);
        }
    }

    fn check_buckets(&self, name: &str) {
        let of = |suffix: &str| {
            let full = format!("{name}{suffix}");
            self.samples.iter().filter(move |(n, ..)| *n == full).map(|(_, l, v)| (l, *v))
        };
        let buckets: Vec<(f64, f64)> =
            of("_bucket").map(|(labels, value)| (number(&labels["le"]), value)).collect();
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0), "{name}: bounds ascend");
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{name}: counts add up");
        let last = *buckets.last().expect("buckets");
        let count = of("_count").next().expect("a count").1;
        assert_eq!(last, (f64::INFINITY, count), "{name}: the last bucket has all");
        assert_eq!(of("_sum").count(), 1, "{name}: a sum");
    }
}

fn belongs(name: &str, family: &str, kind: &str) -> bool {
    match kind {
        "histogram" => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(family)),
        _ => name == family,
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(|c: char| !is_name(c)).expect("something after the name");
    let (name, mut rest) = line.split_at(end);
    assert!(!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").expect("label=\"value\"");
            assert!(!label.is_empty() && label.chars().all(is_name), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.into(), value).is_none(), "a label twice: {line}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("one space: {line}"));
    (name.into(), labels, number(value))
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next().expect("an escape").1 {
                'n' => '\n',
                c @ ('"' | '\\') => c,
                c => panic!("no such escape: {c}"),
            }),
            c => value.push(c),
        }
    }
    panic!("no closing quote: {text}");
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        text => text.parse().unwrap_or_else(|_| panic!("a number: {text:?}")),
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
