use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::{Buf, Bytes};
use levee_model::postgres::{Lsn, TimelineId};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::connection::describe;
use super::{Connection, Error, Result, quote_literal};

const DOING: &str = "receiving a base backup";

/// What is asked of BASE_BACKUP. The log is never included: it is streamed beside it.
#[derive(Debug)]
pub struct BackupOptions {
    /// Ends up in `backup_label` and the server's log.
    pub label: String,
    /// Do the checkpoint at once, rather than spread over checkpoint_completion_target.
    pub fast_checkpoint: bool,
    /// Let the server verify the checksum of every page that it sends, where it has page checksums.
    pub verify_checksums: bool,
    /// At most this much per second, in KiB, from 32 to 1,048,576.
    pub rate_kib_max: Option<u32>,
    /// Readable when the backup is to be given up.
    pub interrupt: Option<OwnedFd>,
}

/// One line of the backup's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceHeader {
    /// `None` for the data directory.
    pub oid: Option<u32>,
    /// Where it lies at the server.
    pub location: Option<String>,
    /// An estimate, in KiB.
    pub size_kib: Option<u64>,
}

/// One of the streams that a backup consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Archive {
    /// A tar of the data directory.
    Data,
    /// A tar of a tablespace.
    Tablespace { oid: u32, location: String },
    /// `backup_manifest`, as it is.
    Manifest,
}

/// Where a backup ended: the log is needed up to here before it is consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupEnd {
    pub stop: Lsn,
    pub timeline: TimelineId,
}

/// A base backup on its way: `next_archive`, then `Read` its bytes, until there is none; then `finish`.
#[derive(Debug)]
pub struct BackupStream {
    connection: Connection,
    interrupt: Option<OwnedFd>,
    start: Lsn,
    timeline: TimelineId,
    tablespaces: Vec<TablespaceHeader>,
    layout: Layout,
    state: State,
    chunk: Bytes,
}

/// How the archives follow each other.
#[derive(Debug)]
enum Layout {
    /// 13 and 14: one COPY for each header line, then one for the manifest.
    CopyEach { next: usize },
    /// From 15 on: one COPY, whose messages begin with a letter.
    OneCopy,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// No COPY has begun, or the one of the last archive is over.
    Between,
    Inside,
    /// The next archive's heading has been read already.
    Announced(Archive),
    /// The last archive is over.
    Over,
}

impl Connection {
    /// Starts a base backup. It returns when the server's checkpoint is done.
    pub fn base_backup(mut self, options: BackupOptions) -> Result<BackupStream> {
        let version = self.server_version();
        let command = command(&options, version.major());
        self.send(DOING, |buffer| frontend::query(&command, buffer))?;
        let interrupt = options.interrupt.as_ref().map(AsFd::as_fd);
        let rows = self.result_set(DOING, interrupt)?;
        let (start, timeline) = position(&rows)?;
        let rows = self.result_set(DOING, interrupt)?;
        let tablespace = |row: &super::Row| {
            let number = |column| row.by_name(column).map(|_| row.parsed(DOING, column)).transpose();
            Ok(TablespaceHeader {
                oid: row.by_name("spcoid").map(|_| row.parsed(DOING, "spcoid")).transpose()?,
                location: row.by_name("spclocation").map(str::to_owned),
                size_kib: number("size")?,
            })
        };
        let tablespaces = rows.iter().map(tablespace).collect::<Result<_>>()?;
        let layout = if version.major() >= 15 { Layout::OneCopy } else { Layout::CopyEach { next: 0 } };
        Ok(BackupStream {
            connection: self,
            interrupt: options.interrupt,
            start,
            timeline,
            tablespaces,
            layout,
            state: State::Between,
            chunk: Bytes::new(),
        })
    }
}

fn command(options: &BackupOptions, major: u32) -> String {
    let label = quote_literal(&options.label);
    if major >= 15 {
        let checkpoint = if options.fast_checkpoint { "fast" } else { "spread" };
        let rate = options.rate_kib_max.map(|rate| format!(", MAX_RATE {rate}")).unwrap_or_default();
        format!(
            "BASE_BACKUP (LABEL {label}, PROGRESS true, CHECKPOINT '{checkpoint}', WAL false, WAIT false{rate}, \
             VERIFY_CHECKSUMS {}, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')",
            options.verify_checksums
        )
    } else {
        let fast = if options.fast_checkpoint { " FAST" } else { "" };
        let rate = options.rate_kib_max.map(|rate| format!(" MAX_RATE {rate}")).unwrap_or_default();
        let verify = if options.verify_checksums { "" } else { " NOVERIFY_CHECKSUMS" };
        format!(
            "BASE_BACKUP LABEL {label} PROGRESS{fast} NOWAIT{rate}{verify} MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
        )
    }
}

fn position(rows: &[super::Row]) -> Result<(Lsn, TimelineId)> {
    let row = rows.first().ok_or_else(|| Error::protocol(DOING, "no position"))?;
    Ok((row.parsed(DOING, "recptr")?, TimelineId(row.parsed(DOING, "tli")?)))
}

