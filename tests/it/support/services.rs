//! Services of a test's own, to be broken.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::proxy::Proxy;

/// What can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Kafka,
    Postgres,
}

/// Kafka, Postgres or both, in a directory of their own. Ended when dropped.
pub struct Services {
    dir: tempfile::TempDir,
    brokers: Option<String>,
    proxied: Option<String>,
    secured: Option<String>,
    database_url: Option<String>,
}

impl Services {
    /// Starts what is listed and waits until it is ready.
    pub async fn start(wanted: &[Service]) -> Self {
        let only: &[&str] = match wanted {
            [Service::Kafka] => &["--only", "kafka"],
            [Service::Postgres] => &["--only", "postgres"],
            _ => &[],
        };
        Self::up(only).await
    }

    /// Starts a Kafka with a second listener, whose clients all pass the proxy.
    pub async fn kafka_behind(proxy: &Proxy) -> Self {
        let port = proxy.port().to_string();
        let services = Self::up(&["--only", "kafka", "--proxy-port", &port]).await;
        proxy.leads_to(services.proxied.as_deref().expect("a second listener")).await;
        services
    }

    /// Starts a Kafka with a second listener, for SASL over TLS by this key and certificate.
    pub async fn kafka_secured_by(pem: &Path) -> Self {
        Self::up(&["--only", "kafka", "--secure", pem.to_str().unwrap()]).await
    }

    /// Starts a Kafka of so many brokers, numbered from 1, any of which may be killed: the
    /// controller is a process of its own.
    pub async fn kafka_cluster(brokers: usize) -> Self {
        Self::up(&["--only", "kafka", "--brokers", &brokers.to_string()]).await
    }

    async fn up(options: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("user-events-it.").tempdir().unwrap();
        let mut services =
            Self { dir, brokers: None, proxied: None, secured: None, database_url: None };
        let env = services.script("up", options).await;
        let find = |name: &str| {
            let prefix = format!("export {name}=");
            let value = env.lines().find_map(|line| line.strip_prefix(&prefix))?;
            Some(value.to_owned())
        };
        services.brokers = find("KAFKA_BOOTSTRAP_SERVERS");
        services.proxied = find("KAFKA_PROXIED_LISTENER");
        services.secured = find("KAFKA_SECURED_LISTENER");
        services.database_url = find("DATABASE_URL");
        services
    }

    /// Where its Kafka is.
    pub fn brokers(&self) -> &str {
        self.brokers.as_deref().expect("kafka was started")
    }

    /// Where its Kafka takes SASL over TLS.
    pub fn secured(&self) -> &str {
        self.secured.as_deref().expect("a secured listener")
    }

    /// Where its Postgres is.
    pub fn database_url(&self) -> &str {
        self.database_url.as_deref().expect("postgres was started")
    }

    /// Where its Postgres keeps its data.
    pub fn postgres_data(&self) -> PathBuf {
        self.dir.path().join("postgres/data").canonicalize().unwrap()
    }

    /// What its Postgres logged since its last start.
    pub fn postgres_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("postgres.log")).unwrap()
    }

    /// `kill -9` of the broker.
    pub async fn kill_kafka(&self) {
        self.script("kill-kafka", &[]).await;
    }

    /// Starts the broker again, on the same port and data.
    pub async fn start_kafka(&self) {
        self.script("start-kafka", &[]).await;
    }

    /// `kill -9` of one broker of several.
    pub async fn kill_broker(&self, number: i32) {
        self.script(&format!("kill-kafka {number}"), &[]).await;
    }

    /// Starts it again, on the same port and data.
    pub async fn start_broker(&self, number: i32) {
        self.script(&format!("start-kafka {number}"), &[]).await;
    }

    /// Ends Postgres as a crash would.
    pub async fn stop_postgres_immediate(&self) {
        self.script("stop-postgres-immediate", &[]).await;
    }

    /// Starts Postgres again, on the same port and data.
    pub async fn start_postgres(&self) {
        self.script("start-postgres", &[]).await;
    }

    async fn script(&self, command: &str, more: &[&str]) -> String {
        let output = Command::new(script())
            .args(command.split(' '))
            .arg("--dir")
            .arg(self.dir.path())
            .args(more)
            .env_remove("KAFKA_BOOTSTRAP_SERVERS")
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "scripts/services {command}: {}\n{}",
            output.status,
            text(&output.stderr)
        );
        text(&output.stdout)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        let ended = std::process::Command::new(script())
            .args(["down", "--dir"])
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .status();
        if !ended.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("services in {:?} may still run: {ended:?}", self.dir.path());
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services")
}
