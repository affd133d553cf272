//! The layers a value may come from, flattened to `section.key` with their origin.
//!
//! Flat, because then one map answers everything: which key wins, whether it is known (the
//! embedded defaults name every key), and where a wrong value was written.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use config::{File, FileFormat, Map, Source, Value, ValueKind};

use super::error::{ConfigError, Problems};
use super::librdkafka;

/// The embedded defaults: the list of all keys, with their reasons.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The section whose keys are librdkafka's, not ours.
const FREE_SECTION: &str = "kafka.librdkafka";
const PREFIX: &str = "WORKER_";
const FILE_SUFFIX: &str = "_FILE";
/// Names other tools set, and the key each stands for.
const ALIASES: [(&str, &str); 2] =
    [("DATABASE_URL", "postgres.url"), ("KAFKA_BOOTSTRAP_SERVERS", "kafka.bootstrap_servers")];

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File(PathBuf),
    Env(String),
    SecretFile { variable: String, path: PathBuf },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(variable) => f.write_str(variable),
            Self::SecretFile { variable, path } => {
                write!(f, "{}, named by {variable}", path.display())
            }
        }
    }
}

/// A value not yet believed, and its origin.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// `section.key` to value.
pub(super) type Entries = BTreeMap<String, Entry>;

/// Whether a key is inside the pass-through section; then the property's name.
pub(super) fn librdkafka_property(key: &str) -> Option<&str> {
    key.strip_prefix(FREE_SECTION)?.strip_prefix('.')
}

/// The environment variable for a key.
pub(super) fn env_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// The embedded defaults.
pub(super) fn defaults() -> Result<Entries, ConfigError> {
    parse(DEFAULTS, "config/default.toml".to_owned(), &Origin::Default)
}

/// The file an operator names.
pub(super) fn file(path: &Path) -> Result<Entries, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, path.display().to_string(), &Origin::File(path.to_owned()))
}

fn parse(text: &str, file: String, origin: &Origin) -> Result<Entries, ConfigError> {
    let tables = File::from_str(text, FileFormat::Toml).collect();
    Ok(flatten(tables.map_err(|error| syntax(file, &error))?, origin))
}

/// The variables that concern us. `known` tells which keys exist and which of them are lists.
pub(super) fn environment(
    variables: impl Iterator<Item = (String, String)>,
    known: &Entries,
    problems: &mut Problems,
) -> Entries {
    let ours: BTreeMap<String, String> = variables
        .filter(|(name, value)| {
            name.starts_with(PREFIX) && !is_service_link(name, value)
                || is_alias(name) && !value.is_empty()
        })
        .collect();
    let mut entries = Entries::new();
    // Aliases first: the names with the prefix then win.
    let (prefixed, aliases): (Vec<_>, Vec<_>) =
        ours.iter().partition(|(name, _)| name.starts_with(PREFIX));
    for (variable, text) in aliases.into_iter().chain(prefixed) {
        let (key, from_file) = key_of(variable, known);
        let plain = variable.strip_suffix(FILE_SUFFIX).filter(|_| from_file);
        if let Some(plain) = plain.filter(|plain| ours.contains_key(*plain)) {
            problems.add(variable, format!("and {plain} are both set; only one may be"));
            continue;
        }
        let read = if from_file {
            read_secret(variable, text)
        } else {
            Ok((text.clone(), Origin::Env(variable.clone())))
        };
        match read {
            Ok((text, origin)) => {
                let is_list = |entry: &Entry| matches!(entry.value.kind, ValueKind::Array(_));
                let value = typed(text, known.get(&key).is_some_and(is_list));
                entries.insert(key, Entry { value, origin });
            }
            // Without the path: someone may have put the secret itself there.
            Err(error) => problems.add(variable, format!("the file it names: {error}")),
        }
    }
    entries
}

fn read_secret(variable: &str, path: &str) -> io::Result<(String, Origin)> {
    let text = std::fs::read_to_string(path)?.trim_end_matches(['\r', '\n']).to_owned();
    Ok((text, Origin::SecretFile { variable: variable.to_owned(), path: path.into() }))
}

