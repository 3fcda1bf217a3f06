//! Walking through a sealed file: runs and records in order, up to its end or to where it is damaged.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use levee_model::postgres::Lsn;
use memchr::memmem;

use crate::format::{
    self, Content, PREAMBLE_BYTES, RECORD_HEADER_BYTES, RECORD_MAGIC, RUN_FIXED_BYTES, RUN_MAGIC, RecordHeader,
    RunHeader, Slot, TAG_BYTES,
};
use crate::{Error, Result};

const BUFFER_BYTES: usize = 256 << 10;

/// What comes next in a sealed file.
pub(crate) enum Item {
    /// A new run, with the exact bytes of its header.
    Run(RunHeader, Vec<u8>),
    /// A record whose checksum holds, still sealed.
    Record(RecordHeader, [u8; RECORD_HEADER_BYTES], Vec<u8>),
    /// Nothing was written from here on.
    End,
    /// From here on the bytes make no sense.
    Damage(&'static str),
}

/// Reads a sealed file from its start.
pub(crate) struct Records {
    reader: BufReader<File>,
    path: PathBuf,
    pub slot: Option<Slot>,
    /// Where the next item begins.
    pub offset: u64,
    position: Option<Lsn>,
    next_counter: u64,
}

impl Records {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
        let mut preamble = [0; PREAMBLE_BYTES];
        match read_some(&mut reader, &mut preamble).map_err(Error::io("read", path))? {
            PREAMBLE_BYTES => {}
            read => return Err(Error::damaged(path, read as u64, "it ends inside its first sector")),
        }
        let slot = format::decode_preamble(&preamble).map_err(|reason| Error::damaged(path, 0, reason))?;
        let offset = PREAMBLE_BYTES as u64;
        Ok(Self { reader, path: path.to_path_buf(), slot, offset, position: None, next_counter: 0 })
    }

    /// The next item. After `End` or `Damage` it is not to be called again.
    pub(crate) fn next(&mut self) -> Result<Item> {
        let mut head = [0; RECORD_HEADER_BYTES];
        let read = self.read(&mut head)?;
        if head[..read].iter().all(|byte| *byte == 0) {
            return Ok(Item::End);
        }
        if read < RECORD_HEADER_BYTES {
            return Ok(Item::Damage("a header is cut short"));
        }
        if head[..4] == RUN_MAGIC { self.run(&head) } else { self.record(head) }
    }

    fn run(&mut self, head: &[u8; RECORD_HEADER_BYTES]) -> Result<Item> {
        let mut bytes = head.to_vec();
        bytes.resize(RUN_FIXED_BYTES, 0);
        if self.read(&mut bytes[RECORD_HEADER_BYTES..])? < RUN_FIXED_BYTES - RECORD_HEADER_BYTES {
            return Ok(Item::Damage("a run's header is cut short"));
        }
        let length = match format::run_length(&bytes) {
            Ok(length) => length,
            Err(reason) => return Ok(Item::Damage(reason)),
        };
        bytes.resize(length, 0);
        if self.read(&mut bytes[RUN_FIXED_BYTES..])? < length - RUN_FIXED_BYTES {
            return Ok(Item::Damage("a run's header is cut short"));
        }
        match format::decode_run(&bytes) {
            Ok(run) if run.content == Content::Log && self.position.is_some_and(|position| position != run.start) => {
                Ok(Item::Damage("a run does not begin where the one before it ends"))
            }
            Ok(run) => {
                (self.position, self.next_counter) = (Some(run.start), 0);
                self.offset += length as u64;
                Ok(Item::Run(run, bytes))
            }
            Err(reason) => Ok(Item::Damage(reason)),
        }
    }

    fn record(&mut self, head: [u8; RECORD_HEADER_BYTES]) -> Result<Item> {
        let header = match format::decode_record_header(&head) {
            Ok(header) => header,
            Err(reason) => return Ok(Item::Damage(reason)),
        };
        if self.position != Some(header.lsn) || self.next_counter != header.counter {
            return Ok(Item::Damage("a record does not follow the one before it"));
        }
        let mut sealed = vec![0; header.length as usize + TAG_BYTES];
        if self.read(&mut sealed)? < sealed.len() || !format::record_is_whole(&head, &sealed) {
            return Ok(Item::Damage("a record is torn"));
        }
        self.position = Some(header.end());
        self.next_counter += 1;
        self.offset += (head.len() + sealed.len()) as u64;
        Ok(Item::Record(header, head, sealed))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        read_some(&mut self.reader, buffer).map_err(Error::io("read", &self.path))
    }
}

