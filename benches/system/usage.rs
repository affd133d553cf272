//! What the kernel says that processes have used.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Clock ticks per second of `/proc/PID/stat` (Linux: always 100 for user space).
const TICKS: f64 = 100.0;

/// CPU seconds of one process so far, all its threads.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    Ok(Stat::of(pid)?.own)
}

/// CPU seconds of a process and its children, those that have ended included.
///
/// For Postgres: the postmaster, its background processes, and a process per connection.
pub(crate) fn cpu_seconds_of_family(pid: u32) -> Result<f64> {
    let children = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // One may end meanwhile: then its parent has it next time.
        .filter_map(|pid| Stat::of(pid).ok())
        .filter(|stat| stat.parent == pid);
    let children: f64 = children.map(|child| child.own).sum();
    let parent = Stat::of(pid)?;
    Ok(parent.own + parent.ended_children + children)
}

/// The greatest resident memory so far, in MiB.
pub(crate) fn peak_rss_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .context("no VmHWM")?;
    Ok(peak.trim().parse::<f64>()? / 1024.0)
}

/// The process whose id `scripts/services` keeps in this file; none when it did not start it.
pub(crate) fn recorded_pid(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.split_whitespace().next()?.parse().ok()
}

struct Stat {
    parent: u32,
    own: f64,
    ended_children: f64,
}

impl Stat {
    fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // After the name, which may hold blanks and brackets.
        let rest = stat.rsplit_once(')').context("no name in stat")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| -> Result<f64> {
            Ok(fields.get(index).context("stat is too short")?.parse()?)
        };
        Ok(Self {
            parent: fields.get(1).context("stat is too short")?.parse()?,
            own: (ticks(11)? + ticks(12)?) / TICKS,
            ended_children: (ticks(13)? + ticks(14)?) / TICKS,
        })
    }
}
