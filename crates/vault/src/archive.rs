//! A directory of a snapshot as a tar or zip archive.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::content::output_error;
use crate::{Error, FileTime, Id, Node, NodeKind, Result, Vault};

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
    let prefix: PathBuf = prefix.strip_prefix("/").unwrap_or(prefix).to_path_buf();
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
            for entry in entries {
                let (path, node) = entry?;
                add_to_zip(vault, &mut writer, &path, &node)?;
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
        match node.kind {
            NodeKind::Symlink => builder.append_link(&mut header, path, Path::new(&node.link_target)),
            NodeKind::Dir => builder.append_data(&mut header, with_slash(path), io::empty()),
            _ => builder.append_data(&mut header, path, vault.content(node).take(size)),
        }
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

fn with_slash(path: &Path) -> PathBuf {
    let mut bytes = path.as_os_str().as_bytes().to_vec();
    bytes.push(b'/');
    PathBuf::from(OsStr::from_bytes(&bytes))
}

fn add_to_zip<W: Write>(
    vault: &Vault,
    writer: &mut ZipWriter<StreamWriter<W>>,
    path: &Path,
    node: &Node,
) -> Result<()> {
    // The format wants UTF-8 in names.
    let name = path.to_string_lossy();
    let size = vault.content_bytes(node)?;
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .unix_permissions(node.mode)
        .last_modified_time(dos_time(node))
        .large_file(size >= u64::from(u32::MAX));
    match node.kind {
        NodeKind::Dir => writer.add_directory(name.into_owned(), options).map_err(zip_error),
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
