//! What a worker process takes, memory and log, and what it may take at most.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// MiB that a worker stays below, whatever happens to it. More is a test's to justify.
pub(super) const MEMORY: Memory = (100, "as promised");
/// To start, to take partitions, and to end.
const LOG_LINES: usize = 30;
/// A fault may say a few things at once ..
const LINES_PER_FAULT: usize = 20;
/// .. and each of them again every 10 s.
const LINES_PER_10_S: usize = 4;

/// So many lines are allowed within a time.
fn lines_allowed(at_once: usize, within: Duration) -> usize {
    at_once + LINES_PER_10_S * (within.as_secs() as usize / 10)
}

/// A bound, and why it is that.
pub(super) type Memory = (u64, &'static str);

/// A process, seen from outside.
pub(super) struct Watched {
    /// Of exactly this process: never that of another one with the same id.
    status: File,
    peak_kib: AtomicU64,
    log: Mutex<String>,
    started: Instant,
    faults: AtomicUsize,
}

impl Watched {
    pub(super) fn new(pid: u32) -> Self {
        let watched = Self {
            status: File::open(format!("/proc/{pid}/status")).unwrap(),
            peak_kib: AtomicU64::new(0),
            log: Mutex::new(String::new()),
            started: Instant::now(),
            faults: AtomicUsize::new(0),
        };
        watched.look();
        watched
    }

    /// Notes the peak of its memory, which the kernel keeps as long as the process lives.
    pub(super) fn look(&self) {
        let mut status = [0; 4096];
        // A process that has ended has no memory to tell of.
        let Ok(length) = self.status.read_at(&mut status, 0) else { return };
        let status = String::from_utf8_lossy(&status[..length]);
        let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) else {
            return;
        };
        let peak = line.trim().trim_end_matches(" kB").parse().unwrap();
        self.peak_kib.fetch_max(peak, Ordering::Relaxed);
    }

    pub(super) fn says(&self, line: &str) {
        let mut log = self.log.lock().unwrap();
        log.push_str(line);
        log.push('\n');
    }

    pub(super) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn lines(&self) -> usize {
        self.log.lock().unwrap().lines().count()
    }

    fn peak_mib(&self) -> u64 {
        self.peak_kib.load(Ordering::Relaxed).div_ceil(1024)
    }

    /// # Panics
    /// When it took more than it may.
    pub(super) fn is_within(&self, (most, why): Memory) {
        self.look();
        let peak = self.peak_mib();
        assert!(peak > 0, "the memory of a worker was never seen");
        assert!(peak < most, "a worker took {peak} MiB of memory; below {most} are allowed: {why}");
        let (lines, faults) = (self.lines(), self.faults.load(Ordering::Relaxed));
        let most = lines_allowed(LOG_LINES + LINES_PER_FAULT * faults, self.started.elapsed());
        assert!(
            lines <= most,
            "a worker wrote {lines} lines of log over {faults} faults; {most} are allowed\n{}",
            self.log()
        );
    }
}

/// All workers that a scene has seen, in the order of their start.
#[derive(Clone, Default)]
pub(super) struct Crew(Arc<Mutex<Vec<Arc<Watched>>>>);

impl Crew {
    pub(super) fn joined_by(&self, worker: &Arc<Watched>) {
        self.0.lock().unwrap().push(worker.clone());
    }

    /// A fault begins: each of them may say more.
    pub(super) fn meets_a_fault(&self) -> Since {
        let crew = self.0.lock().unwrap();
        let lines = crew.iter().map(|worker| {
            worker.faults.fetch_add(1, Ordering::Relaxed);
            worker.lines()
        });
        Since { lines: lines.collect(), from: Instant::now(), crew: self.clone() }
    }
}

/// What the workers of a scene took since a fault began.
pub(super) struct Since {
    /// What each had written by then; who came later had written nothing.
    lines: Vec<usize>,
    from: Instant,
    crew: Crew,
}

impl Since {
    /// The most memory that one of them ever had.
    pub(super) fn peak_mib(&self) -> Option<u64> {
        let crew = self.crew.0.lock().unwrap();
        crew.iter()
            .map(|worker| {
                worker.look();
                worker.peak_mib()
            })
            .max()
    }

    /// The most lines that one of them wrote.
    ///
    /// # Panics
    /// When one that was there all the time wrote more than a fault may say.
    pub(super) fn lines(&self) -> Option<usize> {
        let crew = self.crew.0.lock().unwrap();
        let most = lines_allowed(LINES_PER_FAULT, self.from.elapsed());
        let written = crew.iter().enumerate().map(|(nth, worker)| {
            let before = self.lines.get(nth);
            let lines = worker.lines() - before.unwrap_or(&0);
            assert!(
                before.is_none() || lines <= most,
                "{lines} lines of log about one fault; {most} are allowed\n{}",
                worker.log()
            );
            lines
        });
        written.max()
    }
}