/// A variable's text as the value its key wants: of a list, the items between commas.
fn typed(text: String, is_list: bool) -> Value {
    if !is_list {
        return Value::new(None, text);
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Value::new(None, items.map(|item| Value::new(None, item)).collect::<Vec<_>>())
}

/// The key a variable stands for, and whether its value is the name of a file.
fn key_of(variable: &str, known: &Entries) -> (String, bool) {
    let direct = |variable: &str| {
        let alias = ALIASES.iter().find(|(name, _)| *name == variable);
        alias.map(|(_, key)| (*key).to_owned()).or_else(|| {
            let (section, key) = variable.strip_prefix(PREFIX)?.rsplit_once("__")?;
            let section = section.replace("__", ".").to_lowercase();
            let key = if section == FREE_SECTION {
                librdkafka::property_of_env(key)
            } else {
                key.to_lowercase()
            };
            Some(format!("{section}.{key}"))
        })
    };
    // librdkafka's own properties that end in `.file` are written with dots, and so not taken for this.
    let file = variable
        .strip_suffix(FILE_SUFFIX)
        .and_then(direct)
        .filter(|key| known.contains_key(key) || librdkafka_property(key).is_some());
    match file {
        Some(key) => (key, true),
        None => (direct(variable).unwrap_or_else(|| variable.to_owned()), false),
    }
}

fn is_alias(name: &str) -> bool {
    let plain = name.strip_suffix(FILE_SUFFIX).unwrap_or(name);
    ALIASES.iter().any(|(alias, _)| *alias == plain)
}

/// Kubernetes sets `WORKER_SERVICE_HOST`, `WORKER_PORT=tcp://..`, `WORKER_PORT_9464_TCP` and the like
/// in every pod beside a Service named `worker`: not ours, and no mistake of the operator's.
fn is_service_link(name: &str, value: &str) -> bool {
    let numbered = || {
        let rest = name.split_once("_PORT_").map(|(_, rest)| rest);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    !name.contains("__")
        && (name.ends_with("_SERVICE_HOST")
            || name.contains("_SERVICE_PORT")
            || name.ends_with("_PORT") && value.contains("://")
            || numbered())
}

/// Adds every key that does not exist to the problems and removes it.
pub(super) fn refuse_unknown(entries: &mut Entries, known: &Entries, problems: &mut Problems) {
    entries.retain(|key, entry| {
        if known.contains_key(key) || librdkafka_property(key).is_some() {
            return true;
        }
        // Compared in the notation the operator used: there the mistake was made.
        let (written, nearest) = match &entry.origin {
            Origin::Env(variable) | Origin::SecretFile { variable, .. } => {
                (variable.clone(), nearest(variable, known.keys().map(|key| env_name(key))))
            }
            Origin::Default | Origin::File(_) => (key.clone(), nearest(key, known.keys().cloned())),
        };
        let place = match &entry.origin {
            Origin::File(path) => format!(" in {}", path.display()),
            _ => String::new(),
        };
        let hint = nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        problems.add(written, format!("unknown key{place}{hint}"));
        false
    });
}

fn nearest(written: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(written, &candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The tables again, as the section structs want to read them.
pub(super) fn unflatten<'a>(entries: impl Iterator<Item = (&'a String, &'a Value)>) -> Value {
    let mut sections = BTreeMap::<&str, Map<String, Value>>::new();
    for (key, value) in entries {
        let (section, name) = match librdkafka_property(key) {
            Some(property) => (FREE_SECTION, property),
            None => key.split_once('.').unwrap_or((key, "")),
        };
        sections.entry(section).or_default().insert(name.to_owned(), value.clone());
    }
    let free = sections.remove(FREE_SECTION).unwrap_or_default();
    let kafka = sections.entry("kafka").or_default();
    kafka.insert("librdkafka".to_owned(), Value::new(None, free));
    let tables = sections.into_iter().map(|(name, keys)| (name.to_owned(), Value::new(None, keys)));
    Value::new(None, tables.collect::<Map<_, _>>())
}

fn flatten(tables: Map<String, Value>, origin: &Origin) -> Entries {
    let mut entries = Entries::new();
    let mut rest: Vec<(String, Value)> = tables.into_iter().collect();
    while let Some((key, value)) = rest.pop() {
        match value.kind {
            ValueKind::Table(table) => {
                rest.extend(
                    table.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)),
                );
            }
            _ => {
                entries.insert(key, Entry { value, origin: origin.clone() });
            }
        }
    }
    entries
}

/// The parser shows the line it stumbled over; a line may hold a secret, so only the place and the
/// reason are kept.
fn syntax(file: String, error: &config::ConfigError) -> ConfigError {
    let text = match error {
        config::ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    };
    let is_snippet = |line: &&str| {
        line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|')
    };
    let message = text.lines().filter(|line| !is_snippet(line)).collect::<Vec<_>>().join("; ");
    ConfigError::Syntax { file, message }
}
