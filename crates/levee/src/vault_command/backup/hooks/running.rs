//! A command that runs, with all that it starts.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long a command has to end by itself when it is told to, before it is ended.
const ENDING_TIME: Duration = Duration::from_secs(5);
/// How often it is looked whether a command has ended: short beside what a hook does, cheap beside a backup.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A process group of its own, so that all of it can be ended.
#[derive(Clone)]
pub struct Running {
    group: Pid,
    /// Its leader stays unreaped while it is locked: the group's number cannot be another's then.
    child: Arc<Mutex<Child>>,
}

impl Running {
    pub fn start(command: &str, moment: &str, variables: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let child = Command::new("/bin/sh")
            .args(["-c", command])
            .env("LEVEE_HOOK", moment)
            .envs(variables.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            // Standard output belongs to the backup's own result.
            .stdout(io::stderr())
            .process_group(0)
            .spawn()
            .context("cannot run /bin/sh")?;
        let group = Pid::from_child(&child);
        Ok(Self { group, child: Arc::new(Mutex::new(child)) })
    }

    /// Waits for its success, for so long at most.
    pub fn wait(&self, time_max: Duration) -> anyhow::Result<()> {
        match self.ended_within(time_max).context("cannot wait for it")? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("it failed ({status})"),
            None => {
                self.end();
                bail!("it was ended after {} s without a result (--hook-timeout)", time_max.as_secs())
            }
        }
    }

    /// Tells it to end, and ends it if it does not.
    pub fn end(&self) {
        self.signal(Signal::TERM);
        if !matches!(self.ended_within(ENDING_TIME), Ok(Some(_))) {
            self.signal(Signal::KILL);
            let _ = self.ended_within(ENDING_TIME);
        }
    }

    fn ended_within(&self, time_max: Duration) -> io::Result<Option<ExitStatus>> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()? {
                return Ok(Some(status));
            }
            if started.elapsed() >= time_max {
                return Ok(None);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn signal(&self, signal: Signal) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(child.try_wait(), Ok(None)) {
            let _ = kill_process_group(self.group, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &str, time_max: Duration) -> Result<(), String> {
        let running = Running::start(command, "before", &[("LEVEE_ERROR", "a b".into())]).unwrap();
        running.wait(time_max).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_command_hears_what_has_happened_and_says_how_it_ended() {
        let long = Duration::from_secs(60);
        assert_eq!(run("test \"$LEVEE_HOOK:$LEVEE_ERROR\" = 'before:a b'", long), Ok(()));
        assert!(run("exit 3", long).unwrap_err().contains('3'));
        assert!(run("no-such-command-anywhere", long).unwrap_err().contains("failed"));
    }

    #[test]
    fn what_a_hook_has_started_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let command = format!("sleep 600 & echo $! > {}; wait", file.display());
        let ended = run(&command, Duration::from_secs(1)).unwrap_err();
        assert!(ended.contains("--hook-timeout"), "{ended}");
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let is_there = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        let started = Instant::now();
        while is_there() && started.elapsed() < Duration::from_secs(30) {
            thread::sleep(LOOK_EVERY);
        }
        assert!(!is_there());
    }
}
