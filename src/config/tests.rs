#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::time::Duration;

use bytesize::ByteSize;
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::producer::BaseProducer;
use tempfile::NamedTempFile;

use super::*;

const CANARY: &str = "hunter2-canary";

fn load(file: Option<&str>, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = file.map(write);
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(file.as_ref().map(|file| file.path()), env)
}

fn write(text: &str) -> NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// The refusal's text, with no trace of the canary in it.
fn refusal(file: Option<&str>, env: &[(&str, &str)]) -> String {
    let error = load(file, env).map(|_| ()).expect_err("should be refused");
    assert!(!format!("{error:?}").contains(CANARY), "{error:?}");
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text.push_str(&source.to_string());
    }
    assert!(!text.contains(CANARY), "{text}");
    text
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing from: {text}");
    }
}

#[test]
fn the_defaults_are_usable_and_are_what_the_file_says() {
    let config = load(None, &[]).unwrap();
    assert_eq!(config.kafka.topics, ["user-events"]);
    assert_eq!(config.kafka.start_from, StartFrom::Earliest);
    assert_eq!(config.kafka.sasl_mechanism, None);
    assert_eq!(config.batch.max_bytes, ByteSize::mib(4));
    assert_eq!(config.batch.linger, Duration::from_millis(20));
    assert_eq!(config.ledger.retention, Duration::from_secs(400 * 86_400));
    assert_eq!(config.events.tombstones, crate::event::Tombstones::DeadLetter);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9464");
    config.validate().unwrap();

    // Whatever is shown at start can be read back: nothing is left out or rounded.
    let shown = config.redacted_dump();
    for key in sources::defaults().unwrap().keys() {
        let (section, name) = key.split_once('.').unwrap();
        assert!(shown[section].get(name).is_some(), "{key} is not shown");
    }
    assert_eq!(shown["ledger"]["retention"], "400d");
}

#[test]
fn later_layers_win() {
    let file = "[batch]\nlanes = 3\nmax_events = 7\n[postgres]\nurl = 'postgres://file/db'\n";
    assert_eq!(load(None, &[]).unwrap().batch.lanes, Lanes::Auto);
    assert_eq!(load(Some(file), &[]).unwrap().batch.lanes, Lanes::Fixed(3));
    let config = load(Some(file), &[("WORKER_BATCH__LANES", "auto")]).unwrap();
    assert_eq!(config.batch.lanes, Lanes::Auto);
    let config = load(Some(file), &[("WORKER_BATCH__LANES", "5")]).unwrap();
    assert_eq!((config.batch.lanes, config.batch.max_events), (Lanes::Fixed(5), 7));
    assert_eq!(config.postgres.url.expose(), "postgres://file/db");

    let alias = ("DATABASE_URL", "postgres://alias/db");
    let config = load(Some(file), &[alias]).unwrap();
    assert_eq!(config.postgres.url.expose(), "postgres://alias/db");

    let config = load(Some(file), &[("WORKER_POSTGRES__URL", "postgres://env/db"), alias]).unwrap();
    assert_eq!(config.postgres.url.expose(), "postgres://env/db");

    let config = load(None, &[("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2"), ("DATABASE_URL", "")]);
    let config = config.unwrap();
    assert_eq!(config.kafka.bootstrap_servers, "a:1,b:2");
    assert_eq!(config.postgres.url.expose(), "postgres://localhost/postgres");
}

