use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;
use levee_image::{Attributes, Contents, DirEntry, FileKind, Format, Moment, TableKind};
use levee_vault::FileTime;
use serde::Serialize;

use super::super::ls::escaped_path;
use super::super::place::Place;
use super::super::selection::FilterArguments;
use super::super::snapshot_argument::Chosen;
use super::super::snapshots::local_time;
use super::super::{ended, open};
use super::place_in_image::{Disk, Inside, PlaceInImage};
use super::thawing::{ImageThawArguments, Needed, is_frozen, with_disk};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// Show modes, owners, sizes and times
    #[arg(short, long)]
    long: bool,
    /// Below the named folder, list everything and not only what is directly inside
    #[arg(long)]
    recursive: bool,
    #[command(flatten)]
    thawing: ImageThawArguments,
    /// `latest` or the first digits of an id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// An image, by its path or file name: its partitions; with a partition's number and a path, what is there
    #[arg(value_name = "NAME[:PARTITION[/PATH]]")]
    wanted: Option<String>,
}

#[derive(Serialize)]
struct ImageLine<'a> {
    message_type: &'static str,
    struct_type: &'static str,
    path: std::borrow::Cow<'a, str>,
    name: &'a str,
    size: u64,
    format: Format,
    chunk_bytes: u32,
}

#[derive(Serialize)]
struct PartitionLine<'a> {
    message_type: &'static str,
    struct_type: &'static str,
    /// None for an image without partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<TableKind>,
    start: u64,
    size: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    contents: Contents,
    #[serde(skip_serializing_if = "String::is_empty")]
    label: String,
}

/// The fields of `levee vault ls --json`.
#[derive(Serialize)]
struct NodeLine<'a> {
    message_type: &'static str,
    struct_type: &'static str,
    name: std::borrow::Cow<'a, str>,
    #[serde(rename = "type")]
    kind: FileKind,
    path: std::borrow::Cow<'a, str>,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// As Unix has it: at most 0o7777.
    mode: u32,
    permissions: String,
    mtime: FileTime,
    atime: FileTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    linktarget: Option<String>,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let chosen = Chosen::find(&vault, &arguments.snapshot, &arguments.filter.selection()?)?;
    let Some(wanted) = &arguments.wanted else {
        let needed = Needed::of_descriptions(&vault, &chosen.id);
        if !arguments.thawing.goes_on(&needed, false, output)? {
            return Ok(Exit::DONE);
        }
        let images = vault.images(&chosen.id).map_err(|error| needed.explain(is_frozen(&error), ended(error)))?;
        for image in images {
            let line = ImageLine {
                message_type: "image",
                struct_type: "image",
                path: image.path.to_string_lossy(),
                name: &image.description.name,
                size: image.description.size_bytes,
                format: image.description.format,
                chunk_bytes: image.description.chunk_bytes,
            };
            output.result(&line, |line| format!("{:>14} {}", line.size, escaped_path(&image.path)))?;
        }
        return Ok(Exit::DONE);
    };
    let found = PlaceInImage::find(&vault, &chosen.id, wanted)?;
    if arguments.thawing.goes_on(&Needed::of_image(&vault, &chosen.id, &found.image), false, output)? {
        with_disk(&vault, &chosen.id, &found.image, |disk| list(disk, &found.inside, &arguments, output))?;
    }
    Ok(Exit::DONE)
}

fn list(disk: &Disk, inside: &Inside, arguments: &Arguments, output: Output) -> anyhow::Result<()> {
    let Inside::Path { partition, path } = inside else { return list_partitions(disk, output) };
    let file_system = disk.file_system(*partition)?;
    let attributes = file_system.attributes(path)?;
    let listing = Listing { file_system: &*file_system, arguments, output };
    match attributes.kind {
        FileKind::Dir => listing.list(path),
        _ => listing.print(path, &attributes),
    }
}

fn list_partitions(disk: &Disk, output: Output) -> anyhow::Result<()> {
    let print = |number, start, size, name: &str, part: std::sync::Arc<dyn levee_image::ReadAt>| {
        let contents = levee_image::probe(&*part).context("cannot read the image")?;
        // What cannot be opened is still shown as what it is.
        let label = match contents {
            Contents::Ext4 | Contents::Xfs => {
                levee_image::open_file_system(part).map_or(String::new(), |fs| fs.label())
            }
            _ => String::new(),
        };
        let (message_type, struct_type) = ("partition", "partition");
        let line =
            PartitionLine { message_type, struct_type, number, table: disk.table, start, size, name, contents, label };
        output.result(&line, |line| {
            let number = number.map_or("-".into(), |number: u32| number.to_string());
            let text = format!("{number:>3} {start:>14} {size:>14} {:<8} {} {name}", contents.as_str(), line.label);
            text.trim_end().to_string()
        })
    };
    if disk.table.is_none() {
        return print(None, 0, disk.size_bytes(), "", disk.whole());
    }
    for partition in &disk.partitions {
        let (start, size) = (partition.start_bytes, partition.size_bytes);
        print(Some(partition.number), start, size, &partition.name, disk.part(partition))?;
    }
    Ok(())
}

