//! Commands around a backup.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use levee_testing::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};

use super::Case;

/// A vault, a source, and hooks that note in a file what they heard.
struct Hooked {
    case: Case,
    source: String,
    log: PathBuf,
}

impl Hooked {
    fn new() -> Self {
        let case = Case::with_vault();
        let source = case.path("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "content").unwrap();
        // In a folder of its own: a file beside the source would change the folder above it, which is in the snapshot.
        fs::create_dir(case.path("heard")).unwrap();
        let (source, log) = (source.to_str().unwrap().to_string(), case.path("heard/log"));
        Self { case, source, log }
    }

    /// `backup` with a hook of each kind; `before` is run after the first one was noted.
    fn arguments(&self, before: &str, more: &[&str]) -> Vec<String> {
        let log = self.log.display();
        let noted = format!("echo \"$LEVEE_HOOK $LEVEE_BACKUP_RESULT $LEVEE_FILES_NEW $LEVEE_SNAPSHOT_ID\" >> {log}");
        let mut arguments = vec!["backup".to_string(), self.source.clone()];
        let hooks = [("before", format!("{noted}; {before}")), ("failed", noted.clone()), ("after", noted)];
        for (moment, command) in hooks {
            arguments.extend([format!("--hook-{moment}"), command]);
        }
        arguments.extend(more.iter().map(|argument| argument.to_string()));
        arguments
    }

    /// What the hooks have heard since the last look.
    fn heard(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let _ = fs::remove_file(&self.log);
        text.lines().map(|line| line.trim().to_string()).collect()
    }

    fn snapshots(&self) -> usize {
        self.case.json(&["snapshots"])[0].as_array().unwrap().len()
    }
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn hooks_hear_how_a_backup_went() {
    let hooked = Hooked::new();
    let check = |before: &str, more: &[&str], code: i32, said: &str, expected: &[&str]| {
        let arguments = hooked.arguments(before, more);
        match code {
            0 => drop(hooked.case.levee(&borrowed(&arguments))),
            code => {
                let message = hooked.case.levee_fails(code, &borrowed(&arguments));
                assert!(message.contains(said), "{message}");
            }
        }
        let heard = hooked.heard();
        let begins = |(line, wanted): (&String, &&str)| line.starts_with(*wanted);
        assert!(heard.len() == expected.len() && heard.iter().zip(expected).all(begins), "{more:?}: {heard:?}");
        heard
    };
    // The file and nothing else is new.
    let heard = check("true", &[], 0, "", &["before", "after saved 1 "]);
    let id = heard[1].rsplit(' ').next().unwrap();
    assert!(hooked.case.levee(&["snapshots", id]).contains("1 snapshots"));
    // From within it: the folders above are in a snapshot too, and other tests change /tmp.
    let within = |more: &[&str]| {
        let mut arguments = hooked.arguments("true", more);
        arguments[1] = ".".into();
        super::succeed(hooked.case.command(&borrowed(&arguments)).current_dir(&hooked.source));
        hooked.heard()
    };
    assert!(within(&[])[1].starts_with("after saved 1"));
    assert!(within(&["--skip-if-unchanged"])[1].starts_with("after unchanged 0"));
    check("true", &["--dry-run"], 0, "", &[]);
    check("exit 7", &[], 1, "before-hook", &["before", "failed failed", "after failed"]);
    let late = ["--hook-timeout", "1s"];
    check("sleep 600", &late, 1, "--hook-timeout", &["before", "failed failed", "after failed"]);
    check("true", &["--parent", "0123"], 1, "0123", &["before", "failed failed", "after failed"]);
    // What could not be woken again is an error, but what is saved is saved.
    let message = hooked.case.levee_fails(1, &["backup", &hooked.source, "--hook-after", "exit 9"]);
    assert!(message.contains("is saved") && message.contains("after-hook"), "{message}");
    assert_eq!(hooked.snapshots(), 3);
    // A hook's words don't get between the lines of JSON.
    let summary = hooked.case.backup(&[&hooked.source, "--hook-before", "echo words", "--hook-after", "echo more"]);
    assert_eq!(summary["files_unmodified"], 1);
    // Nothing is run for a vault that cannot be opened.
    let mut wrong = hooked.case.command(&borrowed(&hooked.arguments("true", &[])));
    super::fail(12, wrong.env("LEVEE_PASSWORD", "wrong"));
    assert!(hooked.heard().is_empty());
}

#[test]
fn a_stream_has_hooks_too() {
    let hooked = Hooked::new();
    let log = hooked.log.display();
    let hook = format!("echo $LEVEE_HOOK $LEVEE_BACKUP_RESULT >> {log}");
    let stream = ["backup", "--hook-before", &hook, "--hook-after", &hook, "--stdin-from-command", "--"];
    hooked.case.levee(&[&stream[..], &["echo", "content"]].concat());
    assert_eq!(hooked.heard(), ["before", "after saved"]);
    hooked.case.levee_fails(1, &[&stream[..], &["false"]].concat());
    assert_eq!(hooked.heard(), ["before", "after failed"]);
}

#[test]
fn what_was_begun_is_undone_when_a_signal_comes() {
    let hooked = Hooked::new();
    let arguments = hooked.arguments("sleep 600", &[]);
    let mut command = hooked.case.command(&borrowed(&arguments));
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    wait_until("the hook has begun", Duration::from_secs(60), || hooked.log.exists());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(hooked.heard(), ["before", "failed interrupted", "after interrupted"]);
    assert_eq!(hooked.snapshots(), 0);
    assert_eq!(fs::read_dir(hooked.case.vault.join("locks")).unwrap().count(), 0);
}
