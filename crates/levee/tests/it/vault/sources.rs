//! Where a backup takes its files from, what it leaves out, and what is left when it is interrupted.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::tree::noise;
use super::{Case, succeed};

fn stored(case: &Case) -> Vec<String> {
    let root = case.dir.path().to_str().unwrap();
    let lines = case.json(&["ls", "latest"]);
    let paths = lines[1..].iter().map(|node| node["path"].as_str().unwrap());
    paths.filter_map(|path| path.strip_prefix(root)).map(|path| path.trim_start_matches('/').to_string()).collect()
}

fn make(case: &Case, files: &[&str]) -> PathBuf {
    let source = case.path("s");
    for file in files {
        fs::create_dir_all(source.join(file).parent().unwrap()).unwrap();
        fs::write(source.join(file), file).unwrap();
    }
    source
}

#[test]
fn standard_input_and_commands_become_files() {
    let case = Case::with_vault();
    let mut child = case
        .command(&["backup", "--stdin", "--stdin-filename", "folder/dump.sql", "--tag", "db", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let content = noise(5, 3_000_000);
    child.stdin.take().unwrap().write_all(&content).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["total_bytes_processed"], 3_000_000);
    let dumped = case.command(&["dump", "latest", "/folder/dump.sql"]).output().unwrap();
    assert!(dumped.stdout == content);
    assert_eq!(case.json(&["snapshots"])[0][0]["paths"], serde_json::json!(["/folder/dump.sql"]));

    case.levee(&["backup", "--stdin-from-command", "--stdin-filename", "greeting", "--", "echo", "hello"]);
    assert_eq!(case.levee(&["dump", "latest", "greeting"]), "hello\n");
    let message = case.levee_fails(1, &["backup", "--stdin-from-command", "--", "sh", "-c", "echo half of it; exit 3"]);
    assert!(message.contains("no snapshot was made"), "{message}");
    case.levee_fails(1, &["backup", "--stdin-from-command", "--", "/no/such/program"]);
    case.levee_fails(1, &["backup", "--stdin", "/etc/hostname"]);
    case.levee_fails(1, &["backup", "--stdin-from-command"]);
    assert_eq!(case.json(&["snapshots"])[0].as_array().unwrap().len(), 2);
    assert!(fs::read_dir(case.vault.join("locks")).unwrap().next().is_none());
}

#[test]
fn lists_of_files_are_read_in_each_form() {
    let case = Case::with_vault();
    let source = make(&case, &["a1", "a2", "b", "# c", "d\ne"]);
    let list = case.path("list");
    let check = |flag: &str, content: String, expected: &[&str]| {
        fs::write(&list, content).unwrap();
        case.backup(&[flag, list.to_str().unwrap()]);
        let stored: Vec<_> = stored(&case).into_iter().filter(|path| path.starts_with("s/")).collect();
        let expected: Vec<_> = expected.iter().map(|name| format!("s/{name}")).collect();
        assert_eq!(stored, expected, "{flag}");
    };
    let source = source.display();
    check("--files-from", format!("# comment\n\n  {source}/a*  \n{source}/b\n{source}/none*\n"), &["a1", "a2", "b"]);
    check("--files-from-verbatim", format!("{source}/# c\n\n{source}/a1\n"), &["# c", "a1"]);
    check("--files-from-raw", format!("{source}/d\ne\0{source}/b\0"), &["b", "d\ne"]);
    fs::write(&list, b"no zero byte at the end").unwrap();
    let message = case.levee_fails(1, &["backup", "--files-from-raw", list.to_str().unwrap()]);
    assert!(message.contains("zero byte"), "{message}");
    fs::write(&list, b"/nothing/here*\n").unwrap();
    case.levee_fails(1, &["backup", "--files-from", list.to_str().unwrap()]);
}

#[test]
fn caches_marked_folders_and_large_files_stay_out() {
    let case = Case::with_vault();
    let source = make(&case, &["keep", "cache/x", "fake/x", "marked/x", "marked/.nobackup", "Photo.JPG", "empty"]);
    fs::write(source.join("cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n# more").unwrap();
    fs::write(source.join("fake/CACHEDIR.TAG"), "Signature: none").unwrap();
    fs::write(source.join("large"), vec![1; 3000]).unwrap();
    let check = |flags: &[&str], absent: &[&str]| {
        let all: Vec<_> = [source.to_str().unwrap()].iter().chain(flags).copied().collect();
        case.backup(&all);
        let stored = stored(&case);
        let everything =
            ["keep", "cache/x", "cache/CACHEDIR.TAG", "fake/x", "marked/x", "marked/.nobackup", "Photo.JPG", "large"];
        for file in everything {
            assert_eq!(!stored.contains(&format!("s/{file}")), absent.contains(&file), "{file} with {flags:?}");
        }
    };
    check(&[], &[]);
    check(&["--exclude-caches"], &["cache/x"]);
    check(&["--exclude-if-present", ".nobackup"], &["marked/x"]);
    check(&["--exclude-if-present", "CACHEDIR.TAG:Signature: none"], &["fake/x"]);
    check(&["--exclude-larger-than", "2k"], &["large"]);
    check(&["--exclude-larger-than", "3000"], &[]);
    check(&["--iexclude", "*.jpg", "--read-concurrency", "1"], &["Photo.JPG"]);
}

#[test]
fn an_interrupted_command_takes_its_lock_along() {
    let case = Case::with_vault();
    let locks = || fs::read_dir(case.vault.join("locks")).unwrap().count();
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        // It waits for input, with its lock.
        let mut child = case.command(&["backup", "--stdin"]).stdin(Stdio::piped()).spawn().unwrap();
        // Waiting for a child closes its input: not before it has ended.
        let input = child.stdin.take();
        let deadline = Instant::now() + Duration::from_secs(30);
        while locks() == 0 {
            assert!(Instant::now() < deadline, "no lock was taken");
            std::thread::sleep(Duration::from_millis(10));
        }
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        drop(input);
        assert_eq!((status.code(), status.signal()), (Some(130), None));
        assert_eq!(locks(), 0);
    }
    // Nothing stands in the way of one that wants the vault for itself.
    case.levee(&["check"]);
    succeed(&mut case.command(&["snapshots"]));
}

#[test]
fn a_folder_that_was_encrypted_is_warned_of() {
    let case = Case::with_vault();
    let folder = case.path("letters");
    fs::create_dir(&folder).unwrap();
    let source = folder.to_str().unwrap();
    let path = |number: u64| folder.join(format!("{number}.txt"));
    let letter = |number: u64| format!("{number}: the quick brown fox jumps over the lazy dog\n").repeat(100);
    for number in 0..60 {
        fs::write(path(number), letter(number)).unwrap();
    }
    let signs = |summary: &Value| summary["ransomware_signs"].clone();
    assert_eq!(signs(&case.backup(&[source])), Value::Null, "the first");
    // More files than a person changes by hand, so that they are looked at.
    for number in 0..30 {
        fs::write(path(number), letter(number + 1000)).unwrap();
        fs::write(folder.join(format!("{number}.jpg")), noise(number, 5000)).unwrap();
    }
    let sound = case.backup(&[source]);
    assert_eq!((signs(&sound), &sound["files_changed"]), (Value::Null, &30.into()), "an ordinary day");
    for number in 20..60 {
        fs::write(path(number), noise(number + 500, 6000)).unwrap();
    }
    let encrypted = case.backup(&[source]);
    assert_eq!(signs(&encrypted), serde_json::json!([{"sign": "scrambled", "files": 40, "of": 90}]), "{encrypted}");
    // It is stored all the same; whoever sees the warning decides.
    let text = case.levee(&["backup", source, "--parent", sound["snapshot_id"].as_str().unwrap()]);
    let warning =
        "WARNING: this looks like ransomware at work: 40 of 90 files could be compressed before and hold noise now";
    assert!(text.contains(warning), "{text}");
}
