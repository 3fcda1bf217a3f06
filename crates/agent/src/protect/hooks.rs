//! The operator's own commands around the copies that an agent makes by itself: `hooks/before-copy` and `hooks/after-copy` in
//! the agent's folder.
//!
//! No protection file names a command: whoever may apply one, and the server itself, could then run anything on every host
//! that has an agent. Only who may write into the agent's folder says what runs. A file there that others could change is
//! not run, and no copy is made without it: what it was to bring to rest would not be at rest.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use levee_database::StopSignal;
use levee_model::control::Failure;
use levee_model::{AssetName, VaultName};
use rustix::process::geteuid;

use super::app::{App, transient};
use crate::process_group::{ProcessGroup, Waited};

/// How long a command may run, as with `levee vault backup`. Its copy holds its place in line meanwhile.
const TIME_MAX: Duration = Duration::from_secs(3600);
/// How long `after-copy` may go on once the agent is to stop: it wakes what was put to rest, and nothing else does.
const AFTER_STOP_MAX: Duration = Duration::from_secs(20);
const OTHERS_WRITE: u32 = 0o022;
const ANYBODY_EXECUTES: u32 = 0o111;

/// What is copied.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    Files,
    Base,
    /// From the recovery site to a further vault.
    Further(&'a VaultName),
}

/// A copy that is to be made.
pub struct CopyOf<'a> {
    pub app: &'a App,
    pub asset: &'a AssetName,
    pub kind: Kind<'a>,
}

/// What `after-copy` is told of a copy.
pub struct Saved {
    /// Its whole id.
    pub snapshot: String,
    /// All that was to be in it could be read.
    pub is_whole: bool,
}

/// A copy that was made.
#[derive(Debug)]
pub struct Hooked<T> {
    pub made: T,
    /// What went wrong after it.
    pub after: Option<String>,
}

/// Why a copy was not made.
#[derive(Debug)]
pub enum NotMade {
    /// The operator's command has not allowed it, or must not be run as it is.
    Hook(Failure),
    Copy(Failure),
}

impl From<Failure> for NotMade {
    fn from(failure: Failure) -> Self {
        NotMade::Copy(failure)
    }
}

impl From<NotMade> for Failure {
    fn from(not_made: NotMade) -> Self {
        match not_made {
            NotMade::Hook(failure) | NotMade::Copy(failure) => failure,
        }
    }
}

/// Makes a copy between the operator's commands, if there are any. `after-copy` runs however the copy goes, and be it by a
/// panic, as soon as `before-copy` was begun; `saved` is what it is told, and `None` counts as a failure.
pub fn around<T>(
    copy: &CopyOf<'_>,
    stop: &StopSignal,
    make: impl FnOnce() -> Result<T, Failure>,
    saved: impl FnOnce(&T) -> Option<Saved>,
) -> Result<Hooked<T>, NotMade> {
    let scripts = Scripts::find(copy.app.context.folder.root(), geteuid().as_raw());
    let scripts = scripts.map_err(|problem| copy.not_allowed(&problem))?;
    let (variables, begun) = (copy.variables(), Instant::now());
    let after =
        scripts.after.map(|script| AfterCopy { script, variables: variables.clone(), begun, stop, is_due: true });
    let made = match scripts.before.map_or(Ok(()), |script| script.run(&variables, stop)) {
        Ok(()) => make().map_err(NotMade::Copy),
        Err(problem) => Err(copy.not_allowed(&problem)),
    };
    let Some(after) = after else { return made.map(|made| Hooked { made, after: None }) };
    let (result, more) = match &made {
        Ok(made) => match saved(made) {
            Some(Saved { snapshot, is_whole: true }) => ("saved", ("LEVEE_SNAPSHOT_ID", snapshot)),
            Some(Saved { snapshot, is_whole: false }) => ("incomplete", ("LEVEE_SNAPSHOT_ID", snapshot)),
            None => ("failed", ("LEVEE_ERROR", "what is to be copied is damaged".into())),
        },
        Err(NotMade::Hook(failure) | NotMade::Copy(failure)) => ("failed", ("LEVEE_ERROR", failure.message.clone())),
    };
    // What is stopped says nothing any more: the site may have another part by now.
    let after = after.run(result, more).err().filter(|_| !stop.is_stopped());
    if let (Err(_), Some(problem)) = (&made, &after) {
        // The copy's own failure is what the status says.
        tracing::warn!(app = %copy.app.name, asset = %copy.asset, problem, "what runs after a failed copy has failed too");
    }
    made.map(|made| Hooked { made, after: after.map(|problem| format!("{} is made, but {problem}", copy.in_words())) })
}

