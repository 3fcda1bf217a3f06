//! How an image lies in a snapshot, and which images a snapshot has.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use levee_image::Format;
use serde::{Deserialize, Serialize};

use crate::{BlobKind, Error, Id, Node, NodeKind, Result, SnapshotId, Tree, Vault};

/// The file that makes a directory an image.
pub(super) const DESCRIPTION_NAME: &str = "levee-image.json";
/// The file in each segment's directory.
pub(super) const SEGMENT_FILE: &str = "data";
pub(super) const SEGMENT_BYTES: u64 = 1 << 30;
const VERSION: u32 = 1;
/// A description is a few hundred bytes; what is larger is none.
const DESCRIPTION_BYTES_MAX: u64 = 64 << 10;

/// A page in these changes its chunk alone. A blob costs 48 bytes of everyone's memory, and 100 in the index.
const CHUNK_BYTES_SMALL: u32 = 64 << 10;
const CHUNK_BYTES_LARGE: u32 = 128 << 10;
/// Images from this size on are cut into the larger ones.
const LARGE_FROM_BYTES: u64 = 256 << 30;

/// What stands beside an image's segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDescription {
    pub version: u32,
    /// The file name that it had.
    pub name: String,
    /// The size of the disk that a guest sees, and the length of all segments together.
    pub size_bytes: u64,
    /// How it lay on the disk that it was read from.
    pub format: Format,
    pub segment_bytes: u64,
    pub chunk_bytes: u32,
}

impl ImageDescription {
    /// Of an image of this size. One that was stored before keeps its chunks, also when it has grown.
    pub(super) fn new(path: &Path, size_bytes: u64, format: Format, known: Option<&Self>) -> Self {
        let by_size = if size_bytes < LARGE_FROM_BYTES { CHUNK_BYTES_SMALL } else { CHUNK_BYTES_LARGE };
        let chunk_bytes = match known {
            Some(known) if [CHUNK_BYTES_SMALL, CHUNK_BYTES_LARGE].contains(&known.chunk_bytes) => known.chunk_bytes,
            _ => by_size,
        };
        Self {
            version: VERSION,
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            size_bytes,
            format,
            segment_bytes: SEGMENT_BYTES,
            chunk_bytes,
        }
    }

    pub(crate) fn segments(&self) -> u64 {
        self.size_bytes.div_ceil(self.segment_bytes)
    }

    /// How long one segment is.
    pub(crate) fn segment_length(&self, number: u64) -> u64 {
        self.size_bytes.saturating_sub(number * self.segment_bytes).min(self.segment_bytes)
    }

    /// Reads the file beside the segments.
    pub(crate) fn parse(json: &[u8]) -> std::result::Result<Self, String> {
        serde_json::from_slice::<Self>(json).map_err(|error| error.to_string())?.check()
    }

    /// Refuses what this version does not know, and what cannot be.
    fn check(self) -> std::result::Result<Self, String> {
        if self.version != VERSION {
            return Err(format!("it is of version {}; this Levee knows version {VERSION}", self.version));
        }
        // Segments are walked by number: so small that there are millions of them, they are a mistake.
        if self.segment_bytes < 1 << 20 || self.segment_bytes > SEGMENT_BYTES || self.segments() > 1 << 24 {
            return Err(format!("its segments of {} bytes are impossible", self.segment_bytes));
        }
        Ok(self)
    }
}

/// Six digits up to 1 PiB, so that the order of names is that of the segments.
pub(super) fn segment_name(number: u64) -> String {
    format!("segment-{number:06}")
}

/// An image that a snapshot has.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// Where its directory is in the snapshot: the path that it had.
    pub path: PathBuf,
    pub description: ImageDescription,
    pub(super) node: Node,
}

/// The directory of an image, found without its description: that lies among the contents of files, and may be frozen with
/// them.
#[derive(Clone, Debug)]
pub(super) struct ImageDirectory {
    pub path: PathBuf,
    pub node: Node,
    pub tree: Id,
}

/// The description in a directory. `None` for one that is no image.
pub(super) fn description_file(directory: &Tree) -> Option<&Node> {
    directory.find(OsStr::new(DESCRIPTION_NAME)).filter(|file| file.kind == NodeKind::File)
}

impl Vault {
    /// The images of a snapshot, in the order of its paths.
    pub fn images(&self, snapshot: &SnapshotId) -> Result<Vec<StoredImage>> {
        self.image_directories(snapshot)?.into_iter().map(|directory| self.described(directory)).collect()
    }

    /// Where the images of a snapshot are in it. Their descriptions are not read.
    pub fn image_paths(&self, snapshot: &SnapshotId) -> Result<Vec<PathBuf>> {
        Ok(self.image_directories(snapshot)?.into_iter().map(|directory| directory.path).collect())
    }

