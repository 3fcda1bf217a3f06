//! A backup of the server: a tar of its state and its CA, encrypted in the `age` format.
//!
//! It is read with `age -d FILE | tar -x` into an empty folder, which is then a server's folder.

use std::io::Write;

use jiff::Timestamp;

use crate::control::BackupKey;
use crate::error::{Result, ServerError};
use crate::server::Shared;

/// How far a restored server's revisions jump ahead. Agents take no revision that is lower than one they
/// have seen, and the server may have gone on after the backup.
const REVISION_JUMP: u64 = 1_000_000_000;

fn failed(why: impl std::fmt::Display) -> ServerError {
    ServerError::Backup { why: why.to_string() }
}

impl Shared {
    /// State and CA as they are now.
    pub fn make_backup(&self, key: &BackupKey, now: Timestamp) -> Result<Vec<u8>> {
        let scratch = tempfile::Builder::new().prefix(".backup-").tempdir_in(self.folder.path()).map_err(|source| {
            ServerError::File { doing: "make a folder in", path: self.folder.path().into(), source }
        })?;
        let copy = scratch.path().join("state.db");
        self.database.copy_to(&copy, REVISION_JUMP)?;
        let mut tar = Tar { bytes: Vec::new(), modified_s: now.as_second().max(0) as u64 };
        let authority = self.folder.authority();
        for (name, path) in [
            ("state.db", copy),
            ("ca/ca.pem", authority.join("ca.pem")),
            ("ca/ca-key.pem", authority.join("ca-key.pem")),
            ("ca/grant-key.pem", authority.join("grant-key.pem")),
        ] {
            let content = std::fs::read(&path).map(zeroize::Zeroizing::new).map_err(|source| ServerError::File {
                doing: "read",
                path,
                source,
            })?;
            tar.file(name, &content);
        }
        encrypt(key, &tar.finish())
    }
}

fn encrypt(key: &BackupKey, plain: &[u8]) -> Result<Vec<u8>> {
    let encryptor = match key {
        BackupKey::Recipient(text) => {
            let recipient: age::x25519::Recipient =
                text.trim().parse().map_err(|_| failed("the recipient is not one of age: it looks like age1…"))?;
            age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient)).map_err(failed)?
        }
        BackupKey::Passphrase(passphrase) if passphrase.trim().is_empty() => {
            return Err(failed("the passphrase is empty"));
        }
        BackupKey::Passphrase(passphrase) => {
            age::Encryptor::with_user_passphrase(age::secrecy::SecretString::from(passphrase.as_str()))
        }
    };
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(failed)?;
    writer.write_all(plain).and_then(|()| writer.finish().map(drop)).map_err(failed)?;
    Ok(sealed)
}

/// A tar archive of small files (POSIX ustar).
struct Tar {
    bytes: Vec<u8>,
    modified_s: u64,
}

const TAR_BLOCK: usize = 512;

impl Tar {
    fn file(&mut self, name: &str, content: &[u8]) {
        let mut header = [0u8; TAR_BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000600\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", content.len()));
        put(136, &format!("{:011o}\0", self.modified_s));
        // The checksum is taken with spaces in its own place.
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        let padding = content.len().next_multiple_of(TAR_BLOCK) - content.len();
        self.bytes.resize(self.bytes.len() + padding, 0);
    }

    fn finish(mut self) -> zeroize::Zeroizing<Vec<u8>> {
        self.bytes.resize(self.bytes.len() + 2 * TAR_BLOCK, 0);
        zeroize::Zeroizing::new(self.bytes)
    }
}
