//! The real binary as a child process.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::watched::{Crew, MEMORY, Memory, Watched};
use super::{PATIENCE, Page, Scene, eventually};

/// How often a worker's memory is looked at: one that ends by itself takes its peak with it.
const LOOK: Duration = Duration::from_millis(100);

/// A worker to be started.
#[derive(Clone)]
pub struct WorkerBuilder {
    env: BTreeMap<String, String>,
    args: Vec<String>,
    failpoints: Vec<String>,
    memory: Memory,
    crew: Crew,
}

impl WorkerBuilder {
    pub(super) fn new(scene: &Scene) -> Self {
        let builder = Self {
            env: BTreeMap::new(),
            args: vec!["run".into()],
            // `scripts/guards` asks for a worker without one of its guards.
            failpoints: std::env::var("WITHOUT_GUARD")
                .map(|guard| format!("without-{guard}=return"))
                .into_iter()
                .collect(),
            memory: MEMORY,
            crew: scene.crew.clone(),
        };
        builder
            .set("KAFKA__BOOTSTRAP_SERVERS", &scene.brokers)
            .set("KAFKA__TOPICS", &scene.topic)
            .set("KAFKA__GROUP_ID", &scene.group)
            .set("KAFKA__SESSION_TIMEOUT", "6s")
            .set("KAFKA__LAG_INTERVAL", "200ms")
            .set("KAFKA__COMMIT_INTERVAL", "200ms")
            .set("POSTGRES__URL", &scene.database_url)
            .set("POSTGRES__SCHEMA", &scene.schema)
            .set("POSTGRES__LOCK_TIMEOUT", "5s")
            .set("POSTGRES__IDLE_IN_TRANSACTION_TIMEOUT", "5s")
            .set("RETRY__MAX", "1s")
            .set("HTTP__LISTEN", "127.0.0.1:0")
            .set("LOG__FORMAT", "json")
    }

    /// Sets `WORKER_{key}`.
    pub fn set(self, key: &str, value: &str) -> Self {
        self.env(&format!("WORKER_{key}"), value)
    }

    /// Sets an environment variable by its whole name.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Leaves `WORKER_{key}` to its default.
    pub fn unset(mut self, key: &str) -> Self {
        self.env.remove(&format!("WORKER_{key}"));
        self
    }

    /// What happens at a point of `src/failpoint.rs`, such as `before-commit=1*return`.
    pub fn failpoint(mut self, happens: &str) -> Self {
        self.failpoints.push(happens.to_owned());
        self
    }

