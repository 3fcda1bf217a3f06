//! One command, and what it cost: wall time, processor time, memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use serde::Serialize;

/// How often the memory is looked at. A peak between two looks is missed.
const MEMORY_SAMPLE_INTERVAL: Duration = Duration::from_millis(5);
/// The end of a failed command's log that goes into the error.
const LOG_TAIL_BYTES: usize = 2000;

/// What a command cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    pub wall_s: f64,
    /// User and system time of the process and of what it has waited for.
    pub cpu_s: f64,
    /// The most memory that belonged to no file, as sampled.
    pub anonymous_bytes_max: u64,
}

/// Runs a command to its end; its output goes to a file. Fails when it does not exit with 0.
pub fn measure(command: &mut Command, log: &Path) -> Result<Cost> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
    let sampler = MemorySampler::start(&child);
    // Without taking it away: what it cost can be read only while it is still there.
    wait_until_ended(&child).with_context(|| format!("cannot wait for {shown}"))?;
    let wall_s = started.elapsed().as_secs_f64();
    let cpu_s = cpu_seconds(child.id()).with_context(|| format!("cannot read what {shown} cost"))?;
    let anonymous_bytes_max = sampler.stop();
    let status = child.wait()?;
    if !status.success() {
        let log = fs::read(log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        bail!("{shown} ended with {status}:\n{}", String::from_utf8_lossy(tail));
    }
    Ok(Cost { wall_s, cpu_s, anonymous_bytes_max })
}

/// Forgets what the machine keeps in memory of files, so that the next command reads the disk.
pub fn drop_page_cache() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot empty the page cache; this measurement needs root")
}

fn wait_until_ended(child: &Child) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without a number")?;
    loop {
        match rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("/proc/{process}/stat is not what it should be: {stat}"))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// `utime + stime + cutime + cstime`, the fields 14 to 17 of proc(5). The name may hold anything, so they are
/// counted from its end.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

struct MemorySampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl MemorySampler {
    fn start(child: &Child) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told_to_stop = Arc::clone(&stop);
        let path = PathBuf::from(format!("/proc/{}/status", child.id()));
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !told_to_stop.load(Ordering::Relaxed) {
                // A process that has ended has no memory any more.
                let status = fs::read_to_string(&path).unwrap_or_default();
                most = most.max(anonymous_bytes(&status).unwrap_or(0));
                std::thread::sleep(MEMORY_SAMPLE_INTERVAL);
            }
            most
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn anonymous_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_costs_what_it_takes() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let cost = measure(Command::new("sh").args(["-c", busy]), &log).unwrap();
        assert!(cost.cpu_s > 0.0 && cost.cpu_s < cost.wall_s * 1.5 && cost.anonymous_bytes_max > 0, "{cost:?}");
        let failure = measure(Command::new("sh").args(["-c", "echo went wrong >&2; exit 3"]), &log).unwrap_err();
        assert!(failure.to_string().contains("went wrong"), "{failure}");
    }

    #[test]
    fn the_fields_of_proc_are_found_behind_any_name() {
        let stat = "17 (a) b) R 1 1 1 0 -1 4 1 2 3 4 100 20 3 4 20 0 1 0 5 6";
        assert_eq!(cpu_ticks(stat), Some(127));
        assert_eq!(cpu_ticks("17 (a)"), None);
        assert_eq!(anonymous_bytes("VmRSS:\t9 kB\nRssAnon:\t     152 kB\n"), Some(152 * 1024));
    }
}
