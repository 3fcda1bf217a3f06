//! Files over SFTP: whole and on disk under their names, or not there.

use std::hash::{BuildHasher, Hasher, RandomState};

use futures::{StreamExt, TryStreamExt, stream};
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};

use super::connection::{Connection, Failure};
use crate::link::FILE_BYTES_MAX;

/// What one request moves: the largest that every server takes.
const PIECE_BYTES: usize = 32 << 10;
/// Requests under way for one file: 2 MiB, enough for a fast link with a round trip of 20 ms.
const PIECES_AT_ONCE: usize = 64;
/// Names that start so are being written, or were left behind by a crash. They are never listed.
const TEMPORARY_PREFIX: &str = ".tmp-";

/// What is read of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Part,
    /// To its end, and that must be where the server says.
    All,
}

/// One file of a folder.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub name: String,
    pub size_bytes: u64,
    /// Since 1970, by the server's clock.
    pub modified_s: i64,
}

impl Connection {
    /// The size of a file.
    pub(super) async fn stat(&self, path: &str) -> Result<u64, Failure> {
        let attributes = self.session.stat(path).await?.attrs;
        attributes.size.ok_or_else(|| Failure::Lost("the server doesn't say how long the file is".into()))
    }

    pub(super) async fn read_whole(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let size = self.stat(path).await?;
        if size > FILE_BYTES_MAX {
            return Err(Failure::Damaged(format!("it has {size} bytes, more than any file of a repository")));
        }
        let length = usize::try_from(size).map_err(|_| Failure::Damaged(format!("it has {size} bytes")))?;
        self.read_pieces(path, 0, length, Wanted::All).await
    }