struct Listing<'a> {
    file_system: &'a dyn levee_image::FileSystem,
    arguments: &'a Arguments,
    output: Output,
}

impl Listing<'_> {
    /// One entry that cannot be read does not hide the others.
    fn list(&self, folder: &Path) -> anyhow::Result<()> {
        let mut unreadable = 0;
        // Not by recursion: an image may have any depth.
        let mut left = vec![folder.to_path_buf()];
        while let Some(folder) = left.pop() {
            let mut folders = Vec::new();
            for DirEntry { name, attributes } in self.file_system.read_dir(&folder)? {
                let path = folder.join(name);
                let attributes = match attributes {
                    Ok(attributes) => attributes,
                    Err(error) => {
                        unreadable += 1;
                        eprintln!("levee: {}: {error}", escaped_path(&path));
                        continue;
                    }
                };
                self.print(&path, &attributes)?;
                if self.arguments.recursive && attributes.kind == FileKind::Dir {
                    folders.push(path);
                }
            }
            left.extend(folders.into_iter().rev());
        }
        if unreadable > 0 {
            bail!("{unreadable} entries could not be read");
        }
        Ok(())
    }

    fn print(&self, path: &Path, attributes: &Attributes) -> anyhow::Result<()> {
        let target = match attributes.kind {
            FileKind::Symlink => Some(self.file_system.read_link(path)?),
            _ => None,
        };
        let time = |moment: Moment| FileTime::new(moment.seconds, moment.nanoseconds);
        let line = NodeLine {
            message_type: "node",
            struct_type: "node",
            name: path.file_name().unwrap_or_default().to_string_lossy(),
            kind: attributes.kind,
            path: path.to_string_lossy(),
            uid: attributes.uid,
            gid: attributes.gid,
            size: (attributes.kind == FileKind::File).then_some(attributes.size_bytes),
            mode: attributes.mode,
            permissions: permissions(attributes),
            mtime: time(attributes.mtime),
            atime: time(attributes.atime),
            linktarget: target.as_ref().map(|target| target.to_string_lossy().into_owned()),
        };
        self.output.result(&line, |line| {
            let shown = escaped_path(path);
            if !self.arguments.long {
                return shown;
            }
            let target = target.as_ref().map(|target| format!(" -> {}", escaped_path(target))).unwrap_or_default();
            let (size, time) = (attributes.size_bytes, local_time(line.mtime.to_timestamp()));
            format!("{} {:>5} {:>5} {size:>12} {time} {shown}{target}", line.permissions, line.uid, line.gid)
        })
    }
}

/// As `ls -l` shows them.
fn permissions(attributes: &Attributes) -> String {
    let kind = match attributes.kind {
        FileKind::File => '-',
        FileKind::Dir => 'd',
        FileKind::Symlink => 'l',
        FileKind::Dev => 'b',
        FileKind::CharDev => 'c',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (index, letter) in "rwxrwxrwx".char_indices() {
        text.push(if attributes.mode & (0o400 >> index) != 0 { letter } else { '-' });
    }
    // Each of these stands in the place of an `x`, as a capital where that is not set.
    for (bit, place, with, without) in [(0o4000, 3, 's', 'S'), (0o2000, 6, 's', 'S'), (0o1000, 9, 't', 'T')] {
        if attributes.mode & bit != 0 {
            let letter = if text.as_bytes()[place] == b'x' { with } else { without };
            text.replace_range(place..=place, letter.encode_utf8(&mut [0; 4]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_look_as_ls_shows_them() {
        let check = |kind, mode, expected: &str| {
            let times = Moment::default();
            let attributes =
                Attributes { kind, mode, uid: 0, gid: 0, size_bytes: 0, mtime: times, atime: times, device: None };
            assert_eq!(permissions(&attributes), expected);
        };
        check(FileKind::File, 0o644, "-rw-r--r--");
        check(FileKind::Dir, 0o1777, "drwxrwxrwt");
        check(FileKind::File, 0o4755, "-rwsr-xr-x");
        check(FileKind::File, 0o6644, "-rwSr-Sr--");
        check(FileKind::Symlink, 0o777, "lrwxrwxrwx");
    }
}
