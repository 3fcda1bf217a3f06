//! `NAME`, `NAME:PARTITION`, `NAME:PARTITION/PATH` and `NAME:/PATH`: an image, a part of it, and a path in that.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use levee_image::{Contents, FileSystem, Partition, ReadAt, TableKind, Window};
use levee_vault::{Image, SnapshotId, Vault};

use super::super::ended;

/// What an argument names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceInImage {
    /// The image's path in the snapshot.
    pub image: PathBuf,
    pub inside: Inside,
}

/// What of the image is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inside {
    Whole,
    /// A path in the file system of a partition; the only one there is when no number is given.
    Path {
        partition: Option<u32>,
        path: PathBuf,
    },
}

impl PlaceInImage {
    /// Names and paths may hold colons, so that an image of the snapshot must fit: the longest one does.
    pub fn find(vault: &Vault, snapshot: &SnapshotId, argument: &str) -> anyhow::Result<Self> {
        let images = vault.image_paths(snapshot).map_err(ended)?;
        if let Some(found) = parse(argument, &images) {
            return Ok(found);
        }
        // For its error: no such image, or several.
        let name = argument.split_once(':').map_or(argument, |(name, _)| name);
        let image = vault.find_image_path(snapshot, Path::new(name)).map_err(ended)?;
        bail!("{argument:?} names {} but not a place in it: write NAME:PARTITION/PATH or NAME:/PATH", image.display())
    }
}

fn parse(argument: &str, images: &[PathBuf]) -> Option<PlaceInImage> {
    let mut candidates: Vec<(&Path, String)> = Vec::new();
    for path in images {
        candidates.push((path, path.to_string_lossy().into_owned()));
        let Some(name) = path.file_name() else { continue };
        // A file name that two images have names neither.
        if images.iter().filter(|other| other.file_name() == Some(name)).count() == 1 {
            candidates.push((path, name.to_string_lossy().into_owned()));
        }
    }
    candidates.sort_by_key(|(_, name)| std::cmp::Reverse(name.len()));
    candidates.into_iter().find_map(|(path, name)| {
        let rest = argument.strip_prefix(&name)?;
        let inside = if rest.is_empty() { Inside::Whole } else { parse_inside(rest.strip_prefix(':')?)? };
        Some(PlaceInImage { image: path.to_path_buf(), inside })
    })
}

fn parse_inside(text: &str) -> Option<Inside> {
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let (number, path) = text.split_at(digits);
    let partition = if number.is_empty() { None } else { Some(number.parse().ok()?) };
    let path = match path {
        "" => PathBuf::from("/"),
        path if path.starts_with('/') => PathBuf::from(path),
        _ => return None,
    };
    Some(Inside::Path { partition, path })
}

/// An image with its parts.
pub struct Disk {
    image: Arc<Image>,
    pub table: Option<TableKind>,
    pub partitions: Vec<Partition>,
}

impl Disk {
    pub fn of(image: Arc<Image>) -> anyhow::Result<Self> {
        // A boot sector of a file system looks like a table of partitions.
        let contents = levee_image::probe(&*image).context("cannot read the image")?;
        let found = match contents {
            Contents::Unknown => levee_image::partitions(&*image).context("cannot read the table of partitions")?,
            _ => None,
        };
        let (table, partitions) = found.map_or((None, Vec::new()), |(table, partitions)| (Some(table), partitions));
        Ok(Self { image, table, partitions })
    }

    pub fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    pub fn whole(&self) -> Arc<dyn ReadAt> {
        self.image.clone()
    }

    pub fn part(&self, partition: &Partition) -> Arc<dyn ReadAt> {
        Arc::new(Window::new(self.image.clone(), partition.start_bytes, partition.size_bytes))
    }

    /// The file system of a partition, or the only one that there is.
    pub fn file_system(&self, partition: Option<u32>) -> anyhow::Result<Box<dyn FileSystem>> {
        let part = match (partition, self.table) {
            (None, None) => self.whole(),
            (Some(number), None) => bail!("the image has no partitions: leave out the {number}"),
            (Some(number), Some(_)) => {
                let found = self.partitions.iter().find(|partition| partition.number == number);
                self.part(found.with_context(|| format!("the image has no partition {number}"))?)
            }
            (None, Some(_)) => {
                let has_files = |partition: &&Partition| {
                    matches!(levee_image::probe(&*self.part(partition)), Ok(Contents::Ext4 | Contents::Xfs))
                };
                let mut with_files = self.partitions.iter().filter(has_files);
                match (with_files.next(), with_files.next()) {
                    (Some(partition), None) => self.part(partition),
                    (Some(_), Some(_)) => bail!("several partitions have files: say which one, as in NAME:1/PATH"),
                    (None, _) => bail!("no partition of the image has a file system that is read: ext4 and xfs are"),
                }
            }
        };
        Ok(levee_image::open_file_system(part)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_by_image_partition_and_path() {
        let images = ["/srv/disk.raw", "/srv/a:1", "/a/same", "/b/same"].map(PathBuf::from);
        // The image, and what of it is meant.
        type Named<'a> = Option<(&'a str, Option<(Option<u32>, &'a str)>)>;
        let check = |argument: &str, expected: Named<'_>| {
            let expected = expected.map(|(image, inside)| PlaceInImage {
                image: image.into(),
                inside: match inside {
                    None => Inside::Whole,
                    Some((partition, path)) => Inside::Path { partition, path: path.into() },
                },
            });
            assert_eq!(parse(argument, &images), expected, "{argument}");
        };
        check("disk.raw", Some(("/srv/disk.raw", None)));
        check("/srv/disk.raw", Some(("/srv/disk.raw", None)));
        check("disk.raw:1", Some(("/srv/disk.raw", Some((Some(1), "/")))));
        check("disk.raw:12/etc/a:b", Some(("/srv/disk.raw", Some((Some(12), "/etc/a:b")))));
        check("disk.raw:/etc", Some(("/srv/disk.raw", Some((None, "/etc")))));
        check("a:1", Some(("/srv/a:1", None)));
        check("a:1:2/x", Some(("/srv/a:1", Some((Some(2), "/x")))));
        check("disk.raw:etc", None);
        check("disk.raw:1x", None);
        check("disk", None);
        check("same", None);
        check("/a/same:3", Some(("/a/same", Some((Some(3), "/")))));
    }
}