    /// Another subcommand than `run`.
    pub fn command(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    /// Its memory may peak higher than others', for a reason.
    pub fn memory_below(mut self, mib: u64, why: &'static str) -> Self {
        self.memory = (mib, why);
        self
    }

    fn process(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_user-events-worker"));
        command.args(&self.args).kill_on_drop(true).stdin(Stdio::null());
        for name in ["DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "FAILPOINTS"] {
            command.env_remove(name);
        }
        command.envs(&self.env);
        if !self.failpoints.is_empty() {
            if cfg!(not(feature = "failpoints")) {
                panic!("build with --features failpoints: see `make test`");
            }
            command.env("FAILPOINTS", self.failpoints.join(";"));
        }
        command
    }

    /// Starts the worker and waits until it serves HTTP.
    pub async fn start(&self) -> Worker {
        let mut child = self.process().stderr(Stdio::piped()).spawn().unwrap();
        let watched = Arc::new(Watched::new(child.id().unwrap()));
        self.crew.joined_by(&watched);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let watch = watched.clone();
        let reader = tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    line = lines.next_line() => match line {
                        Ok(Some(line)) => watch.says(&line),
                        _ => break,
                    },
                    _ = looks.tick() => watch.look(),
                }
            }
        });
        let (reader, memory) = (Some(reader), self.memory);
        let mut worker = Worker { child, watched, memory, reader, addr: String::new() };
        worker.addr = eventually("the worker serves http", async || {
            let ended = worker.child.try_wait().unwrap();
            let log = worker.log();
            assert!(!log.contains("error: the configuration cannot be used"), "{log}");
            // A failpoint may have ended it since.
            if let Some(line) = log.lines().find(|line| line.contains("http listening")) {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                return Some(line["addr"].as_str()?.to_owned());
            }
            assert!(ended.is_none(), "the worker ended ({ended:?}):\n{log}");
            None
        })
        .await;
        worker
    }

    /// Runs to the end; answers exit code, standard output and standard error.
    pub async fn output(&self) -> (Option<i32>, String, String) {
        self.output_within(PATIENCE).await
    }

    /// The same, for a command that takes long.
    pub async fn output_within(&self, patience: Duration) -> (Option<i32>, String, String) {
        let ended = tokio::time::timeout(patience, self.process().output()).await;
        let output = ended.expect("the command ends").unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

/// A running worker. Killed when dropped, and however it ended, held against what it may take; its
/// log is printed when a test panics.
pub struct Worker {
    child: Child,
    watched: Arc<Watched>,
    memory: Memory,
    reader: Option<JoinHandle<()>>,
    addr: String,
}

impl Worker {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.child.id().map(|pid| i32::try_from(pid).unwrap())
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill(mut self) {
        self.watched.look();
        self.child.kill().await.unwrap();
        self.all_is_read().await;
    }

    /// SIGTERM, and waits for the end; answers the exit code.
    pub async fn stop(self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.exited().await
    }

    /// Waits for the end; answers the exit code.
    pub async fn exited(self) -> Option<i32> {
        self.exited_with_log().await.0
    }

    /// The same, and all it logged.
    pub async fn exited_with_log(mut self) -> (Option<i32>, String) {
        let code = self.ended().await;
        (code, self.log())
    }

    /// Waits for the end; answers the exit code. The log stays at hand.
    pub async fn ended(&mut self) -> Option<i32> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let code = status.expect("the worker ends").unwrap().code();
        self.all_is_read().await;
        code
    }

    /// The pipe ends with the process: then the log is complete.
    async fn all_is_read(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.await.unwrap();
        }
    }

    /// Waits until it has stopped itself at a failpoint.
    pub async fn is_asleep(&self) {
        let path = format!("/proc/{}/stat", self.pid().expect("the worker runs"));
        eventually("the worker sleeps at its failpoint", async || {
            let stat = std::fs::read_to_string(&path).unwrap();
            // The state follows the name, which is in parentheses.
            let (_, rest) = stat.rsplit_once(") ")?;
            rest.starts_with('T').then_some(())
        })
        .await;
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.watched.log()
    }

    /// GET: status code and body. `None` when nobody answers.
    pub async fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
        let response = client.get(format!("http://{}{path}", self.addr)).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// GET that must be answered.
    pub async fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).await.expect("the worker answers http")
    }

    /// `/status`, parsed.
    pub async fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/status").await.1).unwrap()
    }

    /// `/metrics`, parsed.
    pub async fn page(&self) -> Page {
        let (code, text) = self.get("/metrics").await;
        assert_eq!(code, 200);
        Page::parse(&text)
    }

    /// Where it serves HTTP.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// The partitions it has been assigned.
    pub async fn assigned(&self) -> usize {
        self.status().await["partitions"].as_array().map_or(0, Vec::len)
    }

    /// Waits until it holds so many partitions, all of them claimed.
    pub async fn holds(&self, partitions: usize) {
        eventually(&format!("the worker holds {partitions} partitions"), async || {
            let ready = self.try_get("/readyz").await?.0 == 200;
            (ready && self.assigned().await == partitions).then_some(())
        })
        .await;
    }

    /// The sum of a metric over the label values that contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        text.lines()
            .filter(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && line.contains(labels)
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        match std::thread::panicking() {
            true => eprintln!("--- log of worker {:?}\n{}---", self.child.id(), self.log()),
            false => self.watched.is_within(self.memory),
        }
    }
}