/// Fills the buffer as far as the file goes.
fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// How far a sealed file can be trusted, found without any key.
#[derive(Debug)]
pub(crate) struct Scan {
    pub slot: Option<Slot>,
    /// Every run, with its header.
    pub runs: Vec<RunHeader>,
    /// The end of the last whole flush; the start of the first run when there is none.
    pub committed: Lsn,
    /// Where in the file the last whole flush ends.
    pub committed_offset: u64,
    /// Where in the file the flush ends that the slot names; never above `committed_offset`.
    pub acknowledged_offset: u64,
    pub as_of: Option<Timestamp>,
}

/// Reads a file through and finds its end.
///
/// # Errors
/// `Lost` when less is readable than was acknowledged: by the slot, or because a later flush is there.
pub(crate) fn scan(path: &Path) -> Result<Scan> {
    let mut lost_at = None;
    loop {
        match scan_once(path) {
            // A writer may have been in the middle of the record that looked torn: only what stays
            // unreadable is lost.
            Err(Error::Lost { readable, .. }) if lost_at != Some(readable) => lost_at = Some(readable),
            result => return result,
        }
    }
}

fn scan_once(path: &Path) -> Result<Scan> {
    let mut records = Records::open(path)?;
    let slot = records.slot;
    let mut scan: Option<Scan> = None;
    let damage = loop {
        match records.next()? {
            Item::Run(run, _) => match &mut scan {
                Some(scan) => {
                    // A run's header is synced before its first record is written.
                    scan.committed_offset = records.offset;
                    scan.runs.push(run);
                }
                None => {
                    let offset = records.offset;
                    scan = Some(Scan {
                        slot,
                        committed: run.start,
                        committed_offset: offset,
                        acknowledged_offset: offset,
                        as_of: slot.and_then(|slot| slot.as_of),
                        runs: vec![run],
                    });
                }
            },
            Item::Record(header, ..) => {
                let Some(scan) = &mut scan else {
                    break Some("its first record comes before any run");
                };
                if header.commit {
                    scan.committed = header.end();
                    scan.committed_offset = records.offset;
                    if slot.is_some_and(|slot| header.end() <= slot.acknowledged) {
                        scan.acknowledged_offset = records.offset;
                    }
                    scan.as_of = scan.as_of.max(header.as_of);
                }
            }
            Item::End => break None,
            Item::Damage(reason) => break Some(reason),
        }
    };
    let Some(scan) = scan else {
        return Err(Error::damaged(path, records.offset, damage.unwrap_or("it has no run")));
    };
    let by_slot = slot.map_or(Lsn(0), |slot| slot.acknowledged);
    let acknowledged = by_slot.max(acknowledged_after(path, records.offset)?);
    if acknowledged > scan.committed {
        return Err(Error::Lost { path: path.to_path_buf(), readable: scan.committed, acknowledged });
    }
    Ok(scan)
}

/// What later records, behind the damage or the zeros, say was durable before them. A flush begins only when the
/// one before it is synced, so a whole record behind them proves that this is no torn end.
fn acknowledged_after(path: &Path, offset: u64) -> Result<Lsn> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut acknowledged = Lsn(0);
    let mut window = vec![0; BUFFER_BYTES];
    let mut at = offset + 1;
    loop {
        let size = read_some_at(&file, path, &mut window, at)?;
        if size == 0 {
            return Ok(acknowledged);
        }
        for index in memmem::find_iter(&window[..size], &RECORD_MAGIC) {
            if let Some(header) = whole_record_at(&file, path, at + index as u64)? {
                acknowledged = acknowledged.max(header.acknowledged);
            }
        }
        at += (size.saturating_sub(RECORD_MAGIC.len() - 1)).max(1) as u64;
    }
}

fn whole_record_at(file: &File, path: &Path, at: u64) -> Result<Option<RecordHeader>> {
    let mut head = [0; RECORD_HEADER_BYTES];
    if read_some_at(file, path, &mut head, at)? < head.len() {
        return Ok(None);
    }
    let Ok(header) = format::decode_record_header(&head) else { return Ok(None) };
    let mut sealed = vec![0; header.length as usize + TAG_BYTES];
    if read_some_at(file, path, &mut sealed, at + head.len() as u64)? < sealed.len() {
        return Ok(None);
    }
    Ok(format::record_is_whole(&head, &sealed).then_some(header))
}

/// Fills the buffer as far as the file goes. A writer that goes on with a tail cuts what was never acknowledged: the file
/// may get shorter while it is read.
fn read_some_at(file: &File, path: &Path, buffer: &mut [u8], at: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", path)(error)),
        }
    }
    Ok(filled)
}