/// What is to run after a copy that was begun. It wakes what was put to rest, and nothing else does: dropping it unrun, as a
/// panic on the way does, runs it.
struct AfterCopy<'a> {
    script: Script,
    variables: Vec<(&'static str, String)>,
    begun: Instant,
    stop: &'a StopSignal,
    is_due: bool,
}

impl AfterCopy<'_> {
    fn run(mut self, result: &str, more: (&'static str, String)) -> Result<(), String> {
        self.is_due = false;
        self.tell(result, more)
    }

    fn tell(&mut self, result: &str, more: (&'static str, String)) -> Result<(), String> {
        let duration = self.begun.elapsed().as_secs().to_string();
        self.variables.extend([("LEVEE_DURATION_S", duration), ("LEVEE_BACKUP_RESULT", result.to_string()), more]);
        self.script.run(&self.variables, self.stop)
    }
}

impl Drop for AfterCopy<'_> {
    fn drop(&mut self) {
        if !self.is_due {
            return;
        }
        let why = "a fault in the agent broke the copy off; the agent's log says where";
        if let Err(problem) = self.tell("failed", ("LEVEE_ERROR", why.into())) {
            tracing::warn!(problem, "what runs after a copy that was broken off by a fault has failed too");
        }
    }
}

impl CopyOf<'_> {
    fn in_words(&self) -> String {
        match self.kind {
            Kind::Files => format!("the copy of {}", self.asset),
            Kind::Base => format!("the base backup of {}", self.asset),
            Kind::Further(vault) => format!("the copy of {} for vault {vault}", self.asset),
        }
    }

    fn not_allowed(&self, problem: &str) -> NotMade {
        NotMade::Hook(transient(format!("{} is not made: {problem}", self.in_words())))
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("LEVEE_APP", self.app.name.to_string()),
            ("LEVEE_ASSET", self.asset.to_string()),
            ("LEVEE_SITE", self.app.context.site.to_string()),
        ];
        match self.kind {
            Kind::Files => variables.push(("LEVEE_COPY", "files".into())),
            Kind::Base => variables.push(("LEVEE_COPY", "base-backup".into())),
            Kind::Further(vault) => {
                variables.extend([("LEVEE_COPY", "further".into()), ("LEVEE_VAULT", vault.to_string())]);
            }
        }
        variables
    }
}

/// What an agent's folder has of them.
#[derive(Debug, Default)]
struct Scripts {
    before: Option<Script>,
    after: Option<Script>,
}

impl Scripts {
    /// Fails when one is there that must not be run; then neither is.
    fn find(agent_folder: &Path, agent_uid: u32) -> Result<Self, String> {
        let folder = agent_folder.join("hooks");
        let Some(found) = look(&folder)? else { return Ok(Self::default()) };
        // Who may rename the folder may put another one in its place.
        let above = fs::metadata(agent_folder).map_err(|error| cannot_look(agent_folder, &error))?;
        check(agent_folder, &above, agent_uid)?;
        check(&folder, &found, agent_uid)?;
        if !found.is_dir() {
            return Err(format!("{} is not a folder", folder.display()));
        }
        let script = |moment: Moment| {
            let path = folder.join(format!("{}-copy", moment.word()));
            let Some(found) = look(&path)? else { return Ok(None) };
            check(&path, &found, agent_uid)?;
            if !found.is_file() || found.mode() & ANYBODY_EXECUTES == 0 {
                return Err(format!("{} is not a file that can be executed: `chmod u+x {0}`", path.display()));
            }
            Ok(Some(Script { path, moment }))
        };
        Ok(Self { before: script(Moment::Before)?, after: script(Moment::After)? })
    }
}

fn look(path: &Path) -> Result<Option<Metadata>, String> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot_look(path, &error)),
    }
}

fn cannot_look(path: &Path, error: &io::Error) -> String {
    format!("cannot see who may change {}: {error}", path.display())
}

/// Refuses what somebody else than root and the agent's user could change.
fn check(path: &Path, found: &Metadata, agent_uid: u32) -> Result<(), String> {
    let shown = path.display();
    if found.file_type().is_symlink() {
        return Err(format!("{shown} is a link, and is not followed: put what it names in its place"));
    }
    if found.uid() != 0 && found.uid() != agent_uid {
        return Err(format!(
            "{shown} belongs to user {}, and is not run: it must belong to root or to the agent's user ({agent_uid})",
            found.uid()
        ));
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return Err(format!("{shown} can be changed by others, and is not run: `chmod go-w {shown}`"));
    }
    Ok(())
}

