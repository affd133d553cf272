//! The workers under test: this very binary as child processes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How often to look at a worker's memory.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// How long the end of a killed process may take.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// How to start a worker.
pub struct Launcher {
    /// This binary.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Set in its environment.
    pub set: Vec<(String, String)>,
    /// Removed from its environment.
    pub unset: Vec<&'static str>,
    /// Where its log goes.
    pub logs: PathBuf,
    /// How long an orderly end may take.
    pub grace: Duration,
}

/// A running worker. Killed when dropped.
pub struct Worker {
    child: Child,
    pid: Pid,
    memory: JoinHandle<()>,
}

impl Worker {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // Not yet waited for, so nobody else can have this id.
        signal::kill(self.pid, signal)
            .with_context(|| format!("sending {signal} to worker {}", self.pid))
    }

    /// Its state as the kernel tells, such as `T` for stopped.
    pub fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // After the name in parentheses, which may hold anything.
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It does not end within `patience`.
    pub async fn ended(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        match timeout(patience, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("worker {} has not ended within {patience:?}", self.pid),
        }
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Errors
    /// It ended otherwise.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        let status = self.ended(KILLED_WITHIN).await?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            bail!("worker {} ended otherwise: {status}", self.pid);
        }
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.memory.abort();
    }
}

/// All workers, and what they did that nobody asked for.
pub struct Fleet {
    launcher: Launcher,
    workers: Vec<Worker>,
    peak_kib: Arc<AtomicU64>,
    started: usize,
    complaints: Vec<String>,
}

impl Fleet {
    /// Starts so many workers.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn start(launcher: Launcher, workers: usize) -> anyhow::Result<Self> {
        let mut fleet = Self {
            launcher,
            workers: Vec::new(),
            peak_kib: Arc::default(),
            started: 0,
            complaints: Vec::new(),
        };
        for _ in 0..workers {
            let worker = fleet.launch()?;
            fleet.workers.push(worker);
        }
        Ok(fleet)
    }

    /// Starts one more, which is not a member of the fleet.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<Worker> {
        self.started += 1;
        let launcher = &self.launcher;
        let log = File::create(launcher.logs.join(format!("worker-{:03}.log", self.started)))?;
        let mut command = Command::new(&launcher.program);
        command
            .args(&launcher.arguments)
            .envs(launcher.set.iter().map(|(name, value)| (name, value)))
            // An interrupt from the terminal is for us to handle.
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        for name in &launcher.unset {
            command.env_remove(name);
        }
        let child = command.spawn().context("starting a worker")?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = Pid::from_raw(pid.context("a worker has ended at its start")?);
        let memory = tokio::spawn(watch_memory(pid, self.peak_kib.clone()));
        Ok(Worker { child, pid, memory })
    }

    /// A member by number.
    ///
    /// # Errors
    /// There is none.
    pub fn member(&mut self, number: usize) -> anyhow::Result<&mut Worker> {
        self.workers.get_mut(number).context("there is no such worker")
    }

    /// Puts a new worker in a member's place; answers the old one.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn replace(&mut self, number: usize) -> anyhow::Result<Worker> {
        let new = self.launch()?;
        Ok(std::mem::replace(self.member(number)?, new))
    }

    /// Notes who has ended without being asked to, and starts another in its place.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn look(&mut self) -> anyhow::Result<()> {
        for number in 0..self.workers.len() {
            let worker = self.member(number)?;
            if let Some(status) = worker.child.try_wait()? {
                let pid = worker.pid;
                self.complaints.push(format!("worker {pid} ended by itself: {status}"));
                self.replace(number)?;
            }
        }
        Ok(())
    }

    /// Asks a worker to end in order, and notes when it does not.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn retire(&mut self, mut worker: Worker) -> anyhow::Result<()> {
        worker.signal(Signal::SIGTERM)?;
        let pid = worker.pid;
        // A moment more than it gives itself.
        match worker.ended(self.launcher.grace + Duration::from_secs(10)).await {
            Ok(status) if status.success() => {}
            Ok(status) => {
                self.complaints.push(format!("worker {pid} did not end in order: {status}"));
            }
            Err(error) => self.complaints.push(error.to_string()),
        }
        Ok(())
    }

    /// Ends all in order; answers what was wrong with them from the start.
    ///
    /// # Errors
    /// As [`Fleet::look`].
    pub async fn end(mut self) -> anyhow::Result<Vec<String>> {
        self.look()?;
        for worker in std::mem::take(&mut self.workers) {
            self.retire(worker).await?;
        }
        Ok(self.complaints)
    }

    /// The most memory any worker ever had, in KiB; 0 where the system does not tell.
    pub fn peak_kib(&self) -> Arc<AtomicU64> {
        self.peak_kib.clone()
    }
}

/// Follows a process's peak until it is gone.
async fn watch_memory(pid: Pid, peak_kib: Arc<AtomicU64>) {
    while let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak_kib.fetch_max(kib.unwrap_or_default(), Ordering::Relaxed);
        sleep(SAMPLE_EVERY).await;
    }
}
