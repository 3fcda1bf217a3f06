//! Reading what is stored again, a pack at a time, so that damage is found while it can still be mended.
//!
//! `due` says which packs, as a pure function; `reread` reads one; `snapshots_hit` names what damage concerns. Nothing
//! is repaired here.

mod due;
mod hit;

use levee_store::FileType;

pub use due::{Pace, PackAge};

use crate::check::{PACK_BYTES_MAX, look_at_content};
use crate::vault::BlobOpener;
use crate::{Error, Id, Result, Vault};

/// What reading a pack again has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reread {
    /// Every blob in it opens, and has the hash that is its name.
    Sound { bytes: u64 },
    /// What is wrong with it.
    Damaged { problems: Vec<String> },
    /// It is there no more: a prune has removed it.
    Gone,
}

impl Vault {
    /// Every pack that is stored, with its size in bytes.
    pub fn list_packs(&self) -> Result<Vec<(Id, u64)>> {
        let listed = self.store().list(FileType::Data)?;
        Ok(listed.into_iter().filter_map(|entry| Some((entry.name.parse().ok()?, entry.size_bytes))).collect())
    }

    /// Reads a pack whole, and checks its hash and those of all blobs in it.
    ///
    /// # Errors
    /// When it could not be read, which says nothing about it.
    pub fn reread(&self, pack: &Id) -> Result<Reread> {
        let name = pack.to_hex();
        let gone = |error: levee_store::Error| match error {
            levee_store::Error::NotFound { .. } => Ok(Reread::Gone),
            error => Err(Error::from(error)),
        };
        match self.store().size_bytes(FileType::Data, &name) {
            Ok(bytes) if bytes > PACK_BYTES_MAX => {
                return Ok(Reread::Damaged { problems: vec![format!("{bytes} bytes are too many for a pack")] });
            }
            Ok(_) => {}
            Err(error) => return gone(error),
        }
        let mut content = match self.store().read(FileType::Data, &name) {
            Ok(content) => content,
            // A disk that can't read a sector any more, or a file system that finds its own checksums wrong.
            Err(error @ levee_store::Error::Io { .. }) if is_medium_error(&error) => {
                return Ok(Reread::Damaged { problems: vec![crate::problem::with_sources(&error)] });
            }
            Err(error) => return gone(error),
        };
        let bytes = content.len() as u64;
        let problems = look_at_content(&mut BlobOpener::new(self)?, pack, &mut content, None);
        Ok(if problems.is_empty() { Reread::Sound { bytes } } else { Reread::Damaged { problems } })
    }
}

fn is_medium_error(error: &levee_store::Error) -> bool {
    use rustix::io::Errno;

    let levee_store::Error::Io { source, .. } = error else { return false };
    let of_the_medium = [Errno::IO, Errno::UCLEAN, Errno::BADMSG];
    of_the_medium.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn the_disks_own_word_is_damage_and_a_refusal_is_not() {
        let check = |errno: Errno, expected: bool| {
            let source = std::io::Error::from_raw_os_error(errno.raw_os_error());
            let (location, name) = (String::new(), String::new());
            let error = levee_store::Error::Io { location, action: "read", file_type: FileType::Data, name, source };
            assert_eq!(is_medium_error(&error), expected, "{errno}");
        };
        check(Errno::IO, true);
        check(Errno::UCLEAN, true);
        check(Errno::BADMSG, true);
        check(Errno::ACCESS, false);
        check(Errno::NOENT, false);
    }
}