impl BackupStream {
    /// The redo position: the log is needed from here on.
    pub fn start(&self) -> Lsn {
        self.start
    }

    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    pub fn tablespaces(&self) -> &[TablespaceHeader] {
        &self.tablespaces
    }

    /// The next stream; what is left of the one before is skipped. `None` after the last.
    pub fn next_archive(&mut self) -> Result<Option<Archive>> {
        while self.state == State::Inside {
            self.next_chunk()?;
        }
        self.chunk.clear();
        match std::mem::replace(&mut self.state, State::Inside) {
            State::Announced(archive) => return Ok(Some(archive)),
            State::Over => {
                self.state = State::Over;
                return Ok(None);
            }
            State::Between | State::Inside => {}
        }
        match self.layout {
            Layout::CopyEach { next } => self.next_copy(next),
            Layout::OneCopy => {
                self.expect_copy()?;
                self.next_chunk()?;
                match std::mem::replace(&mut self.state, State::Inside) {
                    State::Announced(archive) => Ok(Some(archive)),
                    _ => Err(Error::protocol(DOING, "data before the first archive")),
                }
            }
        }
    }

    fn next_copy(&mut self, number: usize) -> Result<Option<Archive>> {
        let archive = match self.tablespaces.get(number) {
            Some(TablespaceHeader { oid: None, .. }) => Archive::Data,
            Some(TablespaceHeader { oid: Some(oid), location, .. }) => {
                Archive::Tablespace { oid: *oid, location: location.clone().unwrap_or_default() }
            }
            None if number == self.tablespaces.len() => Archive::Manifest,
            None => {
                self.state = State::Over;
                return Ok(None);
            }
        };
        self.expect_copy()?;
        self.layout = Layout::CopyEach { next: number + 1 };
        Ok(Some(archive))
    }

    fn expect_copy(&mut self) -> Result<()> {
        match self.receive()? {
            Message::CopyOutResponse(_) => Ok(()),
            other => Err(Error::protocol(DOING, describe(&other))),
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let interrupt: Option<BorrowedFd<'_>> = self.interrupt.as_ref().map(AsFd::as_fd);
        self.connection.receive_unless(DOING, interrupt)
    }

    /// Fills `chunk`, or changes the state at the archive's end.
    fn next_chunk(&mut self) -> Result<()> {
        self.chunk.clear();
        loop {
            let mut body = match self.receive()? {
                Message::CopyData(body) => body.into_bytes(),
                Message::CopyDone => {
                    self.state = match self.layout {
                        Layout::CopyEach { .. } => State::Between,
                        Layout::OneCopy => State::Over,
                    };
                    return Ok(());
                }
                other => return Err(Error::protocol(DOING, describe(&other))),
            };
            if matches!(self.layout, Layout::CopyEach { .. }) {
                self.chunk = body;
                return Ok(());
            }
            match body.try_get_u8().map_err(|_| Error::protocol(DOING, "an empty message"))? {
                b'd' => {
                    self.chunk = body;
                    return Ok(());
                }
                // Progress in bytes; the archives' own bytes tell as much.
                b'p' => {}
                b'm' => {
                    self.state = State::Announced(Archive::Manifest);
                    return Ok(());
                }
                b'n' => {
                    self.state = State::Announced(self.announced(&body)?);
                    return Ok(());
                }
                other => return Err(Error::protocol(DOING, format!("a message of type {other}"))),
            }
        }
    }

    /// `n` is followed by the archive's name (`base.tar`, `16385.tar`) and the tablespace's location.
    fn announced(&self, body: &[u8]) -> Result<Archive> {
        let unreadable = || Error::protocol(DOING, "an archive's name that can't be read");
        let mut texts = body.split(|byte| *byte == 0).map(std::str::from_utf8);
        let name = texts.next().and_then(std::result::Result::ok).ok_or_else(unreadable)?;
        let location = texts.next().and_then(std::result::Result::ok).ok_or_else(unreadable)?;
        if location.is_empty() {
            return Ok(Archive::Data);
        }
        let oid = name.strip_suffix(".tar").and_then(|oid| oid.parse().ok()).ok_or_else(unreadable)?;
        Ok(Archive::Tablespace { oid, location: location.to_owned() })
    }

    /// Ends the backup, after the last archive.
    pub fn finish(mut self) -> Result<BackupEnd> {
        while self.next_archive()?.is_some() {}
        let interrupt: Option<BorrowedFd<'_>> = self.interrupt.as_ref().map(AsFd::as_fd);
        let rows = self.connection.result_set(DOING, interrupt)?;
        let (stop, timeline) = position(&rows)?;
        self.connection.wait_until_ready(DOING)?;
        Ok(BackupEnd { stop, timeline })
    }
}

impl Read for BackupStream {
    /// Bytes of the current archive; 0 at its end. An engine's error is inside the `io::Error`: `Error::from_read`.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && self.state == State::Inside {
            self.next_chunk().map_err(io::Error::other)?;
        }
        let length = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