#[test]
fn environment_values_take_the_type_of_their_key() {
    let config = load(
        None,
        &[
            ("WORKER_KAFKA__TOPICS", "a, b"),
            ("WORKER_POSTGRES__MIGRATE", "false"),
            ("WORKER_BATCH__LINGER", "5ms"),
            ("WORKER_BATCH__MAX_BYTES", "2000000"),
            ("WORKER_KAFKA__GROUP_INSTANCE_ID", "pod-0"),
            ("PATH", "/bin"),
            ("WORKER_SERVICE_HOST", "10.0.0.1"),
            ("WORKER_PORT", "tcp://10.0.0.1:9464"),
            ("WORKER_METRICS_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ],
    );
    let config = config.unwrap();
    assert_eq!(config.kafka.topics, ["a", "b"]);
    assert!(!config.postgres.migrate);
    assert_eq!(config.batch.linger, Duration::from_millis(5));
    assert_eq!(config.batch.max_bytes, ByteSize::b(2_000_000));
    assert_eq!(config.kafka.group_instance_id.as_deref(), Some("pod-0"));
}

#[test]
fn unknown_keys_name_the_nearest_one_and_their_origin() {
    let file = "[kafka]\ntopic = ['a']\n[bacth]\nlanes = 1\n";
    let env = [
        ("WORKER_KAFKA_TOPICS", "a"),
        ("WORKER_HTTP__LISTENER", "x"),
        ("WORKER_ZZZ", "1"),
        ("WORKER_HTTP_PORT", "80"),
    ];
    let text = refusal(Some(file), &env);
    assert_says(
        &text,
        &[
            "kafka.topic: unknown key in /",
            "did you mean kafka.topics?",
            "did you mean batch.lanes?",
            "WORKER_KAFKA_TOPICS: unknown key; did you mean WORKER_KAFKA__TOPICS?",
            "WORKER_HTTP__LISTENER: unknown key; did you mean WORKER_HTTP__LISTEN?",
            "WORKER_ZZZ: unknown key",
            "WORKER_HTTP_PORT: unknown key",
        ],
    );
}

#[test]
fn everything_wrong_is_said_at_once() {
    let file =
        "[batch]\nlanes = 65\nlinger = 20\n[events]\ntombstones = 'keep'\nmax_future = '0s'\n";
    let env = [
        ("WORKER_BATCH__MAX_EVENTS", "many"),
        ("WORKER_BATCH__MAX_BYTES", "eight"),
        ("WORKER_KAFKA__TOPICS", "a,a,b c"),
        ("WORKER_KAFKA__CLAIM_PATIENCE", "1m"),
        ("WORKER_POSTGRES__SCHEMA", "Public"),
        ("WORKER_POSTGRES__LOCK_TIMEOUT", "30s"),
        ("WORKER_LOG__LEVEL", "a=b=c"),
        ("WORKER_NOTHING__LIKE_IT", "1"),
    ];
    let text = refusal(Some(file), &env);
    assert_says(
        &text,
        &[
            "batch.lanes: `65` must be auto, or between 1 and 64 (from /",
            "batch.linger: ",
            "events.tombstones: `keep` is not one of dead_letter, skip, delete (from /",
            "events.max_future: `0s` must be between 1s and 31d",
            "batch.max_events: ",
            "(from WORKER_BATCH__MAX_EVENTS)",
            "batch.max_bytes: `eight` is not a size",
            "kafka.topics: `a` must be named once (from WORKER_KAFKA__TOPICS)",
            "kafka.topics: `b c` must be a plain topic name",
            "kafka.claim_patience: `1m` must be below kafka.session_timeout (45s)",
            "postgres.schema: `Public` must be",
            "postgres.lock_timeout: `30s` must be below postgres.statement_timeout (30s)",
            "log.level: `a=b=c` must be",
            "WORKER_NOTHING__LIKE_IT: unknown key",
        ],
    );
}

#[test]
fn the_watch_on_progress_leaves_a_slow_postgres_its_time() {
    let slow = [("WORKER_POSTGRES__STATEMENT_TIMEOUT", "1m")];
    let text = refusal(None, &slow);
    assert_says(&text, &["watch.progress", "`2m`", "140s", "no stall"]);
    load(None, &[slow[0], ("WORKER_WATCH__PROGRESS", "140s")]).unwrap();
    load(None, &[slow[0], ("WORKER_WATCH__PROGRESS", "0s")]).unwrap();
}

#[test]
fn secrets_come_from_files() {
    let url = write("postgres://ann:hunter2-canary@db/events\n");
    let path = url.path().to_str().unwrap();
    let config = load(None, &[("WORKER_POSTGRES__URL_FILE", path)]).unwrap();
    assert_eq!(config.postgres.url.expose(), "postgres://ann:hunter2-canary@db/events");
    let config = load(None, &[("DATABASE_URL_FILE", path)]).unwrap();
    assert_eq!(config.postgres.url.expose(), "postgres://ann:hunter2-canary@db/events");

    let both = [("WORKER_POSTGRES__URL_FILE", path), ("WORKER_POSTGRES__URL", "postgres://h/d")];
    assert_says(
        &refusal(None, &both),
        &["WORKER_POSTGRES__URL_FILE: and WORKER_POSTGRES__URL are both set"],
    );
    let missing = [("WORKER_KAFKA__SASL_PASSWORD_FILE", "/nowhere/at/all")];
    assert_says(
        &refusal(None, &missing),
        &["WORKER_KAFKA__SASL_PASSWORD_FILE: the file it names: No such file"],
    );
    // The secret itself where a file's name belongs: an easy mistake.
    refusal(None, &[("WORKER_KAFKA__SASL_PASSWORD_FILE", CANARY)]);
    let unknown = [("WORKER_KAFKA__SASL_PASWORD_FILE", path)];
    assert_says(&refusal(None, &unknown), &["WORKER_KAFKA__SASL_PASWORD_FILE: unknown key"]);
}

#[test]
fn librdkafka_properties_pass_through_or_are_refused() {
    let file = "[kafka.librdkafka]\nsocket.keepalive.enable = true\n\"fetch.wait.max.ms\" = 50\n";
    let env = [
        ("WORKER_KAFKA__LIBRDKAFKA__FETCH_WAIT_MAX_MS", "60"),
        ("WORKER_KAFKA__LIBRDKAFKA__client.rack", "eu-1"),
    ];
    let config = load(Some(file), &env).unwrap();
    let consumer = config.kafka.consumer_properties();
    assert_eq!(consumer["socket.keepalive.enable"], "true");
    assert_eq!(consumer["fetch.wait.max.ms"], "60");
    assert_eq!(consumer["client.rack"], "eu-1");
    let producer = config.kafka.producer_properties();
    assert_eq!(producer["client.rack"], "eu-1");
    assert!(!producer.contains_key("fetch.wait.max.ms"));

    let env = [("WORKER_KAFKA__LIBRDKAFKA__ENABLE_AUTO_COMMIT", "true")];
    assert_says(
        &refusal(Some("[kafka.librdkafka]\ndebug = 'all'\n"), &env),
        &[
            "kafka.librdkafka.enable.auto.commit: is refused: positions live in Postgres",
            "(from WORKER_KAFKA__LIBRDKAFKA__ENABLE_AUTO_COMMIT)",
            "kafka.librdkafka.debug: is refused",
        ],
    );
}

#[test]
fn librdkafka_accepts_what_we_build() {
    for (protocol, prefetch, lanes) in
        [("classic", "64KiB", 1), ("classic", "512KiB", 64), ("consumer", "1GiB", 2)]
    {
        let env = [
            ("WORKER_KAFKA__GROUP_PROTOCOL", protocol),
            ("WORKER_KAFKA__PREFETCH_BYTES", prefetch),
            ("WORKER_KAFKA__GROUP_INSTANCE_ID", "pod-0"),
            ("WORKER_KAFKA__SECURITY_PROTOCOL", "sasl_ssl"),
            ("WORKER_KAFKA__SASL_MECHANISM", "SCRAM-SHA-512"),
            ("WORKER_KAFKA__SASL_USERNAME", "ann"),
            ("WORKER_KAFKA__SASL_PASSWORD", "x"),
        ];
        let config = load(None, &env).unwrap();
        let consumer = config.kafka.consumer_properties();
        for (name, value) in [
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            ("check.crcs", "true"),
        ] {
            assert_eq!(consumer[name], value);
        }
        assert_eq!(consumer.contains_key("session.timeout.ms"), protocol == "classic");
        let worker = config.kafka.worker_properties(lanes);
        assert_eq!(worker["statistics.interval.ms"], "2000", "kafka.lag_interval");
        let _: BaseConsumer = worker.into_iter().collect::<ClientConfig>().create().unwrap();
        let producer = config.kafka.producer_properties();
        let _: BaseProducer = producer.into_iter().collect::<ClientConfig>().create().unwrap();
    }
}

#[test]
fn security_settings_must_fit_together() {
    let text = refusal(
        None,
        &[
            ("WORKER_KAFKA__SASL_MECHANISM", "PLAIN"),
            ("WORKER_KAFKA__SASL_PASSWORD", CANARY),
            ("WORKER_KAFKA__SSL_KEY_LOCATION", "/key.pem"),
            ("WORKER_KAFKA__SSL_KEY_PASSWORD", CANARY),
        ],
    );
    assert_says(
        &text,
        &[
            "kafka.sasl_mechanism: has no effect with kafka.security_protocol `plaintext`",
            "kafka.ssl_key_location: has no effect",
            "kafka.ssl_certificate_location: a client certificate needs both",
        ],
    );
    let scram = [
        ("WORKER_KAFKA__SECURITY_PROTOCOL", "sasl_ssl"),
        ("WORKER_KAFKA__SASL_MECHANISM", "SCRAM-SHA-256"),
    ];
    assert_says(&refusal(None, &scram), &["SCRAM-SHA-256 needs kafka.sasl_username"]);
    assert_says(&refusal(None, &scram[..1]), &["kafka.sasl_mechanism: is needed with sasl_ssl"]);
}

#[test]
fn no_secret_is_ever_shown() {
    let url = format!("postgres://ann:{CANARY}@db/events?sslmode=verify-full");
    let env = [
        ("WORKER_POSTGRES__URL", url.as_str()),
        ("WORKER_KAFKA__SECURITY_PROTOCOL", "sasl_ssl"),
        ("WORKER_KAFKA__SASL_MECHANISM", "PLAIN"),
        ("WORKER_KAFKA__SASL_USERNAME", "ann"),
        ("WORKER_KAFKA__SASL_PASSWORD", CANARY),
        ("WORKER_KAFKA__SSL_KEY_PASSWORD", CANARY),
        ("WORKER_KAFKA__LIBRDKAFKA__SASL_OAUTHBEARER_CONFIG", CANARY),
        ("WORKER_KAFKA__LIBRDKAFKA__SSL_KEYSTORE_PASSWORD", CANARY),
    ];
    let config = load(None, &env).unwrap();
    for shown in [
        format!("{config:?}"),
        format!("{config:#?}"),
        config.to_string(),
        config.redacted_dump().to_string(),
    ] {
        assert!(!shown.contains(CANARY), "{shown}");
    }
    assert_says(&config.to_string(), &["postgres://ann:[redacted]@db/events?sslmode=verify-full"]);
    // They do arrive where they are needed.
    assert_eq!(config.kafka.consumer_properties()["sasl.password"], CANARY);

    // Nor does an error show them, whatever is wrong.
    for env in [
        ("WORKER_POSTGRES__URL", "mysql://ann:hunter2-canary@db"),
        ("WORKER_POSTGRES__URL", "hunter2-canary"),
        ("WORKER_KAFKA__LIBRDKAFKA__SASL_PASSWORD", CANARY),
        ("WORKER_KAFKA__SASL_PASWORD", CANARY),
    ] {
        refusal(None, &[env]);
    }
    for file in [
        "[kafka]\nsasl_password = hunter2-canary\n",
        "[kafka]\nsasl_password = \"hunter2-canary\n",
        "[kafka]\nsasl_password = [\"hunter2-canary\"]\n",
        "[kafka]\nsasl_password = 'a'\nsasl_password = \"hunter2-canary\"\n",
        "[kafka]\nsasl_pass = \"hunter2-canary\"\n",
        "[postgres]\nurl = { password = \"hunter2-canary\" }\n",
        "[postgres]\nurl = \"postgres://ann:\\q hunter2-canary@db\"\n",
    ] {
        refusal(Some(file), &[]);
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let missing = Config::load(Some(Path::new("/nowhere.toml")), std::iter::empty()).map(|_| ());
    assert_says(&missing.unwrap_err().to_string(), &["/nowhere.toml"]);
    assert_says(&refusal(Some("[kafka\n"), &[]), &["is not valid TOML", "line 1"]);
}

#[test]
fn the_production_example_is_usable() {
    let env = [
        ("WORKER_KAFKA__SASL_USERNAME", "user-events-worker"),
        ("WORKER_KAFKA__SASL_PASSWORD", "x"),
        ("WORKER_POSTGRES__URL", "postgres://worker:x@db:5432/events?sslmode=verify-full"),
    ];
    let config = load(Some(include_str!("../../config/production.toml")), &env).unwrap();
    assert_eq!(config.kafka.security_protocol, SecurityProtocol::SaslSsl);
    assert!(!config.postgres.migrate);
}

/// Every key has a row with its variable and its default in `docs/configuration.md`.
#[test]
fn every_key_is_documented() {
    let docs = include_str!("../../docs/configuration.md");
    let shown = load(None, &[]).unwrap().redacted_dump();
    for key in sources::defaults().unwrap().keys() {
        let (section, name) = key.split_once('.').unwrap();
        let default = match &shown[section][name] {
            serde_json::Value::String(text) if text.is_empty() => "not set".to_owned(),
            serde_json::Value::String(text) => format!("`{text}`"),
            serde_json::Value::Array(items) => format!("`{}`", items[0].as_str().unwrap()),
            other => format!("`{other}`"),
        };
        let row = format!("| `{name}` | `{}` | {default} | ", sources::env_name(key));
        assert!(docs.contains(&row), "missing from docs/configuration.md: {row}");
    }
    let rows = docs.lines().filter(|line| line.contains("| `WORKER_")).count();
    assert_eq!(rows, sources::defaults().unwrap().len(), "a row for a key that does not exist");
}
