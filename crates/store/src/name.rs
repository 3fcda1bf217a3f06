use sha2::{Digest, Sha256};

use crate::{Error, FileType, Result};

/// The name of a file with this content: the lower-case hexadecimal SHA-256.
pub fn content_name(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// Whether `name` may name a file of this type. No other name reaches a path or a URL.
pub(crate) fn is_valid(file_type: FileType, name: &str) -> bool {
    match file_type {
        FileType::Config => name.is_empty(),
        _ => name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
    }
}

/// Refuses a name that could not have come from the content of a file.
pub(crate) fn check(location: &str, action: &'static str, file_type: FileType, name: &str) -> Result<()> {
    if is_valid(file_type, name) {
        return Ok(());
    }
    Err(Error::Denied {
        location: location.into(),
        action,
        file_type,
        name: name.chars().take(80).collect(),
        reason: "the name is not the SHA-256 of a content in lower-case hexadecimal".into(),
    })
}
