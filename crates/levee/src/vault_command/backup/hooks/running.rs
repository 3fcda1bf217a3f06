//! A hook that runs, with all that it starts.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use levee_agent::process_group::{ProcessGroup, Waited};

/// Shared with whoever ends it when a signal comes.
#[derive(Clone)]
pub struct Running(Arc<ProcessGroup>);

impl Running {
    pub fn start(command: &str, moment: &str, variables: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", command])
            .env("LEVEE_HOOK", moment)
            .envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
        Ok(Self(Arc::new(ProcessGroup::start(&mut shell).context("cannot run /bin/sh")?)))
    }

    /// Waits for its success, for so long at most.
    pub fn wait(&self, time_max: Duration) -> anyhow::Result<()> {
        match self.0.wait(time_max, || false) {
            Ok(Waited::Ended(status)) if status.success() => Ok(()),
            Ok(Waited::Ended(status)) => bail!("it failed ({status})"),
            Ok(Waited::Stopped | Waited::OutOfTime) => {
                self.end();
                bail!("it was ended after {} s without a result (--hook-timeout)", time_max.as_secs())
            }
            Err(error) => {
                // It may still run, and --hook-after must not wake meanwhile what it brings to rest.
                self.end();
                Err(error).context("cannot wait for it, so it was ended")
            }
        }
    }

    /// Tells it to end, with all that it has started, and ends what does not.
    pub fn end(&self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use levee_testing::process::is_there;
    use levee_testing::wait::{wait_for, wait_until};
    use rustix::process::{Pid, WaitOptions, waitpid};

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
        // The shell ends when it is told to, and what it has started does not.
        let command = format!("(trap '' TERM; exec sleep 600) & echo $! > {}; wait", file.display());
        let ended = run(&command, Duration::from_secs(1)).unwrap_err();
        assert!(ended.contains("--hook-timeout"), "{ended}");
        let pid: u32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        wait_until("it is gone", Duration::from_secs(30), || !is_there(pid));
    }

    #[test]
    fn a_hook_that_cannot_be_waited_for_is_ended() {
        let long = Duration::from_secs(60);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let command = format!("sleep 600 & echo $$ $! > {}", file.display());
        let running = Running::start(&command, "before", &[]).unwrap();
        let numbers = || {
            let text = fs::read_to_string(&file).ok()?;
            let (shell, started) = text.strip_suffix('\n')?.split_once(' ')?;
            Some((shell.parse::<i32>().ok()?, started.parse::<u32>().ok()?))
        };
        let (shell, started) = wait_for("it has started something", long, numbers);
        // Reaped here, its end is not to be heard of any more by who waits for it.
        waitpid(Pid::from_raw(shell), WaitOptions::empty()).unwrap();
        let problem = format!("{:#}", running.wait(long).unwrap_err());
        assert!(problem.contains("cannot wait for it"), "{problem}");
        wait_until("what it has started is gone", long, || !is_there(started));
    }
}
