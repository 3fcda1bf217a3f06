//! A directory of a snapshot as a tar or zip archive.

mod zip_names;

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use tar::{EntryType, Header};
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::content::output_error;
use crate::{Error, FileTime, Id, Node, NodeKind, Result, Vault};
use zip_names::ZipNames;

/// The form of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// With owners, devices and extended attributes.
    #[default]
    Tar,
    /// With modes, links and times to the second.
    Zip,
}

/// Writes what a directory holds as an archive. Names in it begin with `prefix`, without a leading slash.
pub fn dump_archive(vault: &Vault, tree: &Id, prefix: &Path, format: ArchiveFormat, out: &mut dyn Write) -> Result<()> {
    // Nothing in an archive may lead out of where it is unpacked.
    let prefix: PathBuf = prefix.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let entries = vault.walk(*tree, prefix)?;
    match format {
        ArchiveFormat::Tar => {
            let mut builder = tar::Builder::new(out);
            for entry in entries {
                let (path, node) = entry?;
                add_to_tar(vault, &mut builder, &path, &node)?;
            }
            builder.finish().map_err(output_error)
        }
        ArchiveFormat::Zip => {
            let mut writer = ZipWriter::new_stream(out);
            let mut names = ZipNames::default();
            for entry in entries {
                let (path, node) = entry?;
                let name = names.name(&path, node.kind);
                add_to_zip(vault, &mut writer, name, &node)?;
            }
            writer.finish().map_err(zip_error)?.into_inner().flush().map_err(output_error)
        }
    }
}

fn add_to_tar<W: Write>(vault: &Vault, builder: &mut tar::Builder<W>, path: &Path, node: &Node) -> Result<()> {
    let entry_type = match node.kind {
        NodeKind::File => EntryType::Regular,
        NodeKind::Dir => EntryType::Directory,
        NodeKind::Symlink => EntryType::Symlink,
        NodeKind::Dev => EntryType::Block,
        NodeKind::CharDev => EntryType::Char,
        NodeKind::Fifo => EntryType::Fifo,
        // Neither can be in an archive.
        NodeKind::Socket | NodeKind::Irregular => return Ok(()),
    };
    let size = vault.content_bytes(node)?;
    let mut header = Header::new_gnu();
    header.set_entry_type(entry_type);
    header.set_mode(node.mode);
    header.set_uid(u64::from(node.uid));
    header.set_gid(u64::from(node.gid));
    let mtime_s = rounded_seconds(node.mtime);
    header.set_mtime(u64::try_from(mtime_s).unwrap_or(0));
    header.set_size(size);
    // A name that doesn't fit is left out; the number counts.
    let _ = header.set_username(&node.user);
    let _ = header.set_groupname(&node.group);
    let (major, minor) = (rustix::fs::major(node.device), rustix::fs::minor(node.device));
    header.set_device_major(major).and_then(|()| header.set_device_minor(minor)).map_err(output_error)?;
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    for attribute in &node.extended_attributes {
        records.push((format!("SCHILY.xattr.{}", attribute.name.to_string_lossy()), attribute.value.clone()));
    }
    if mtime_s < 0 {
        records.push(("mtime".into(), mtime_s.to_string().into_bytes()));
    }
    let mut added = || -> io::Result<()> {
        if !records.is_empty() {
            builder.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), value.as_slice())))?;
        }
        // As they are stored. The crate's own way would take `a//b` for `a/b`, and refuse long names that begin with what is
        // not UTF-8.
        let slash: &[u8] = if node.kind == NodeKind::Dir { b"/" } else { b"" };
        let name = [path.as_os_str().as_bytes(), slash].concat();
        set_text(builder, &mut header.as_old_mut().name, &name, EntryType::GNULongName)?;
        if node.kind == NodeKind::Symlink {
            let target = node.link_target.as_bytes();
            set_text(builder, &mut header.as_old_mut().linkname, target, EntryType::GNULongLink)?;
        }
        header.set_cksum();
        builder.append(&header, vault.content(node).take(size))
    };
    added_or_named(added(), path)
}

/// The nearest second, as restic writes it.
fn rounded_seconds(time: FileTime) -> i64 {
    time.seconds.saturating_add(i64::from(time.nanoseconds >= 500_000_000))
}

fn added_or_named(added: io::Result<()>, path: &Path) -> Result<()> {
    added.map_err(|error| match output_error(error) {
        Error::System { source, .. } if source.kind() != io::ErrorKind::BrokenPipe => {
            Error::Target { action: "add to the archive", path: path.to_path_buf(), source }
        }
        error => error,
    })
}

/// Puts a name into a header, or as much of it as there is room for, with all of it in an entry of GNU's before that.
fn set_text<W: Write>(
    builder: &mut tar::Builder<W>,
    room: &mut [u8],
    text: &[u8],
    entry_type: EntryType,
) -> io::Result<()> {
    let fits = text.len().min(room.len());
    room[..fits].copy_from_slice(&text[..fits]);
    if fits == text.len() {
        return Ok(());
    }
    const NAME: &[u8] = b"././@LongLink";
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..NAME.len()].copy_from_slice(NAME);
    header.set_entry_type(entry_type);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    // With the NUL at the end.
    header.set_size(text.len() as u64 + 1);
    header.set_cksum();
    builder.append(&header, text.chain(&[0_u8][..]))
}

fn add_to_zip<W: Write>(
    vault: &Vault,
    writer: &mut ZipWriter<StreamWriter<W>>,
    name: String,
    node: &Node,
) -> Result<()> {
    let size = vault.content_bytes(node)?;
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .unix_permissions(node.mode)
        .last_modified_time(dos_time(node))
        .large_file(size >= u64::from(u32::MAX));
    match node.kind {
        // With the slash: a name that ends with a backslash is given none.
        NodeKind::Dir => writer.add_directory(name + "/", options).map_err(zip_error),
        NodeKind::Symlink => writer.add_symlink(name, node.link_target.to_string_lossy(), options).map_err(zip_error),
        NodeKind::File => {
            writer.start_file(name, options).map_err(zip_error)?;
            vault.copy_content(node, writer).map(drop)
        }
        // The format has no place for them.
        _ => Ok(()),
    }
}

/// In UTC; what the format cannot say becomes its first day.
fn dos_time(node: &Node) -> DateTime {
    let time = node.mtime.to_timestamp().to_zoned(jiff::tz::TimeZone::UTC);
    let part = |value: i8| u8::try_from(value).unwrap_or(0);
    let year = u16::try_from(time.year()).unwrap_or(0);
    let (month, day) = (part(time.month()), part(time.day()));
    let (hour, minute, second) = (part(time.hour()), part(time.minute()), part(time.second()));
    DateTime::from_date_and_time(year, month, day, hour, minute, second).unwrap_or_default()
}

fn zip_error(error: zip::result::ZipError) -> Error {
    match error {
        zip::result::ZipError::Io(source) => output_error(source),
        other => Error::System { action: "write the zip archive", source: io::Error::other(other) },
    }
}
