//! What a person sees at a terminal while something takes its time, and what a pipe must never get of it.

use std::fs;
use std::process::{Command, Stdio};

use super::tree::noise;
use super::{Case, PASSWORD, succeed};

/// With the large one 2,001 files.
const FOLDERS: u64 = 40;
const FILES_IN_EACH: u64 = 50;
const NOISE_BYTES: usize = 600 << 10;
/// At which each verb that moves the content takes two seconds or more.
const FOR_CONTENT: &str = "256k";
/// The same for what reads names: some 250 KiB of index and trees.
const FOR_NAMES: &str = "128k";
/// What a terminal gets to take what stands in the line away.
const CLEAR_LINE: &str = "\x1b[2K";

/// A vault that holds a folder with many small files, and a large one.
fn case() -> Case {
    let case = Case::with_vault();
    for folder in 0..FOLDERS {
        let folder = case.path("source").join(format!("folder {folder}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..FILES_IN_EACH {
            fs::write(folder.join(file.to_string()), format!("{} {file}", folder.display())).unwrap();
        }
    }
    fs::write(case.path("source/noise"), noise(1, NOISE_BYTES)).unwrap();
    case.backup(&[&source(&case)]);
    case
}

fn source(case: &Case) -> String {
    case.path("source").to_str().unwrap().into()
}

/// Everything that a terminal of 80 columns gets of a command, which must succeed.
#[track_caller]
fn at_a_terminal(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"))).collect();
    let line = format!("stty rows 24 cols 80 && exec {}", quoted.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    succeed(script.env("SHELL", "/bin/sh").env("TERM", "xterm").stdin(Stdio::null()))
}

/// The states of the bar, as they were drawn: from the time that has passed to the end of the line.
fn bars(seen: &str) -> Vec<&str> {
    let parts = seen.split(['\r', '\n', '\x1b']);
    let drawn = parts.filter_map(|part| part.find("[0").map(|begin| part[begin..].trim_end()));
    drawn.filter(|line| line.contains("% ") && line.contains(" left")).collect()
}

/// Asserts that one state has a part in percent, a rate and a time that is left, and fits into a line.
#[track_caller]
fn is_whole(bar: &str) {
    assert!(bar.chars().count() <= 80, "{bar:?} is longer than the line");
    let (head, rest) = bar.split_once("% ").unwrap();
    let percent = head.rsplit(' ').next().and_then(|number| number.parse::<u8>().ok());
    assert!(percent.is_some_and(|percent| percent <= 100), "{bar:?} has no percent");
    let (rest, _) = rest.rsplit_once(" left").unwrap();
    let mut parts = rest.rsplit(", ");
    let (left, rate) = (parts.next().unwrap(), parts.next().unwrap_or_default());
    assert!(left.starts_with(|first: char| first.is_ascii_digit()), "{bar:?} has no time left");
    assert!(rate.starts_with(|first: char| first.is_ascii_digit()) && rate.ends_with("/s"), "{bar:?} has no rate");
}

/// Runs a command at a terminal, where a bar is seen and gone at the end, and in a pipe, where nothing of it is.
#[track_caller]
fn shows_a_bar(case: &Case, arguments: &[&str], unit: &str) {
    let seen = at_a_terminal(&case.command(arguments));
    let bars = bars(&seen);
    // It is drawn some times in each second.
    assert!(bars.len() >= 3, "{arguments:?}: {seen:?}");
    bars.iter().for_each(|bar| is_whole(bar));
    assert!(bars.iter().all(|bar| bar.contains(unit)), "{arguments:?} counts something else: {bars:?}");
    let (_, after) = seen.rsplit_once(CLEAR_LINE).expect("the line is cleared");
    assert!(!after.contains(" left"), "{arguments:?} leaves its bar: {after:?}");

    has_no_bar(&texts_in_a_pipe(&mut case.command(arguments)));
}

/// At a terminal a bar is not seen by who asked for something else.
#[track_caller]
fn shows_none_when_quiet_or_in_json(case: &Case, arguments: &[&str]) {
    for asked in ["--quiet", "--json"] {
        has_no_bar(&at_a_terminal(case.command(arguments).arg(asked)));
    }
}

#[track_caller]
fn has_no_bar(text: &str) {
    assert!(!text.contains('\x1b') && !text.contains("% ") && !text.contains(" left"), "{text:?}");
}

/// Both outputs of a command, which must succeed.
#[track_caller]
fn texts_in_a_pipe(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let texts = String::from_utf8(output.stdout).unwrap() + std::str::from_utf8(&output.stderr).unwrap();
    assert!(output.status.success(), "{command:?}: {texts}");
    texts
}

#[test]
fn a_backup_shows_how_far_it_is() {
    let case = case();
    // Only the first one has something to store, and the terminal is first.
    fs::write(case.path("source/more noise"), noise(2, NOISE_BYTES)).unwrap();
    shows_a_bar(&case, &["backup", "--force", "--limit-upload", FOR_CONTENT, &source(&case)], "B of ");
}

#[test]
fn a_restore_shows_how_far_it_is() {
    let case = case();
    let target = case.path("target");
    let arguments = ["restore", "latest", "--limit-download", FOR_CONTENT, "--target", target.to_str().unwrap()];
    shows_a_bar(&case, &arguments, "B of ");
}

#[test]
fn a_check_shows_how_far_it_is() {
    let (case, arguments) = (case(), ["check", "--read-data", "--limit-download", FOR_CONTENT]);
    shows_a_bar(&case, &arguments, "B of ");
    shows_none_when_quiet_or_in_json(&case, &arguments);
}

#[test]
fn a_backup_of_an_image_shows_how_far_it_is_and_so_do_dumps_to_files() {
    let case = case();
    let (dumped, disk) = (case.path("dumped"), case.path("disk.raw"));
    let to_file = ["--limit-download", FOR_CONTENT, "--target", dumped.to_str().unwrap()];
    let dump = [&["dump", "latest", "/"], &to_file[..]].concat();
    shows_a_bar(&case, &dump, "B of ");
    shows_none_when_quiet_or_in_json(&case, &dump);

    fs::write(&disk, noise(3, NOISE_BYTES)).unwrap();
    // Only the first one has something to store.
    shows_a_bar(&case, &["backup", "--limit-upload", FOR_CONTENT, "--image", disk.to_str().unwrap()], "B of ");
    shows_a_bar(&case, &[&["image", "dump", "latest", "disk.raw"], &to_file[..]].concat(), "B of ");
    assert!(fs::read(&dumped).unwrap() == fs::read(&disk).unwrap());
}

#[test]
fn a_copy_and_a_prune_show_how_far_they_are() {
    let (case, to) = (case(), Case::with_vault());
    let password = to.path("password");
    fs::write(&password, PASSWORD).unwrap();
    let (from, password) = (case.vault.to_str().unwrap(), password.to_str().unwrap());
    let copy = ["copy", "--from-repo", from, "--from-password-file", password, "--limit-upload", FOR_CONTENT];
    shows_a_bar(&to, &copy, "B of ");

    // What is left of the pack with the contents has to be written again.
    for folder in 0..FOLDERS {
        fs::remove_dir_all(case.path("source").join(format!("folder {folder}"))).unwrap();
    }
    case.backup(&[&source(&case)]);
    case.levee(&["forget", "--keep-last", "1"]);
    shows_a_bar(&case, &["prune", "--max-unused", "0", "--limit-upload", FOR_CONTENT], "B of ");
}

#[test]
fn what_goes_through_names_counts_files() {
    let case = case();
    let limited = ["--limit-download", FOR_NAMES];
    for verb in [
        &["stats"][..],
        &["stats", "--mode", "raw-data"],
        &["find", "no such name"],
        &["rewrite", "--exclude", "no such name", "--dry-run"],
    ] {
        shows_a_bar(&case, &[verb, &limited].concat(), " of 2,001 files");
    }
    shows_none_when_quiet_or_in_json(&case, &[&["stats"][..], &limited].concat());
    // Those of both sides.
    shows_a_bar(&case, &[&["diff", "latest", "latest"][..], &limited].concat(), " of 4,002 files");
}
