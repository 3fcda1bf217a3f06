//! Keys and certificates on a disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Writes a file that only its owner can read. It is durable under its name when this returns.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    write_whole(path, content).map_err(|source| Error::File { doing: "write", path: path.into(), source })
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("new");
    // A left-over of a crash may have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Reads a private key's file; refused when others can read it.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>> {
    let failed = |source| Error::File { doing: "read", path: path.into(), source };
    let mode = fs::metadata(path).map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        let why = format!("others may read it (mode {:o}); run chmod 600 on it, and consider it known", mode & 0o777);
        return Err(Error::Malformed { what: format!("the key file {}", path.display()), why });
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(failed)
}

pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::File { doing: "read", path: path.into(), source })
}
