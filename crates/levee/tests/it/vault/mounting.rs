//! A vault as a file system.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::tree::{self, assert_same};
use super::{Case, below};

fn is_mounted(at: &Path) -> bool {
    fs::read_to_string("/proc/self/mounts").unwrap().contains(at.to_str().unwrap())
}

/// Ends with the test, whatever comes of it.
struct Mounted {
    child: Child,
    at: std::path::PathBuf,
}

impl Mounted {
    fn at(case: &Case, name: &str) -> Self {
        let at = case.path(name);
        fs::create_dir(&at).unwrap();
        let child = case.command(&["mount", at.to_str().unwrap()]).spawn().unwrap();
        let mut mounted = Self { child, at };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_mounted(&mounted.at) {
            assert!(mounted.child.try_wait().unwrap().is_none(), "it has ended");
            assert!(Instant::now() < deadline, "it was not mounted");
            std::thread::sleep(Duration::from_millis(20));
        }
        mounted
    }

    fn end(&mut self, signal: rustix::process::Signal) -> Option<i32> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if is_mounted(&self.at) {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_mounted_vault_looks_as_what_was_stored() {
    if !Path::new("/dev/fuse").exists() {
        panic!("/dev/fuse is missing: this test needs the kernel's FUSE");
    }
    let case = Case::with_vault();
    let source = case.path("source");
    tree::make(&source);
    // In a mounted vault each name is a file of its own.
    for name in ["deep/hard link", "zz hard link"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    let summary = case.backup(&[source.to_str().unwrap(), "--tag", "first,a/b", "--host", "here"]);
    let mut mounted = Mounted::at(&case, "mounted");
    let at = mounted.at.clone();
    assert_eq!(names(&at), ["hosts", "ids", "snapshots", "tags"]);
    assert_eq!(names(&at.join("tags")), ["a_b", "first"]);
    assert_eq!(names(&at.join("hosts")), ["here"]);
    let id = summary["snapshot_id"].as_str().unwrap();
    assert_eq!(names(&at.join("ids")), [&id[..8]]);
    let latest = fs::canonicalize(at.join("snapshots/latest")).unwrap();
    assert_same(&source, &below(&latest, &source));
    assert_same(&source, &below(&at.join("ids").join(&id[..8]), &source));

    // Parts of a file, out of order.
    let file = fs::File::open(below(&latest, &source).join("noise")).unwrap();
    let whole = fs::read(source.join("noise")).unwrap();
    for (offset, length) in [(4_999_990, 100), (0, 10), (1_048_570, 1_100_000), (6_000_000, 10)] {
        let mut part = vec![0; length];
        let count = std::os::unix::fs::FileExt::read_at(&file, &mut part, offset).unwrap();
        let expected = whole.get(offset as usize..).unwrap_or_default();
        assert!(part[..count] == expected[..count] && (count > 0) == (offset < 5_000_000), "{offset} {length}");
    }
    drop(file);
    assert!(fs::write(below(&latest, &source).join("new"), b"").is_err());
    assert!(fs::metadata(at.join("ids/00000000")).is_err());

    assert_eq!(mounted.end(rustix::process::Signal::INT), Some(0));
    assert!(!is_mounted(&at));
    assert!(fs::read_dir(case.vault.join("locks")).unwrap().next().is_none());
}

/// What would be left otherwise is a place at which everybody who looks gets errors.
#[test]
fn a_signal_while_a_file_is_open_leaves_no_dead_mount_point_and_the_file_readable() {
    use std::io::Read;
    let case = Case::with_vault();
    let source = case.path("source");
    tree::make(&source);
    case.backup(&[source.to_str().unwrap()]);
    let mut mounted = Mounted::at(&case, "mounted");
    let at = mounted.at.clone();
    let latest = fs::canonicalize(at.join("snapshots/latest")).unwrap();
    let mut file = fs::File::open(below(&latest, &source).join("noise")).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&mounted.child), rustix::process::Signal::INT)
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while is_mounted(&at) {
        assert!(Instant::now() < deadline, "it is still mounted");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(fs::read_dir(&at).unwrap().next().is_none(), "the folder below is empty");
    // None of it was read before, so that somebody must still be serving it.
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    assert!(content == fs::read(source.join("noise")).unwrap());
    assert!(mounted.child.try_wait().unwrap().is_none(), "it ended before the file was closed");
    drop(file);
    assert_eq!(mounted.child.wait().unwrap().code(), Some(0));
    assert!(fs::read_dir(case.vault.join("locks")).unwrap().next().is_none());
}

#[test]
fn unmounting_from_outside_ends_it() {
    let case = Case::with_vault();
    let mut mounted = Mounted::at(&case, "mounted");
    assert!(names(&mounted.at.join("snapshots")).is_empty());
    assert!(Command::new("umount").arg(&mounted.at).status().unwrap().success());
    assert_eq!(mounted.child.wait().unwrap().code(), Some(0));
    assert!(fs::read_dir(case.vault.join("locks")).unwrap().next().is_none());
}

#[test]
fn a_program_hears_when_it_may_look_and_when_it_is_over() {
    let case = Case::with_vault();
    let at = case.path("mounted");
    fs::create_dir(&at).unwrap();
    let mut command = case.command(&["mount", "--json", at.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut mounted = Mounted { child, at: at.clone() };
    let mut next = || lines.next().map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    let told = |what: &str| json!({ "message_type": what, "vault": case.vault, "mount_point": at });
    assert_eq!(next(), Some(told("mounted")));
    assert!(names(&at).contains(&"snapshots".to_string()));
    assert_eq!(mounted.end(rustix::process::Signal::TERM), Some(0));
    assert_eq!(next(), Some(told("unmounted")));
    assert!(!is_mounted(&at));
    assert_eq!(next(), None);
}
