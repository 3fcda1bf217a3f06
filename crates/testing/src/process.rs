//! Processes that end with the test.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::poll;

/// How long a process may take to end by itself when its value is dropped.
const GRACE_ON_DROP: Duration = Duration::from_secs(3);

/// A process in its own group, with its output in a file. Dropping it ends the whole group.
#[derive(Debug)]
pub struct Child {
    name: String,
    child: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `command`; what it prints is appended to `log`.
    #[track_caller]
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Child {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("cannot open the log file {}: {error}", log.display()));
        let errors = output.try_clone().expect("a file descriptor can be copied");
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Child { name: name.into(), child, log: log.into() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends SIGKILL to the whole group.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.reap();
    }

    /// Asks the process to end with SIGTERM; `None` when it has not after `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        self.signal(Signal::TERM);
        self.wait(timeout)
    }

    /// Waits until the process ends by itself; `None` when it has not after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        poll(timeout, || self.child.try_wait().ok().flatten())
    }

    /// Sends a signal to the whole group. A group that is gone is no error.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // The process may have ended by itself a moment ago.
            let _ = kill_process_group(pid, signal);
        }
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything that the process has printed.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines that the process has printed.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    fn reap(&mut self) {
        // Failing means that somebody has reaped it already.
        let _ = self.child.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.terminate(GRACE_ON_DROP).is_none() {
            self.kill();
        } else {
            // The leader has ended; what it started in its group must too.
            self.signal(Signal::KILL);
        }
    }
}

/// The last lines of a file; empty when it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a command to its end and panics, with what it printed, when it fails. Returns its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    match try_run(command) {
        Ok(output) => output,
        Err(message) => panic!("{message}"),
    }
}

/// Runs a command to its end; the error holds the command and what it printed.
pub fn try_run(command: &mut Command) -> Result<String, String> {
    let output = output(command);
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Runs a command to its end, whatever comes of it.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// The processes that a process has started itself.
pub fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        line.and_then(|text| text.trim().parse::<u32>().ok()) == Some(parent)
    };
    pids.filter(is_child).collect()
}

/// Whether a process is still there. One that has ended and is reaped by nobody counts as gone.
pub fn is_there(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Sends SIGKILL to one process. One that is gone is no error.
pub fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// The processes whose working folder, program or arguments lie below `folder`, with their ids and
/// command lines. Databases leave the process group of whoever started them; they are found by this.
pub fn processes_under(folder: &Path) -> Vec<(u32, String)> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid: u32| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            let command_line = fs::read(proc.join("cmdline")).unwrap_or_default();
            let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
            let lies_below = |link: &str| fs::read_link(proc.join(link)).is_ok_and(|path| path.starts_with(folder));
            let named = folder.to_str().is_some_and(|folder| names_path(&command_line, folder));
            (lies_below("cwd") || lies_below("exe") || named).then_some((pid, command_line))
        })
        .collect()
}

/// Whether `text` names `folder` or something below it, and not merely a folder whose name starts alike.
fn names_path(text: &str, folder: &str) -> bool {
    text.match_indices(folder).any(|(at, _)| {
        let after = text[at + folder.len()..].chars().next();
        after.is_none_or(|next| next == '/' || !(next.is_alphanumeric() || "-_.".contains(next)))
    })
}

/// Sends SIGKILL to every process that works below `folder`, until none is left.
pub fn kill_all_under(folder: &Path) {
    let gone = poll(Duration::from_secs(10), || {
        let found = processes_under(folder);
        for (pid, _) in &found {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                // It may have ended by itself between being found and now.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        found.is_empty().then_some(())
    });
    if gone.is_none() {
        eprintln!("still running below {}: {:?}", folder.display(), processes_under(folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_ends_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut child = Child::spawn("sleeper", Command::new("sh").args(["-c", "echo up; sleep 100 & wait"]), &log);
        crate::wait::wait_until("its first line", Duration::from_secs(5), || child.log_text() == "up\n");
        assert!(child.is_running());
        let pid = child.pid();
        drop(child);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn processes_are_found_by_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        let child = Child::spawn("sleeper", command.arg("100").current_dir(folder.path()), &folder.path().join("log"));
        assert_eq!(processes_under(folder.path()).iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), [child.pid()]);
        assert!(names_path("cat /tmp/a/b", "/tmp/a") && names_path("-D /tmp/a ", "/tmp/a"));
        assert!(!names_path("cat /tmp/ab", "/tmp/a"));
    }

    #[test]
    fn a_failed_command_says_what_it_printed() {
        let error = try_run(Command::new("sh").args(["-c", "echo no such luck >&2; exit 4"])).unwrap_err();
        assert!(error.contains("no such luck") && error.contains("exit status: 4"), "{error}");
    }
}