    /// Exactly so many bytes.
    pub(super) async fn read_range(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, Failure> {
        // Asked first, so that a wrong length in an index doesn't take the memory it names.
        let size = self.stat(path).await?;
        if offset.checked_add(length as u64).is_none_or(|end| end > size) {
            return Err(Failure::Damaged(format!(
                "it has {size} bytes, and {length} bytes from {offset} were asked for"
            )));
        }
        self.read_pieces(path, offset, length, Wanted::Part).await
    }

    async fn read_pieces(&self, path: &str, offset: u64, length: usize, wanted: Wanted) -> Result<Vec<u8>, Failure> {
        let handle = self.session.open(path, OpenFlags::READ, FileAttributes::empty()).await?.handle;
        let pieces = (0..length).step_by(PIECE_BYTES).map(|start| (start, (length - start).min(PIECE_BYTES)));
        let read = stream::iter(pieces)
            .map(|(start, length)| self.read_piece(&handle, offset + start as u64, length))
            .buffered(PIECES_AT_ONCE)
            .try_fold(Vec::with_capacity(length), async |mut content, piece: Vec<u8>| {
                content.extend(piece);
                Ok(content)
            });
        let ended = async {
            match wanted {
                Wanted::All => self.require_end(&handle, offset + length as u64).await,
                Wanted::Part => Ok(()),
            }
        };
        let (read, ended) = futures::future::join(read, ended).await;
        self.session.close(handle).await?;
        ended.and(read)
    }

    /// A failure when a file goes on where its size says that it ends.
    async fn require_end(&self, handle: &str, end: u64) -> Result<(), Failure> {
        match self.session.read(handle, end, 1).await {
            Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Err(Failure::Lost(format!("the server says that the file has {end} bytes, and there are more"))),
        }
    }

    async fn read_piece(&self, handle: &str, mut offset: u64, length: usize) -> Result<Vec<u8>, Failure> {
        let mut piece = Vec::with_capacity(length);
        // A server may give less than was asked for.
        while piece.len() < length {
            let data = match self.session.read(handle, offset, (length - piece.len()) as u32).await {
                Ok(data) => data.data,
                Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            // Files of a repository never change: the server contradicts itself.
            if data.is_empty() {
                return Err(Failure::Lost(format!("the file ends at {offset}, before the size that the server says")));
            }
            if data.len() > length - piece.len() {
                return Err(Failure::Lost("the server sent more than it was asked for".into()));
            }
            if let Some(throttle) = self.bandwidth.download() {
                throttle.wait_async(data.len()).await;
            }
            offset += data.len() as u64;
            piece.extend(data);
        }
        Ok(piece)
    }

    /// Writes a file under a name of its own in a folder, syncs it, and returns its path.
    pub(super) async fn upload(&self, folder: &str, content: &[u8]) -> Result<String, Failure> {
        let path = format!("{folder}/{TEMPORARY_PREFIX}{:016x}", RandomState::new().build_hasher().finish());
        let private = FileAttributes { permissions: Some(0o600), ..FileAttributes::empty() };
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let handle = self.session.open(&path, flags, private).await?.handle;
        let filled = self.fill(&handle, content).await;
        let closed = self.session.close(&handle).await.map_err(Failure::from).map(drop);
        match filled.and(closed) {
            Ok(()) => Ok(path),
            Err(failure) => {
                let is_unexplained = matches!(failure, Failure::Denied(_) | Failure::Failed(_));
                let is_full = is_unexplained && self.is_full(folder, content.len()).await;
                // The failure counts, not what becomes of the rest.
                let _ = self.session.remove(&path).await;
                Err(if is_full { Failure::Full } else { failure })
            }
        }
    }

    async fn fill(&self, handle: &str, content: &[u8]) -> Result<(), Failure> {
        let pieces = content.chunks(PIECE_BYTES).enumerate();
        stream::iter(pieces)
            .map(async |(number, piece)| {
                if let Some(throttle) = self.bandwidth.upload() {
                    throttle.wait_async(piece.len()).await;
                }
                let offset = (number * PIECE_BYTES) as u64;
                self.session.write(handle, offset, piece.to_vec()).await.map(drop).map_err(Failure::from)
            })
            .buffer_unordered(PIECES_AT_ONCE)
            .try_collect::<()>()
            .await?;
        if self.can_sync {
            self.session.fsync(handle).await?;
        }
        let size = self.session.fstat(handle).await?.attrs.size;
        if size == Some(content.len() as u64) {
            return Ok(());
        }
        Err(Failure::Lost(format!("{} of {} bytes were written", size.unwrap_or_default(), content.len())))
    }

    /// SFTP has no word for it: a write just fails.
    async fn is_full(&self, folder: &str, length: usize) -> bool {
        let space = self.session.statvfs(folder).await;
        space.is_ok_and(|space| space.blocks_avail.saturating_mul(space.fragment_size) < length as u64)
    }

    /// Renames a file, unless something stands there: so version 3 has it, and OpenSSH does it by a second link.
    pub(super) async fn give_name(&self, temporary: &str, path: &str) -> Result<(), Failure> {
        match self.session.rename(temporary, path).await {
            Ok(_) => Ok(()),
            Err(error) => match self.session.stat(path).await {
                Ok(_) => Err(Failure::Exists),
                Err(SftpError::Status(_)) => Err(error.into()),
                Err(lost) => Err(lost.into()),
            },
        }
    }

    /// Renames a file over a damaged one.
    pub(super) async fn replace(&self, temporary: &str, path: &str) -> Result<(), Failure> {
        if !self.can_replace {
            self.remove(path).await?;
            return self.give_name(temporary, path).await;
        }
        let mut names = Vec::new();
        for name in [temporary, path] {
            names.extend((name.len() as u32).to_be_bytes());
            names.extend(name.as_bytes());
        }
        match self.session.extended("posix-rename@openssh.com", names).await? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(SftpError::Status(status).into()),
            _ => Err(Failure::Lost("the server answers with something else than was asked".into())),
        }
    }

    pub(super) async fn remove(&self, path: &str) -> Result<(), Failure> {
        Ok(self.session.remove(path).await.map(drop)?)
    }

    /// Syncs a file or folder that has its name; `false` when the server cannot.
    pub(super) async fn sync(&self, path: &str) -> Result<bool, Failure> {
        if !self.can_sync {
            return Ok(false);
        }
        let handle = match self.session.open(path, OpenFlags::READ, FileAttributes::empty()).await {
            Ok(handle) => handle.handle,
            // Not every server opens folders so.
            Err(SftpError::Status(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let synced = self.session.fsync(&handle).await;
        self.session.close(handle).await?;
        match synced {
            Ok(_) => Ok(true),
            Err(SftpError::Status(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a folder that may be there already.
    pub(super) async fn make_folder(&self, folder: &str) -> Result<(), Failure> {
        let private = FileAttributes { permissions: Some(0o700), ..FileAttributes::empty() };
        match self.session.mkdir(folder, private).await {
            Ok(_) => Ok(()),
            Err(error) => match self.session.stat(folder).await {
                Ok(found) if found.attrs.is_dir() => Ok(()),
                Ok(_) | Err(SftpError::Status(_)) => Err(error.into()),
                // Nobody has said whether it is there: that is no refusal, and the next attempt hears it.
                Err(lost) => Err(lost.into()),
            },
        }
    }

    /// Makes a folder with all those above it.
    pub(super) async fn create_folder(&self, folder: &str) -> Result<(), Failure> {
        let mut missing = Vec::new();
        let mut rest = folder.trim_end_matches('/');
        while !rest.is_empty() && self.session.stat(rest).await.is_err() {
            missing.push(rest);
            rest = rest.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
        for folder in missing.into_iter().rev() {
            self.make_folder(folder).await?;
        }
        Ok(())
    }

    /// The files of a folder.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<Found>, Failure> {
        let handle = self.session.opendir(folder).await?.handle;
        let mut found = Vec::new();
        let ended = loop {
            match self.session.readdir(&handle).await {
                Ok(page) => found.extend(page.files.into_iter().filter(|file| file.attrs.is_regular()).map(|file| {
                    let size_bytes = file.attrs.size.unwrap_or_default();
                    Found { name: file.filename, size_bytes, modified_s: file.attrs.mtime.unwrap_or_default().into() }
                })),
                Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.session.close(handle).await?;
        ended?;
        Ok(found)
    }
}
