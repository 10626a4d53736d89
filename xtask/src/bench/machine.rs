//! What processes and the machine used: `/proc`, and the disk's time for a durable write.

use std::fs;
use std::io::Write;
use std::ops::{Add, Sub};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

/// CPU seconds.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, earlier: Cpu) -> Cpu {
        Cpu { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

impl Add for Cpu {
    type Output = Cpu;

    fn add(self, other: Cpu) -> Cpu {
        Cpu { user: self.user + other.user, system: self.system + other.system }
    }
}

/// Ticks of `/proc`: 100 a second on every Linux that Fairlead runs on (USER_HZ is part of the ABI).
const TICKS: f64 = 100.0;

/// What a process used so far, all its threads together.
pub fn cpu(pid: u32) -> anyhow::Result<Cpu> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let (_, fields) = text.rsplit_once(')').context("no process name in stat")?;
    // After the name: state is field 3 of proc(5); utime and stime are 14 and 15.
    let ticks = |at: usize| fields.split_whitespace().nth(at - 3).and_then(|word| word.parse::<f64>().ok());
    let (user, system) = ticks(14).zip(ticks(15)).context("no times in stat")?;
    Ok(Cpu { user: user / TICKS, system: system / TICKS })
}

/// A process and its children.
pub fn family(pid: u32) -> anyhow::Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let children = text.split_whitespace().filter_map(|word| word.parse().ok());
    Ok(std::iter::once(pid).chain(children).collect())
}

/// How long a process has run, to within a tick.
pub fn age(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let (_, fields) = text.rsplit_once(')').context("no process name in stat")?;
    // Field 22 of proc(5): ticks between the machine's start and the process's.
    let started: f64 = fields.split_whitespace().nth(22 - 3).context("no start in stat")?.parse()?;
    let uptime = fs::read_to_string("/proc/uptime").context("reading /proc/uptime")?;
    let uptime: f64 = uptime.split_whitespace().next().context("no uptime")?.parse()?;
    Ok(Duration::from_secs_f64((uptime - started / TICKS).max(0.0)))
}

/// Seconds that all cores together were busy since the machine started.
pub fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq; steal was taken by others and counts as busy.
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    (ticks.iter().take(8).sum::<f64>() - idle) / TICKS
}

/// Resident memory of a process in MiB.
pub fn resident(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in status")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("reading VmRSS")?;
    Ok(kib / 1024.0)
}

/// Cores, processor and present load, for the head of a report.
pub fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("{cores} cores, {model}, load average {load} at the start")
}

/// The median time that `folder`'s disk takes to make 4 KiB durable.
pub fn fsync(folder: &Path) -> anyhow::Result<Duration> {
    let path = folder.join("fsync-probe");
    let mut file = fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let mut times = Vec::new();
    for _ in 0..64 {
        file.write_all(&[7; 4096])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    fs::remove_file(&path)?;
    times.sort();
    Ok(times[times.len() / 2])
}
