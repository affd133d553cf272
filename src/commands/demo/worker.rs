//! The demo's worker: the real one, pointed at the demo's broker and database.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

use crate::commands::scratch::ScratchDatabase;
use crate::config::{Config, EventsConfig, HttpConfig, KafkaConfig, PostgresConfig};

/// Consumer group of the demo's worker.
pub const GROUP: &str = "user-events-demo";
/// Topic of the demo.
pub const TOPIC: &str = "user-events-demo";
/// What is too large here: less than usual, since the embedded broker's memory is small.
pub const MAX_RECORD_BYTES: u64 = 64 << 10;
/// The embedded broker answers a fetch that finds nothing only when its time is up, whatever has
/// arrived meanwhile: so that time must be short, or it would be all the latency there is to see.
const FETCH_WAIT: (&str, &str) = ("WORKER_KAFKA__LIBRDKAFKA__FETCH_WAIT_MAX_MS", "5");

/// The worker's configuration: for Kafka, contract and ledger the defaults, for everything else
/// what the operator has configured, so that batch sizes and logging can be tried out.
///
/// # Errors
/// A configuration that contradicts itself.
pub fn config(
    configured: &Config,
    bootstrap_servers: &str,
    database: &ScratchDatabase,
) -> anyhow::Result<Config> {
    let (name, value) = FETCH_WAIT;
    let defaults = Config::load(None, std::iter::once((name.to_owned(), value.to_owned())))?;
    let config = Config {
        kafka: KafkaConfig {
            bootstrap_servers: bootstrap_servers.to_owned(),
            topics: vec![TOPIC.to_owned()],
            group_id: GROUP.to_owned(),
            // The embedded broker makes rebalances as long as this.
            session_timeout: Duration::from_secs(6),
            ..defaults.kafka
        },
        postgres: PostgresConfig {
            url: database.url(),
            schema: database.schema().to_owned(),
            migrate: true,
            ..configured.postgres.clone()
        },
        events: EventsConfig { max_record_bytes: ByteSize(MAX_RECORD_BYTES), ..defaults.events },
        ledger: defaults.ledger,
        // A free port: whatever runs already is not disturbed.
        http: HttpConfig { listen: SocketAddr::new(configured.http.listen.ip(), 0) },
        ..configured.clone()
    };
    config.validate()?;
    Ok(config)
}
