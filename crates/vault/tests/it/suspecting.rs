//! Ordinary work and ransomware, done to a real tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use levee_vault::suspicion::{Sign, Usual, judge};
use levee_vault::{BackupOptions, SnapshotId, Vault, backup};

use crate::support::Scratch;

fn text(number: usize) -> String {
    format!("{number}: the quick brown fox jumps over the lazy dog\n").repeat(60 + number % 40)
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

struct Office {
    scratch: Scratch,
    vault: Vault,
    last: SnapshotId,
    usual: Usual,
}

impl Office {
    fn open() -> Self {
        let scratch = Scratch::new();
        let vault = scratch.init();
        let source = scratch.path("source");
        for folder in ["letters", "code/src", "photos"] {
            fs::create_dir_all(source.join(folder)).unwrap();
        }
        for number in 0..120 {
            fs::write(source.join(format!("letters/{number}.docx")), text(number)).unwrap();
            fs::write(source.join(format!("code/src/{number}.c")), text(number + 1000)).unwrap();
        }
        for number in 0..40 {
            fs::write(source.join(format!("photos/{number}.jpg")), noise(number, 20_000)).unwrap();
        }
        let last = back_up(&vault, &source);
        Self { scratch, vault, last, usual: Usual::default() }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.scratch.path("source").join(name)
    }

    /// The signs in what has changed since the last look.
    fn look(&mut self) -> Vec<Sign> {
        let now = back_up(&self.vault, &self.scratch.path("source"));
        let changes = self.vault.changes(&self.last, &now, None).unwrap();
        let signs = judge(&changes, &self.usual);
        println!("{changes:?}: {signs:?}");
        if signs.is_empty() {
            self.usual.add(&changes);
            self.last = now;
        }
        signs
    }
}

fn back_up(vault: &Vault, source: &Path) -> SnapshotId {
    // Two backups within a moment must not take a file of the same size for unchanged.
    let options = BackupOptions { paths: vec![source.to_path_buf()], force: true, ..BackupOptions::default() };
    backup(vault, &options, &()).unwrap().snapshot_id.unwrap()
}

fn each(folder: &Path, mut work: impl FnMut(usize, &Path)) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().enumerate().for_each(|(number, path)| work(number, path));
}

#[test]
fn a_working_day_gives_no_sign() {
    let mut office = Office::open();
    assert_eq!(office.look(), [], "nothing has happened");
    // A checkout of another branch, and a build.
    each(&office.folder("code/src"), |number, path| match number % 3 {
        0 => fs::write(path, text(number + 5000)).unwrap(),
        1 => fs::remove_file(path).unwrap(),
        _ => {}
    });
    for number in 0..100 {
        fs::write(office.folder(&format!("code/src/{number}.o")), text(number + 9000)).unwrap();
    }
    assert_eq!(office.look(), []);
    for number in 100..300 {
        fs::write(office.folder(&format!("photos/{number}.cr3")), noise(number, 20_000)).unwrap();
    }
    assert_eq!(office.look(), [], "new photos");
    fs::rename(office.folder("letters"), office.folder("archive")).unwrap();
    assert_eq!(office.look(), [], "a folder is moved");
    each(&office.folder("archive"), |_, path| {
        assert!(Command::new("gzip").arg(path).status().unwrap().success());
    });
    assert_eq!(office.look(), [], "and compressed");
}

#[test]
fn encrypting_a_tree_gives_signs_until_it_is_as_it_was() {
    let mut office = Office::open();
    let before = office.folder("letters");
    let kept = office.scratch.path("kept");
    assert!(Command::new("cp").arg("-a").args([&before, &kept]).status().unwrap().success());
    each(&before, |number, path| {
        let length = fs::metadata(path).unwrap().len() as usize;
        let mut name = path.as_os_str().to_os_string();
        name.push(".locked");
        fs::write(path, noise(number as u64 + 77, length)).unwrap();
        fs::rename(path, name).unwrap();
    });
    let signs = office.look();
    assert_eq!(signs[0], Sign::Scrambled { files: 120, of: 280 });
    assert_eq!(signs[1], Sign::Renamed { ending: "locked".into(), files: 120, of: 280 });
    fs::remove_dir_all(&before).unwrap();
    fs::rename(&kept, &before).unwrap();
    assert_eq!(office.look(), []);

    // In place, under the same names.
    each(&office.folder("code/src"), |number, path| fs::write(path, noise(number as u64 + 7, 3000)).unwrap());
    assert_eq!(office.look(), [Sign::Scrambled { files: 120, of: 280 }]);
}