    pub(super) fn image_directories(&self, snapshot: &SnapshotId) -> Result<Vec<ImageDirectory>> {
        let mut directories = Vec::new();
        for path in self.read_snapshot(snapshot)?.paths {
            let path = PathBuf::from(path);
            let node = match self.find_node(snapshot, &path) {
                Ok(node) => node,
                // Left out of a snapshot that was rewritten.
                Err(Error::PathNotFound { .. }) => None,
                Err(error) => return Err(error),
            };
            let Some(node) = node.filter(|node| node.kind == NodeKind::Dir) else { continue };
            let Some(tree) = node.subtree else { continue };
            let directory = self.tree(&tree)?;
            if description_file(&directory).is_some() {
                directories.push(ImageDirectory { path, node, tree });
            }
        }
        Ok(directories)
    }

    /// The image of this name: its path, or its file name where only one has that.
    pub fn find_image(&self, snapshot: &SnapshotId, name: &Path) -> Result<StoredImage> {
        self.described(self.find_image_directory(snapshot, name)?)
    }

    /// The path of the image of this name. Its description is not read.
    pub fn find_image_path(&self, snapshot: &SnapshotId, name: &Path) -> Result<PathBuf> {
        Ok(self.find_image_directory(snapshot, name)?.path)
    }

    pub(super) fn find_image_directory(&self, snapshot: &SnapshotId, name: &Path) -> Result<ImageDirectory> {
        let images = self.image_directories(snapshot)?;
        let is_named = |image: &&ImageDirectory| {
            image.path == name || (name.components().count() == 1 && image.path.file_name() == Some(name.as_os_str()))
        };
        let mut named = images.iter().filter(is_named);
        match (named.next(), named.next()) {
            (Some(image), None) => Ok(image.clone()),
            (Some(_), Some(_)) => {
                Err(Error::AmbiguousImage { snapshot: snapshot.short(), name: name.display().to_string() })
            }
            (None, _) => Err(Error::ImageNotFound {
                snapshot: snapshot.short(),
                name: name.display().to_string(),
                images: images.iter().map(|image| image.path.display().to_string()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Reads the description.
    fn described(&self, directory: ImageDirectory) -> Result<StoredImage> {
        let ImageDirectory { path, node, tree } = directory;
        let damaged = |reason: String| Error::DamagedImage { path: path.clone(), reason };
        let tree = self.tree(&tree)?;
        let file = description_file(&tree).ok_or_else(|| damaged(format!("{DESCRIPTION_NAME} is missing")))?;
        if self.content_bytes(file)? > DESCRIPTION_BYTES_MAX {
            return Err(damaged(format!("{DESCRIPTION_NAME} is too large")));
        }
        let mut json = Vec::new();
        for blob in file.blobs() {
            json.extend(self.read_blob(BlobKind::Data, blob)?);
        }
        let parsed = ImageDescription::parse(&json).map_err(|error| damaged(format!("{DESCRIPTION_NAME}: {error}")));
        let description = parsed?;
        Ok(StoredImage { path, description, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_with_the_image_and_stay_with_a_known_one() {
        let describe = |size, known| ImageDescription::new(Path::new("/a/disk.raw"), size, Format::Raw, known);
        let small = describe(10 << 30, None);
        assert_eq!((small.chunk_bytes, small.name.as_str(), small.segments()), (64 << 10, "disk.raw", 10));
        assert_eq!(describe(300 << 30, None).chunk_bytes, 128 << 10);
        assert_eq!(describe(300 << 30, Some(&small)).chunk_bytes, 64 << 10);
        assert_eq!(describe((1 << 30) + 5, None).segment_length(1), 5);
        assert_eq!((describe(0, None).segments(), describe(1, None).segments()), (0, 1));
    }

    #[test]
    fn a_description_has_golden_bytes_and_is_checked() {
        let golden = r#"{"version":1,"name":"disk.qcow2","size_bytes":1073741825,"format":"qcow2","segment_bytes":1073741824,"chunk_bytes":65536}"#;
        let described = ImageDescription::new(Path::new("/a/disk.qcow2"), (1 << 30) + 1, Format::Qcow2, None);
        assert_eq!(serde_json::to_string(&described).unwrap(), golden);
        let parse = |json: &str| serde_json::from_str::<ImageDescription>(json).unwrap().check();
        assert_eq!(parse(golden), Ok(described));
        assert!(parse(&golden.replace("\"version\":1", "\"version\":2")).unwrap_err().contains("version 2"));
        assert!(parse(&golden.replace("1073741824", "0")).is_err());
        assert!(parse(&golden.replace("1073741825", "18446744073709551615")).is_err());
    }
}
