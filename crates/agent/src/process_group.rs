//! A command that runs with all that it starts, in a process group of its own, so that all of it can be ended.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How long a command, and all that it has started, has to end by itself when it is told to, before it is ended.
const ENDING_TIME: Duration = Duration::from_secs(5);
/// How often it is looked whether a command has ended: short beside what a hook does, cheap beside a copy.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked whether anything of a group still runs: all of `/proc` may have to be gone through.
const LOOK_AROUND_EVERY: Duration = Duration::from_millis(50);

/// A running command. Dropping it ends nothing.
pub struct ProcessGroup {
    /// Locked by whoever signals the group or reaps its leader, so that no signal goes to a number that is free again.
    leader: Mutex<Leader>,
}

/// What a wait for a command has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    Ended(ExitStatus),
    /// It still runs, and whoever waits for it was to stop.
    Stopped,
    /// It still runs, and the time is over.
    OutOfTime,
}

impl ProcessGroup {
    /// Starts a command that reads nothing. What it prints goes where this process prints its errors: standard output
    /// belongs to this process's own result. Nothing here reads it, so what a command leaves behind may keep it open.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(io::stderr()).process_group(0).spawn()?;
        Ok(Self { leader: Mutex::new(Leader { child, status: None }) })
    }

    /// Waits until the command has ended, for so long at most. What it has left running runs on, and is not waited for.
    pub fn wait(&self, time_max: Duration, is_stopped: impl Fn() -> bool) -> io::Result<Waited> {
        let begun = Instant::now();
        loop {
            let status = self.lock().reap()?;
            if let Some(status) = status {
                return Ok(Waited::Ended(status));
            }
            if is_stopped() {
                return Ok(Waited::Stopped);
            }
            if begun.elapsed() >= time_max {
                return Ok(Waited::OutOfTime);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Tells it to end, with all that it has started, and waits for nothing.
    pub fn tell_to_end(&self) {
        self.lock().signal(Signal::TERM);
    }

    /// Tells it to end, with all that it has started, and ends what does not. When the command has ended before, what
    /// it has left running runs on: the number of its group may be another's by now.
    pub fn end(&self) {
        self.end_within(ENDING_TIME);
    }

    fn end_within(&self, ending_time: Duration) {
        // Locked all the while: were the leader reaped by who waits for it, what ignores the first signal could not be
        // ended any more.
        let mut leader = self.lock();
        leader.signal(Signal::TERM);
        // A shell without a trap ends at once, while what it has started still thaws a disk or removes a lock.
        leader.wait_for_group(ending_time);
        leader.signal(Signal::KILL);
        // Even a killed process stays for as long as a disk or a network share does not answer it.
        if leader.has_ended(ENDING_TIME) {
            let _ = leader.reap();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Leader> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command itself. Until it is reaped its number, which is that of its group, stays its own.
struct Leader {
    child: Child,
    /// Once it is reaped.
    status: Option<ExitStatus>,
}

impl Leader {
    fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Gives a signal to the whole group.
    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), signal);
        }
    }

    /// Waits so long at most until nothing of its group runs any more, and reaps nothing.
    fn wait_for_group(&self, within: Duration) {
        let begun = Instant::now();
        if self.status.is_some() || !self.has_ended(within) {
            return;
        }
        let group = Pid::from_child(&self.child).as_raw_pid();
        let mut watched = None;
        while begun.elapsed() < within {
            // One is enough to wait on: the others are looked for when that one has ended.
            if watched.is_none_or(|pid| !runs_in(group, pid)) {
                watched = match running_in(group) {
                    Ok(None) => return,
                    Ok(found) => found,
                    // What cannot be seen may still clean up, and gets all its time.
                    Err(_) => None,
                };
            }
            thread::sleep(LOOK_AROUND_EVERY);
        }
    }

    /// Waits so long at most until it has ended, and does not reap it.
    fn has_ended(&self, within: Duration) -> bool {
        let begun = Instant::now();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while self.status.is_none() {
            match waitid(WaitId::Pid(Pid::from_child(&self.child)), options) {
                Ok(None) | Err(Errno::INTR) if begun.elapsed() < within => thread::sleep(LOOK_EVERY),
                Ok(None) | Err(Errno::INTR) => return false,
                Ok(Some(_)) | Err(_) => return true,
            }
        }
        true
    }
}

/// The number of a process of this group that runs. One that has ended and is not reaped yet does not.
fn running_in(group: i32) -> io::Result<Option<u32>> {
    // Without a `/proc`, or with that of another namespace, nothing would be found although something runs.
    if !fs::read("/proc/self/stat")?.starts_with(format!("{} ", process::id()).as_bytes()) {
        return Err(io::Error::other("/proc does not show the processes that this one sees"));
    }
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if runs_in(group, pid) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Whether a process is of this group and runs. One whose state is hidden is another user's, as a rule: no signal of
/// this process would reach it.
fn runs_in(group: i32, pid: u32) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let stat = String::from_utf8_lossy(&stat);
    state_and_group(&stat).is_some_and(|(state, of)| of == group && !matches!(state, "Z" | "X"))
}

/// Two fields of a process's `stat`, as in proc_pid_stat(5).
fn state_and_group(stat: &str) -> Option<(&str, i32)> {
    // A program's name comes before them, in brackets, and may hold blanks and brackets itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let _parent = fields.next()?;
    Some((state, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use levee_testing::process::{is_there, kill};
    use levee_testing::wait::{wait_for, wait_until};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);
    /// Starts something that ignores SIGTERM, and says its number once it does.
    const STUBBORN: &str = "sh -c 'trap \"\" TERM; echo $$ > \"$PID_FILE\"; exec sleep 600' &";

    fn start(script: &str, pid_file: &Path) -> ProcessGroup {
        ProcessGroup::start(Command::new("/bin/sh").args(["-c", script]).env("PID_FILE", pid_file)).unwrap()
    }

    /// The number in a file, once it is there.
    #[track_caller]
    fn number_in(pid_file: &Path) -> u32 {
        let read = || fs::read_to_string(pid_file).ok()?.strip_suffix('\n')?.parse::<u32>().ok();
        wait_for("it has started something", LONG, read)
    }

    fn wait(group: &ProcessGroup) -> Waited {
        group.wait(LONG, || false).unwrap()
    }

    fn signal_of(waited: Waited) -> Option<i32> {
        match waited {
            Waited::Ended(status) => status.signal(),
            Waited::Stopped | Waited::OutOfTime => None,
        }
    }

    #[test]
    fn how_a_command_has_ended_is_passed_on() {
        let code = |script: &str| match wait(&start(script, Path::new("/dev/null"))) {
            Waited::Ended(status) => status.code(),
            waited => panic!("{script}: {waited:?}"),
        };
        assert_eq!(code("true"), Some(0));
        assert_eq!(code("exit 7"), Some(7));
        assert_eq!(code("kill -9 $$"), None);
        let group = start("exit 7", Path::new("/dev/null"));
        let first = wait(&group);
        // There is nothing to end any more, and nothing to wait for.
        group.end();
        assert_eq!(wait(&group), first);
        assert!(ProcessGroup::start(&mut Command::new("/no/such/command")).is_err());
    }

    #[test]
    fn what_ignores_the_signal_to_end_is_ended_although_its_leader_has_ended_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let group = start(&format!("{STUBBORN} wait"), &pid_file);
        let pid = number_in(&pid_file);
        let begun = Instant::now();
        group.end_within(SHORT);
        assert!(begun.elapsed() >= SHORT, "it was ended after {:?}", begun.elapsed());
        wait_until("it is gone", LONG, || !is_there(pid));
        assert_eq!(signal_of(wait(&group)), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn what_cleans_up_when_it_is_told_to_end_has_its_time_although_its_leader_has_ended_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let cleaning_up = "(trap 'sleep 1; echo done > \"$PID_FILE.done\"; exit' TERM; echo $$ > \"$PID_FILE\"; \
                           while :; do sleep 0.1; done) & wait";
        let group = start(cleaning_up, &pid_file);
        number_in(&pid_file);
        let begun = Instant::now();
        group.end_within(LONG);
        assert_eq!(fs::read_to_string(folder.path().join("pid.done")).unwrap(), "done\n");
        assert!(begun.elapsed() < LONG, "nobody has seen that it had ended");
        assert_eq!(signal_of(wait(&group)), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn what_has_ended_unheard_and_what_has_left_the_group_are_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        // The one that leaves has started one that stays, and never hears that it has ended.
        let leaving = "(sleep 600 & exec setsid sh -c 'echo $$ > \"$PID_FILE\"; exec sleep 600') & wait";
        let group = start(leaving, &pid_file);
        let pid = number_in(&pid_file);
        let begun = Instant::now();
        group.end_within(LONG);
        let (was_there, lasted) = (is_there(pid), begun.elapsed());
        kill(pid);
        assert!(was_there, "what has left the group was ended with it");
        assert!(lasted < LONG, "it was waited for");
    }

    #[test]
    fn a_programs_name_does_not_hide_its_state_and_group() {
        assert_eq!(state_and_group("42 (sh) S 7 99 98 0 -1 4194304"), Some(("S", 99)));
        assert_eq!(state_and_group("42 (a) Z 1 1 () Z 7 99 98 0 -1"), Some(("Z", 99)));
        assert_eq!(state_and_group("42 (sh) S 7"), None);
        assert_eq!(state_and_group(""), None);
    }

    #[test]
    fn a_leader_that_ignores_the_signal_to_end_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let group = start("trap '' TERM; echo $$ > \"$PID_FILE\"; exec sleep 600", &pid_file);
        number_in(&pid_file);
        group.end_within(SHORT);
        assert_eq!(signal_of(wait(&group)), Some(Signal::KILL.as_raw()));
    }

    #[test]
    fn nobody_waits_for_what_a_command_has_left_running_with_its_output_open() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let group = start("sleep 600 & echo $! > \"$PID_FILE\"; exit 5", &pid_file);
        let waited = wait(&group);
        let pid = number_in(&pid_file);
        let was_there = is_there(pid);
        kill(pid);
        assert!(matches!(waited, Waited::Ended(status) if status.code() == Some(5)), "{waited:?}");
        assert!(was_there, "what was left running has ended with it");
    }

    #[test]
    fn a_command_runs_on_when_the_time_is_over_until_it_is_ended() {
        let group = start("exec sleep 600", Path::new("/dev/null"));
        assert_eq!(group.wait(Duration::from_millis(100), || false).unwrap(), Waited::OutOfTime);
        group.end();
        assert_eq!(signal_of(wait(&group)), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn a_wait_that_is_to_stop_stops_and_the_command_runs_on_until_it_is_told_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let group = start("echo $$ > \"$PID_FILE\"; exec sleep 600", &pid_file);
        let stop = AtomicBool::new(false);
        let pid = thread::scope(|scope| {
            let waiting = scope.spawn(|| group.wait(LONG, || stop.load(Ordering::Relaxed)).unwrap());
            let pid = number_in(&pid_file);
            stop.store(true, Ordering::Relaxed);
            assert_eq!(waiting.join().unwrap(), Waited::Stopped);
            pid
        });
        assert!(is_there(pid));
        group.tell_to_end();
        assert_eq!(signal_of(wait(&group)), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn all_is_gone_for_who_waits_when_another_ends_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let group = start(&format!("{STUBBORN} wait"), &pid_file);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&group));
            let pid = number_in(&pid_file);
            group.end_within(SHORT);
            assert_eq!(signal_of(waiting.join().unwrap()), Some(Signal::TERM.as_raw()));
            wait_until("what it has started is gone, too", LONG, || !is_there(pid));
        });
    }
}
