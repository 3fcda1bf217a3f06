//! What a file system in an image shows, and what the same files are on a disk.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use levee_image::{FileKind, FileSystem};

/// Everything about one entry that both can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: FileKind,
    pub mode: u32,
    pub owners: (u32, u32),
    pub mtime: (i64, u32),
    pub target: Option<OsString>,
    /// Length and a sum over the content, so that a difference prints on one line.
    pub content: Option<(u64, u64)>,
}

fn summed(content: &[u8]) -> (u64, u64) {
    let sum = content.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte) + 1));
    (content.len() as u64, sum)
}

/// All below a folder of this machine, but for what `mkfs` makes.
pub fn on_disk(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let file_type = metadata.file_type();
            let kind = match () {
                () if file_type.is_dir() => FileKind::Dir,
                () if file_type.is_symlink() => FileKind::Symlink,
                () if file_type.is_fifo() => FileKind::Fifo,
                () if file_type.is_char_device() => FileKind::CharDev,
                () if file_type.is_block_device() => FileKind::Dev,
                () => FileKind::File,
            };
            if kind == FileKind::Dir {
                left.push(path.clone());
            }
            let entry = Seen {
                kind,
                mode: metadata.mode() & 0o7777,
                owners: (metadata.uid(), metadata.gid()),
                mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
                target: (kind == FileKind::Symlink).then(|| fs::read_link(&path).unwrap().into_os_string()),
                content: (kind == FileKind::File).then(|| summed(&fs::read(&path).unwrap())),
            };
            seen.insert(path.strip_prefix(root).unwrap().to_path_buf(), entry);
        }
    }
    seen.remove(Path::new("lost+found"));
    seen
}

/// The same without parts of seconds, which `mke2fs -d` does not take over.
pub fn without_nanoseconds(mut seen: BTreeMap<PathBuf, Seen>) -> BTreeMap<PathBuf, Seen> {
    seen.values_mut().for_each(|seen| seen.mtime.1 = 0);
    seen
}

/// All in a file system of an image. What cannot be read is an error.
pub fn in_image(file_system: &dyn FileSystem) -> Result<BTreeMap<PathBuf, Seen>, String> {
    in_image_within(file_system, 100_000, 64 << 20)
}

/// Damage may lead in circles, and make files endless.
pub fn in_image_within(
    file_system: &dyn FileSystem,
    entries_max: usize,
    bytes_max: u64,
) -> Result<BTreeMap<PathBuf, Seen>, String> {
    let mut seen = BTreeMap::new();
    let mut left = vec![PathBuf::from("/")];
    while let Some(folder) = left.pop() {
        for entry in file_system.read_dir(&folder).map_err(|error| error.to_string())? {
            let path = folder.join(&entry.name);
            if path.as_os_str().as_bytes().len() > 4000 || seen.len() > entries_max {
                return Err("the folders lead in circles".into());
            }
            let attributes = file_system.attributes(&path).map_err(|error| error.to_string())?;
            if attributes != entry.attributes.map_err(|error| error.to_string())? {
                return Err(format!("{} is not what its folder says", path.display()));
            }
            let mut content = None;
            if attributes.kind == FileKind::File {
                let mut bytes = Vec::new();
                let file = file_system.open(&path).map_err(|error| error.to_string())?;
                file.take(bytes_max).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
                content = Some(summed(&bytes));
            }
            let target = match attributes.kind {
                FileKind::Symlink => {
                    Some(file_system.read_link(&path).map_err(|error| error.to_string())?.into_os_string())
                }
                _ => None,
            };
            if attributes.kind == FileKind::Dir {
                left.push(path.clone());
            }
            let entry = Seen {
                kind: attributes.kind,
                mode: attributes.mode,
                owners: (attributes.uid, attributes.gid),
                mtime: (attributes.mtime.seconds, attributes.mtime.nanoseconds),
                target,
                content,
            };
            seen.insert(path.strip_prefix("/").unwrap().to_path_buf(), entry);
        }
    }
    seen.remove(Path::new("lost+found"));
    Ok(seen)
}

/// The first difference rather than two long lists.
#[track_caller]
pub fn assert_same(found: &BTreeMap<PathBuf, Seen>, expected: &BTreeMap<PathBuf, Seen>) {
    for (path, seen) in expected {
        assert_eq!(found.get(path), Some(seen), "{}", path.display());
    }
    let more: Vec<_> = found.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(more.is_empty(), "{more:?}");
}
