//! Where a proof takes place: a topic, a group and a schema of its own, and how workers find them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::args::ProveArgs;
use super::watch::Watch;
use super::workers::Launcher;
use crate::app;
use crate::apply::migrate;
use crate::commands::scratch::{self, ScratchDatabase, ScratchTopic};
use crate::config::{self, Config};

/// What every name begins with.
const PREFIX: &str = "user_events_prove";
/// How long producers may take to end.
const UNUSED_WITHIN: Duration = Duration::from_secs(40);
/// Set by operators who keep the URL in a file; a URL of our own would contradict it.
const URL_FILE: &str = "WORKER_POSTGRES__URL_FILE";

/// See the module. What it has made stays until [`Setting::remove`].
pub struct Setting {
    /// The workers' database.
    pub database: ScratchDatabase,
    /// The workers' configuration, as they themselves will read it.
    pub config: Config,
    topic: ScratchTopic,
    logs: TempDir,
    file: Option<PathBuf>,
    set: Vec<(String, String)>,
    users: mpsc::Sender<()>,
    unused: mpsc::Receiver<()>,
}

/// Whoever writes to the scratch topic holds one: it is not deleted before all are dropped, or it
/// might be created again by a broker that makes topics on demand.
pub type User = mpsc::Sender<()>;

impl Setting {
    /// Makes everything. `configured` tells which Kafka and Postgres, `file` is where it came from.
    ///
    /// # Errors
    /// Kafka or Postgres out of reach, or unwilling: then with what to grant.
    pub async fn make(
        args: &ProveArgs,
        configured: &Config,
        file: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let name = scratch::name(PREFIX);
        let database = match args.own_database {
            true => ScratchDatabase::throwaway().await?,
            false => {
                ScratchDatabase::scratch(configured.postgres.url.clone(), name.clone()).await?
            }
        };
        let set = environment(&name, &database);
        let env = config::process_env().filter(|(variable, _)| variable != URL_FILE);
        let config = Config::load(file, env.chain(set.clone()))
            .context("the workers' configuration cannot be used")?;
        let properties = config.kafka.producer_properties();
        let topic = ScratchTopic::create(&properties, name, args.partitions).await?;
        let logs = tempfile::Builder::new().prefix("user-events-prove-").tempdir()?;
        let file = file.map(Path::to_owned);
        let (users, unused) = mpsc::channel(1);
        let setting = Self { database, config, topic, logs, file, set, users, unused };
        match setting.migrate().await {
            Ok(()) => Ok(setting),
            Err(error) => {
                setting.remove().await?;
                Err(error)
            }
        }
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        let session = app::session_options(&self.config.postgres)?;
        migrate::migrate(&session).await.with_context(|| {
            let schema = self.database.schema();
            format!(
                "creating schema {schema:?}: the role needs CREATE and TEMPORARY on the database"
            )
        })
    }

    /// The scratch topic's name.
    pub fn topic(&self) -> &str {
        self.topic.name()
    }

    /// For a producer to hold as long as it lives.
    pub fn user(&self) -> User {
        self.users.clone()
    }

    /// A look at the workers' progress.
    ///
    /// # Errors
    /// The database's URL cannot be used.
    pub fn watch(&self) -> anyhow::Result<Watch> {
        Ok(Watch {
            options: self.database.options()?,
            group: self.config.kafka.group_id.clone(),
            topic: self.topic().to_owned(),
        })
    }

    /// How to start a worker here.
    ///
    /// # Errors
    /// The system does not tell which program we are.
    pub fn launcher(&self) -> anyhow::Result<Launcher> {
        let mut arguments: Vec<OsString> = vec!["run".into()];
        if let Some(file) = &self.file {
            arguments.extend(["--config".into(), file.into()]);
        }
        Ok(Launcher {
            program: std::env::current_exe().context("finding this program")?,
            arguments,
            set: self.set.clone(),
            unset: vec![URL_FILE],
            logs: self.logs.path().to_owned(),
            grace: self.config.shutdown.grace,
        })
    }

    /// Where the workers' logs are.
    pub fn logs(&self) -> &Path {
        self.logs.path()
    }

    /// Leaves everything where it is; answers what there is to see.
    pub fn keep(self) -> String {
        let schema = match &self.database {
            ScratchDatabase::Throwaway(_) => "the throwaway Postgres is gone".to_owned(),
            ScratchDatabase::Scratch(_) => format!("schema {:?}", self.database.schema()),
        };
        let topic = self.topic.name().to_owned();
        let logs = self.logs.keep();
        format!("kept: topic {topic:?}, {schema}, the workers' logs in {}", logs.display())
    }

    /// Takes everything away again.
    ///
    /// # Errors
    /// Something could not be removed.
    pub async fn remove(mut self) -> anyhow::Result<()> {
        drop(self.users);
        // Nothing is ever sent: this ends when the last user is dropped.
        timeout(UNUSED_WITHIN, self.unused.recv()).await.ok();
        let topic = self.topic.delete().await;
        self.database.stop().await.and(topic)?;
        self.logs.close().context("removing the workers' logs")
    }
}

/// What makes an operator's worker one of ours; everything else is as configured.
fn environment(name: &str, database: &ScratchDatabase) -> Vec<(String, String)> {
    let url = database.url();
    [
        ("KAFKA__TOPICS", name),
        ("KAFKA__GROUP_ID", name),
        // Several copies must not share one instance name.
        ("KAFKA__GROUP_INSTANCE_ID", ""),
        ("KAFKA__START_FROM", "earliest"),
        // Brokers allow no less by default; a frozen worker is given up after it.
        ("KAFKA__SESSION_TIMEOUT", "6s"),
        ("POSTGRES__URL", url.expose()),
        ("POSTGRES__SCHEMA", database.schema()),
        ("POSTGRES__MIGRATE", "false"),
        // Its own nonsense is no bad deployment.
        ("DEAD_LETTERS__BREAKER_CONSECUTIVE", "0"),
        ("DEAD_LETTERS__BREAKER_RATIO", "0"),
        // A free port: whatever runs already is not disturbed.
        ("HTTP__LISTEN", "127.0.0.1:0"),
    ]
    .map(|(key, value)| (format!("WORKER_{key}"), value.to_owned()))
    .into()
}
