//! Ordinary work and ransomware, done to a real tree and to a machine's disk.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use levee_testing::random::noise;
use levee_vault::suspicion::{ImageUsual, Sign, Usual, judge, judge_image};
use levee_vault::{BackupOptions, ImageBackupOptions, SnapshotId, Vault, backup, backup_images};

use crate::support::Scratch;

fn text(number: usize) -> String {
    format!("{number}: the quick brown fox jumps over the lazy dog\n").repeat(60 + number % 40)
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

/// As images are cut.
const CHUNK_BYTES: usize = 64 << 10;
/// Of the disk's chunks these hold something in the beginning; the others are holes.
const FILLED: Range<u64> = 0..512;
const DISK_CHUNKS: u64 = 768;

/// A machine's disk.
struct Disk {
    _scratch: Scratch,
    vault: Vault,
    path: PathBuf,
}

impl Disk {
    fn filled_with(content: impl Fn(u64) -> Vec<u8>) -> Self {
        let scratch = Scratch::new();
        let (vault, path) = (scratch.init(), scratch.path("disk.raw"));
        File::create(&path).unwrap().set_len(DISK_CHUNKS * CHUNK_BYTES as u64).unwrap();
        let disk = Self { _scratch: scratch, vault, path };
        disk.write(FILLED, content);
        disk
    }

    /// Writes chunks anew.
    fn write(&self, chunks: Range<u64>, content: impl Fn(u64) -> Vec<u8>) {
        let file = File::options().write(true).open(&self.path).unwrap();
        for chunk in chunks {
            file.write_all_at(&content(chunk), chunk * CHUNK_BYTES as u64).unwrap();
        }
    }

    /// The signs in what has changed since the last backup.
    fn look(&self) -> Vec<Sign> {
        let earlier = self.vault.list_snapshots().unwrap().readable;
        // Two backups within a moment must not take the file for unchanged.
        let options =
            ImageBackupOptions { images: vec![self.path.clone()], force: true, ..ImageBackupOptions::default() };
        let summary = backup_images(&self.vault, &options, &()).unwrap();
        let (Some(before), Some(now)) = (summary.parent, summary.snapshot_id) else { return Vec::new() };
        let changes = self.vault.image_changes(&before, &now).unwrap();
        assert_eq!(changes.len(), 1);
        let signs = judge_image(&changes[0], &ImageUsual::of(&earlier));
        println!("{changes:?}: {signs:?}");
        signs
    }

    fn scrambled(&self, chunks: u64, of: u64) -> Sign {
        let bytes = |chunks: u64| chunks * CHUNK_BYTES as u64;
        Sign::ImageScrambled { image: self.path.display().to_string(), bytes: bytes(chunks), of: bytes(of) }
    }
}

fn chunk_of_text(seed: u64) -> Vec<u8> {
    let mut text = format!("{seed}: the quick brown fox jumps over the lazy dog\n").repeat(2000).into_bytes();
    text.truncate(CHUNK_BYTES);
    text
}

fn chunk_of_noise(seed: u64) -> Vec<u8> {
    // Seeds that differ in their lowest bit alone would give the same.
    noise((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), CHUNK_BYTES)
}

#[test]
fn a_working_day_of_a_machine_gives_no_sign_and_an_encrypted_disk_does() {
    let disk = Disk::filled_with(chunk_of_text);
    assert_eq!(disk.look(), [], "the first backup");
    assert_eq!(disk.look(), [], "nothing has happened");
    disk.write(30..60, |chunk| chunk_of_text(chunk + 5000));
    disk.write(100..105, |chunk| chunk_of_noise(chunk + 5000));
    assert_eq!(disk.look(), [], "files are written, and an archive in the place of another file");
    disk.write(600..660, chunk_of_noise);
    assert_eq!(disk.look(), [], "new photos where there was nothing");
    disk.write(200..230, |_| vec![0; CHUNK_BYTES]);
    assert_eq!(disk.look(), [], "something is deleted");
    // The archive was noise before, and what was deleted was nothing.
    disk.write(0..256, |chunk| chunk_of_noise(chunk + 9000));
    assert_eq!(disk.look(), [disk.scrambled(256 - 30 - 5, 512 - 30 + 60)]);
}

#[test]
fn a_disk_of_which_little_is_known_gives_a_sign_when_half_of_it_is_encrypted() {
    let disk = Disk::filled_with(chunk_of_text);
    assert_eq!(disk.look(), []);
    disk.write(0..256, |chunk| chunk_of_noise(chunk + 9000));
    assert_eq!(disk.look(), [disk.scrambled(256, 512)]);
}

#[test]
fn a_disk_that_has_always_been_noise_gives_no_sign_because_of_that() {
    let disk = Disk::filled_with(chunk_of_noise);
    assert_eq!(disk.look(), []);
    for day in 1..=4_u64 {
        disk.write(day * 100..day * 100 + 20, |chunk| chunk_of_noise(chunk + day * 10_000));
        assert_eq!(disk.look(), [], "day {day}");
    }
    disk.write(0..200, |chunk| chunk_of_noise(chunk + 90_000));
    assert_eq!(disk.look(), [], "much is written, and as dense as ever");
}
