use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How an image lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Byte by byte, in a file or on a device.
    Raw,
    Qcow2,
}

/// What a qcow2 file begins with.
pub(crate) const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// What a file's first bytes say. Anything that is not qcow2 is raw.
pub fn detect_format(path: &Path) -> Result<Format> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == QCOW2_MAGIC => Ok(Format::Qcow2),
        Ok(()) => Ok(Format::Raw),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Format::Raw),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}
