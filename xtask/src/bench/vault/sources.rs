//! What is backed up: a mixed tree, an image whose pages change, a great many small files. The same bytes in each run.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use levee_testing::{apt, cache_folder, process};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// The kernel's sources as the release has them: some 80,000 small files of text.
const KERNEL_PACKAGE: &str = "linux-source-6.1";
const SUITE: &str = "bookworm";
const LIBRARY_BYTES: u64 = 1 << 30;
const IMAGE_BYTES: u64 = 7 << 28;
const PAGE_BYTES: usize = 4096;
const RUN_BYTES: usize = 1 << 20;
const SMALL_FILES_PER_FOLDER: u64 = 1000;
const SEED: u64 = 20_261_125;

/// About 4 GiB: the kernel's sources, shared libraries, a half-random image.
pub fn mixed_tree(folder: &Path) -> Result<()> {
    unpack_kernel(&folder.join("kernel"))?;
    copy_libraries(&folder.join("lib"))?;
    half_random_image(&folder.join("disk.img"), IMAGE_BYTES)
}

fn unpack_kernel(folder: &Path) -> Result<()> {
    let package = cache_folder().join(KERNEL_PACKAGE);
    if !package.exists() {
        eprintln!("downloading {KERNEL_PACKAGE}");
        let unfinished = package.with_extension("unfinished");
        let _ = fs::remove_dir_all(&unfinished);
        fs::create_dir_all(&unfinished)?;
        apt::unpack(SUITE, KERNEL_PACKAGE, apt::With::Itself, &unfinished).map_err(anyhow::Error::msg)?;
        fs::rename(&unfinished, &package)?;
    }
    let archive = package.join("usr/src").join(format!("{KERNEL_PACKAGE}.tar.xz"));
    fs::create_dir_all(folder)?;
    process::try_run(Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(folder))
        .map_err(anyhow::Error::msg)?;
    Ok(())
}

/// Shared libraries of this machine, in the order of their names, until there are enough.
fn copy_libraries(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut left = LIBRARY_BYTES;
    let mut folders = vec![PathBuf::from("/usr/lib")];
    while let Some(next) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(&next)?.collect::<std::io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type()?;
            let is_library = entry.file_name().to_string_lossy().contains(".so");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && is_library {
                let name = entry.path().to_string_lossy().replace('/', "_");
                let copied = fs::copy(entry.path(), folder.join(name))?;
                left = left.saturating_sub(copied);
                if left == 0 {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// An image in which every second page, by lot, is random, and the others hold text.
pub fn half_random_image(path: &Path, bytes: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut file = BufWriter::with_capacity(RUN_BYTES, File::create(path)?);
    let mut page = [0; PAGE_BYTES];
    for number in 0..bytes / PAGE_BYTES as u64 {
        fill_page(&mut page, number, &mut random);
        file.write_all(&page)?;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    Ok(())
}

fn fill_page(page: &mut [u8; PAGE_BYTES], number: u64, random: &mut StdRng) {
    if random.random_bool(0.5) {
        random.fill_bytes(page);
        return;
    }
    let line = format!("page {number}: the quick brown fox jumps over the lazy dog, {} times\n", number % 97);
    for (place, byte) in page.iter_mut().zip(line.bytes().cycle()) {
        *place = byte;
    }
}

/// How the changed hundredth of an image lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Single pages of 4 KiB, anywhere.
    Pages,
    /// Runs of 1 MiB.
    Runs,
}

/// Writes new random bytes over one per cent of an image.
pub fn change_image(path: &Path, change: Change) -> Result<()> {
    let mut random = StdRng::seed_from_u64(SEED + 1 + change as u64);
    let file = File::options().write(true).open(path)?;
    let piece_bytes = match change {
        Change::Pages => PAGE_BYTES,
        Change::Runs => RUN_BYTES,
    };
    let pieces = file.metadata()?.len() / piece_bytes as u64;
    let mut piece = vec![0; piece_bytes];
    for _ in 0..pieces.div_ceil(100) {
        random.fill_bytes(&mut piece);
        file.write_all_at(&piece, random.random_range(0..pieces) * piece_bytes as u64)?;
    }
    file.sync_all()?;
    Ok(())
}

/// Files of a few hundred bytes, a thousand to a folder.
pub fn small_files(folder: &Path, count: u64) -> Result<()> {
    for number in 0..count {
        let parent = folder.join(format!("{:06}", number / SMALL_FILES_PER_FOLDER));
        if number % SMALL_FILES_PER_FOLDER == 0 {
            fs::create_dir_all(&parent)?;
        }
        let content = format!("file {number}\n").repeat(1 + (number % 40) as usize);
        fs::write(parent.join(format!("{number:08}.txt")), content)?;
    }
    Ok(())
}

/// What a folder holds, to see that a restore has brought it all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub files: u64,
    pub bytes: u64,
}

/// Counts the regular files of a folder and their bytes; reads them all too when they are to be in the page cache.
pub fn extent(folder: &Path, read: bool) -> Result<Extent> {
    let mut extent = Extent::default();
    let mut folders = vec![folder.to_path_buf()];
    let mut buffer = vec![0; RUN_BYTES];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                extent.files += 1;
                extent.bytes += entry.metadata()?.len();
                if read {
                    let mut file = File::open(entry.path())?;
                    while file.read(&mut buffer)? > 0 {}
                }
            }
        }
    }
    if extent.files == 0 {
        bail!("there is nothing in {}", folder.display());
    }
    Ok(extent)
}

/// Gives back the room that the files of a folder take; the files stay.
pub fn empty(folder: &Path) -> Result<()> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                File::options().write(true).truncate(true).open(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_a_hundredth_of_an_image_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let changed_pages = |change| {
            half_random_image(&path, 32 << 20).unwrap();
            let before = fs::read(&path).unwrap();
            change_image(&path, change).unwrap();
            let after = fs::read(&path).unwrap();
            before.chunks(PAGE_BYTES).zip(after.chunks(PAGE_BYTES)).filter(|(old, new)| old != new).count()
        };
        // Of 8,192 pages; a page that is hit twice counts once. A run has 256.
        assert!((75..=82).contains(&changed_pages(Change::Pages)));
        assert_eq!(changed_pages(Change::Runs), 256);
    }

    #[test]
    fn what_a_folder_holds_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        small_files(folder.path(), 1500).unwrap();
        let counted = extent(folder.path(), true).unwrap();
        assert_eq!(counted.files, 1500);
        assert!(counted.bytes > 1500 * 8);
        assert!(extent(&folder.path().join("none"), false).is_err());
        empty(folder.path()).unwrap();
        assert_eq!(extent(folder.path(), false).unwrap(), Extent { files: 1500, bytes: 0 });
    }
}