/// When a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Before,
    After,
}

impl Moment {
    fn word(self) -> &'static str {
        match self {
            Moment::Before => "before",
            Moment::After => "after",
        }
    }
}

#[derive(Debug)]
struct Script {
    path: PathBuf,
    moment: Moment,
}

impl Script {
    /// Runs it until it has ended.
    fn run(&self, variables: &[(&'static str, String)], stop: &StopSignal) -> Result<(), String> {
        let path = self.path.display();
        let mut command = Command::new(&self.path);
        command
            .env("LEVEE_HOOK", self.moment.word())
            .envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
        let running = ProcessGroup::start(&mut command)
            .map_err(|error| format!("{path} cannot be run ({error}): a script begins with #!/bin/sh"))?;
        match running.wait(TIME_MAX, || stop.is_stopped()) {
            Ok(Waited::Ended(status)) if status.success() => Ok(()),
            Ok(Waited::Ended(status)) => Err(format!("{path} failed ({status}); what it said is in the agent's log")),
            Ok(Waited::Stopped) => {
                self.let_go(running);
                Err(format!("{path} was ended, for the agent stops this work"))
            }
            Ok(Waited::OutOfTime) => {
                running.end();
                Err(format!("{path} was ended after {} s without a result", TIME_MAX.as_secs()))
            }
            Err(error) => {
                running.end();
                Err(format!("cannot wait for {path}: {error}"))
            }
        }
    }

    /// Leaves a command to itself whose work is to stop: whoever stops it, such as a failover, must not wait for it.
    /// `before-copy` is told to end; `after-copy` wakes what was put to rest, and goes on for a while.
    fn let_go(&self, running: ProcessGroup) {
        let goes_on = self.moment == Moment::After;
        if !goes_on {
            running.tell_to_end();
        }
        let wait = move || {
            let has_ended = goes_on && matches!(running.wait(AFTER_STOP_MAX, || false), Ok(Waited::Ended(_)));
            if !has_ended {
                running.end();
            }
        };
        if let Err(error) = thread::Builder::new().name("hook".into()).spawn(wait) {
            tracing::warn!(%error, path = %self.path.display(), "nobody waits for a command that was to end");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use levee_testing::process::is_there;
    use levee_testing::wait::wait_until;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// An agent's folder with these scripts, of these modes.
    fn folder(scripts: &[(&str, &str, u32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let hooks = folder.path().join("hooks");
        fs::DirBuilder::new().mode(0o755).create(&hooks).unwrap();
        for (name, content, mode) in scripts {
            let path = hooks.join(name);
            // By a process of its own: one that this process had open for writing could not be run while another test forks.
            let mut write = Command::new("/bin/sh");
            let script = format!("#!/bin/sh\n{content}\n");
            write.args(["-c", "printf %s \"$1\" > \"$0\""]).arg(&path).arg(script);
            let status = write.status().unwrap();
            assert!(status.success());
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        folder
    }

    fn own() -> u32 {
        geteuid().as_raw()
    }

    #[test]
    fn only_what_nobody_else_can_change_is_run() {
        let check = |scripts: &[(&str, &str, u32)], uid: u32, expected: Result<[bool; 2], &str>| {
            let folder = folder(scripts);
            let found = Scripts::find(folder.path(), uid);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!([found.before.is_some(), found.after.is_some()], expected),
                (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
                (found, expected) => panic!("{found:?}, not {expected:?}"),
            }
        };
        check(&[], own(), Ok([false, false]));
        check(&[("before-copy", "true", 0o700)], own(), Ok([true, false]));
        check(&[("before-copy", "true", 0o755), ("after-copy", "true", 0o500)], own(), Ok([true, true]));
        check(&[("before-copy.bak", "true", 0o777)], own(), Ok([false, false]));
        check(&[("before-copy", "true", 0o600)], own(), Err("is not a file that can be executed: `chmod u+x"));
        check(&[("before-copy", "true", 0o775)], own(), Err("can be changed by others, and is not run: `chmod go-w"));
        check(&[("after-copy", "true", 0o757)], own(), Err("after-copy can be changed by others"));
    }

    #[test]
    fn somebody_elses_script_is_not_run() {
        let folder = folder(&[("before-copy", "true", 0o755)]);
        let found = fs::metadata(folder.path().join("hooks/before-copy")).unwrap();
        if found.uid() != 0 {
            let problem = check(Path::new("before-copy"), &found, found.uid() + 1).unwrap_err();
            assert!(problem.contains("must belong to root or to the agent's user"), "{problem}");
        }
        check(Path::new("before-copy"), &found, found.uid()).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_change_and_a_link_are_refused() {
        let folder = folder(&[("real", "true", 0o755)]);
        let hooks = folder.path().join("hooks");
        symlink(hooks.join("real"), hooks.join("before-copy")).unwrap();
        let problem = Scripts::find(folder.path(), own()).unwrap_err();
        assert!(problem.contains("before-copy is a link"), "{problem}");
        fs::remove_file(hooks.join("before-copy")).unwrap();
        for open in [&hooks, &folder.path().to_path_buf()] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
            let problem = Scripts::find(folder.path(), own()).unwrap_err();
            assert!(problem.contains("can be changed by others"), "{problem}");
            fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert!(Scripts::find(folder.path(), own()).is_ok());
    }

    #[test]
    fn a_script_hears_what_is_copied_and_says_how_it_ended() {
        let run = |content: &str| {
            let folder = folder(&[("before-copy", content, 0o700)]);
            let script = Scripts::find(folder.path(), own()).unwrap().before.unwrap();
            script.run(&[("LEVEE_ASSET", "my documents".into())], &StopSignal::new().unwrap())
        };
        assert_eq!(run("test \"$LEVEE_HOOK:$LEVEE_ASSET\" = 'before:my documents'"), Ok(()));
        let problem = run("exit 3").unwrap_err();
        assert!(problem.contains("before-copy failed (exit status: 3)"), "{problem}");
    }

    #[test]
    fn what_was_put_to_rest_is_woken_once_also_when_a_panic_ends_the_copy() {
        let content = "echo \"$LEVEE_BACKUP_RESULT:$LEVEE_DURATION_S:$LEVEE_ERROR:\" >> \"$TOLD\"";
        let folder = folder(&[("after-copy", content, 0o700)]);
        let told = folder.path().join("told");
        let stop = StopSignal::new().unwrap();
        let after = || AfterCopy {
            script: Scripts::find(folder.path(), own()).unwrap().after.unwrap(),
            variables: vec![("TOLD", told.display().to_string())],
            begun: Instant::now(),
            stop: &stop,
            is_due: true,
        };
        assert_eq!(after().run("saved", ("LEVEE_SNAPSHOT_ID", "1".into())), Ok(()));
        let broken_off: thread::Result<()> = catch_unwind(AssertUnwindSafe(|| {
            let _after = after();
            panic!("a fault in a copy");
        }));
        assert!(broken_off.is_err());
        let said = fs::read_to_string(&told).unwrap();
        let [saved, failed] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
        assert_eq!(saved, "saved:0::");
        assert!(failed.starts_with("failed:0:a fault in the agent broke the copy off"), "{failed}");
    }

    #[test]
    fn nobody_waits_for_what_runs_after_a_copy_when_the_work_is_stopped_and_it_goes_on() {
        let folder = folder(&[("after-copy", "sleep 1; echo > \"$DONE\"", 0o700)]);
        let done = folder.path().join("done");
        let script = Scripts::find(folder.path(), own()).unwrap().after.unwrap();
        let stop = StopSignal::new().unwrap();
        stop.stop();
        let problem = script.run(&[("DONE", done.display().to_string())], &stop).unwrap_err();
        assert!(problem.contains("the agent stops this work"), "{problem}");
        assert!(!done.exists());
        wait_until("it goes on", LONG, || done.exists());
    }

    #[test]
    fn what_a_script_has_started_ends_with_it_when_the_work_is_stopped() {
        let folder = folder(&[("before-copy", "sleep 600 & echo $! > \"$PID_FILE\"; wait", 0o700)]);
        let file = folder.path().join("pid");
        let script = Scripts::find(folder.path(), own()).unwrap().before.unwrap();
        let stop = StopSignal::new().unwrap();
        let pid = || fs::read_to_string(&file).ok()?.trim().parse::<u32>().ok();
        thread::scope(|scope| {
            let running = scope.spawn(|| script.run(&[("PID_FILE", file.display().to_string())], &stop));
            wait_until("it has started something", LONG, || pid().is_some());
            stop.stop();
            let problem = running.join().unwrap().unwrap_err();
            assert!(problem.contains("was ended"), "{problem}");
        });
        let pid = pid().unwrap();
        wait_until("that has ended", LONG, || !is_there(pid));
    }
}
