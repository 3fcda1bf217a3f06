//! Restores that are killed, and run again.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::tree::{self, assert_same, noise};
use super::{Case, below};

const KILLS: u64 = 6;
const FILES: u64 = 300;

/// What a killed restore has left is looked at each time, and in the end one is let run to its own.
fn kill_and_run_again(overwrite: &str, look_at: impl Fn(&Path, &Path)) {
    let case = Case::with_vault();
    let (source, target) = (case.path("source"), case.path("target"));
    tree::make(&source);
    fs::create_dir(source.join("many")).unwrap();
    for number in 0..FILES {
        fs::write(source.join("many").join(number.to_string()), noise(1000 + number, 200_000)).unwrap();
    }
    case.backup(&[source.to_str().unwrap()]);
    let restore = ["restore", "latest", "--target", target.to_str().unwrap(), "--overwrite", overwrite];
    let mut killed = 0;
    for kill in 0..KILLS {
        let mut command = case.command(&restore);
        let mut restoring = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(40 + 30 * kill));
        killed += u64::from(restoring.try_wait().unwrap().is_none());
        restoring.kill().unwrap();
        restoring.wait().unwrap();
        look_at(&source, &below(&target, &source));
    }
    assert!(killed > KILLS / 2, "only {killed} of {KILLS} were killed before their end");
    let said = case.json(&[&restore[..], &["--verify"]].concat());
    let summary = said.last().unwrap();
    assert!(summary["bytes_skipped"].as_u64().unwrap() > 0, "{summary}");
    assert_same(&source, &below(&target, &source));
    // No lock of a killed one is in the way for good.
    case.levee(&["unlock"]);
    case.levee(&["check"]);
}

#[test]
fn a_killed_restore_goes_on_where_it_was() {
    kill_and_run_again("always", |_, _| ());
}

#[test]
fn a_killed_restore_that_leaves_alone_what_is_there_leaves_no_half_of_a_file() {
    for overwrite in ["never", "if-newer"] {
        kill_and_run_again(overwrite, no_file_is_half_there);
    }
}

/// Whatever has its own name is whole.
fn no_file_is_half_there(source: &Path, restored: &Path) {
    for folder in ["", "many"] {
        for entry in fs::read_dir(source.join(folder)).unwrap().flatten() {
            let there = restored.join(folder).join(entry.file_name());
            if entry.file_type().unwrap().is_file() && there.exists() {
                assert!(fs::read(entry.path()).unwrap() == fs::read(&there).unwrap(), "{there:?} is half there");
            }
        }
    }
}
