//! One open tail: the file that the newest segment's log is sealed into, record by record.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use levee_model::postgres::{Lsn, SegmentSize};
use rustix::fs::fdatasync;
use sha2::{Digest, Sha256};

use crate::format::{self, Content, RecordHeader, RunCipher, RunHeader, SLOT_OFFSET, Slot};
use crate::keys::{DataKey, JournalKeys};
use crate::layout;
use crate::records::{self, Scan};
use crate::{Error, Lineage, Result, durable};

/// What a tail gets beyond its segment's bytes when it is made, for headers and tags of records.
const OVERHEAD_BYTES: u64 = 1 << 20;
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// The key of one run, which whoever wrote the run knows without an identity.
#[derive(Clone)]
pub(crate) struct RunKey {
    /// SHA-256 of the run's header.
    pub header_hash: [u8; 32],
    pub key: DataKey,
}

/// A tail that is being written.
pub(crate) struct Tail {
    file: File,
    path: PathBuf,
    cipher: RunCipher,
    run_key: RunKey,
    counter: u64,
    offset: u64,
    /// The end of what was written, durable or not.
    end: Lsn,
    buffer: Vec<u8>,
}

impl Tail {
    /// Makes a tail under an unfinished name, zeroed to its full size and synced, so that later syncs
    /// need not write the file's metadata.
    pub(crate) fn prepare(folder: &Path, lineage: &Lineage, start: Lsn, keys: &JournalKeys) -> Result<Tail> {
        let path = layout::tail_path(folder, lineage, start).with_added_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        file.write_all(&format::encode_preamble(None)).map_err(Error::io("write", &path))?;
        let offset = format::PREAMBLE_BYTES as u64;
        let tail = Self::with_new_run(file, path, lineage, start, keys, offset)?;
        tail.zero_ahead(lineage.segment_size.bytes() + OVERHEAD_BYTES)?;
        tail.file.sync_all().map_err(Error::io("sync", &tail.path))?;
        Ok(tail)
    }

    /// Gives a prepared tail its name. From then on it is part of the journal.
    pub(crate) fn enter(&mut self, slot: Slot) -> Result<()> {
        self.note(slot)?;
        let name = self.path.with_extension("");
        durable::rename(&self.path, &name)?;
        self.path = name;
        Ok(())
    }

    /// Goes on with a tail that an earlier writer left, in a run of its own. What lies behind the last
    /// whole flush was never acknowledged and is cut.
    pub(crate) fn resume(path: &Path, scan: &Scan, lineage: &Lineage, keys: &JournalKeys) -> Result<Tail> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::io("open", path))?;
        // A failed sync leaves pages that look clean. What the slot does not vouch for is written
        // again, so that the sync below means something.
        let mut doubtful = vec![0; (scan.committed_offset - scan.acknowledged_offset) as usize];
        file.read_exact_at(&mut doubtful, scan.acknowledged_offset).map_err(Error::io("read", path))?;
        file.write_all_at(&doubtful, scan.acknowledged_offset).map_err(Error::io("write", path))?;
        file.set_len(scan.committed_offset).map_err(Error::io("cut", path))?;
        let tail = Self::with_new_run(file, path.to_path_buf(), lineage, scan.committed, keys, scan.committed_offset)?;
        tail.zero_ahead(lineage.segment_size.bytes() + OVERHEAD_BYTES)?;
        tail.file.sync_all().map_err(Error::io("sync", path))?;
        tail.note(Slot { acknowledged: scan.committed, as_of: scan.as_of })?;
        Ok(tail)
    }

    fn with_new_run(
        file: File,
        path: PathBuf,
        lineage: &Lineage,
        start: Lsn,
        keys: &JournalKeys,
        offset: u64,
    ) -> Result<Tail> {
        let (key, wrapped_key) = keys.new_data_key()?;
        let header = format::encode_run(&RunHeader { content: Content::Log, lineage: *lineage, start, wrapped_key });
        file.write_all_at(&header, offset).map_err(Error::io("write", &path))?;
        let cipher = RunCipher::new(&key, &header);
        Ok(Tail {
            run_key: RunKey { header_hash: cipher.header_hash(), key },
            cipher,
            counter: 0,
            offset: offset + header.len() as u64,
            end: start,
            buffer: Vec::new(),
            file,
            path,
        })
    }

    fn zero_ahead(&self, until: u64) -> Result<()> {
        let mut at = self.offset;
        while at < until {
            let size = ZEROS.len().min((until - at) as usize);
            self.file.write_all_at(&ZEROS[..size], at).map_err(Error::io("zero", &self.path))?;
            at += size as u64;
        }
        Ok(())
    }

    /// Appends one record. It is not durable before `sync`.
    pub(crate) fn write(
        &mut self,
        payload: &[u8],
        commit: bool,
        acknowledged: Lsn,
        as_of: Option<Timestamp>,
    ) -> Result<()> {
        let header = RecordHeader {
            length: payload.len() as u32,
            commit,
            lsn: self.end,
            acknowledged,
            as_of,
            counter: self.counter,
        };
        self.buffer.clear();
        self.cipher
            .seal(&header, payload, &mut self.buffer)
            .map_err(|reason| Error::Seal { reason: reason.to_string() })?;
        self.file.write_all_at(&self.buffer, self.offset).map_err(Error::io("write", &self.path))?;
        self.offset += self.buffer.len() as u64;
        self.counter += 1;
        self.end = header.end();
        Ok(())
    }

    /// Makes everything that was written durable.
    pub(crate) fn sync(&self) -> Result<()> {
        fdatasync(&self.file).map_err(|errno| Error::io("sync", &self.path)(errno.into()))
    }

    /// Notes how far was acknowledged. It becomes durable with the next sync, or when the kernel
    /// writes it back; until then a crash of the process alone does not lose it.
    pub(crate) fn note(&self, slot: Slot) -> Result<()> {
        self.file.write_all_at(&format::encode_slot(&slot), SLOT_OFFSET as u64).map_err(Error::io("write", &self.path))
    }

    pub(crate) fn end(&self) -> Lsn {
        self.end
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn run_key(&self) -> &RunKey {
        &self.run_key
    }
}

/// The log of one tail, opened and handed on piece by piece.
pub(crate) struct TailLog {
    records: records::Records,
    path: PathBuf,
    keys: Vec<RunKey>,
    cipher: Option<RunCipher>,
    committed: Lsn,
}

impl TailLog {
    /// Reads up to `committed`, which a scan has found. `known` are keys that need no identity.
    pub(crate) fn open(path: &Path, committed: Lsn, known: &[RunKey]) -> Result<Self> {
        let records = records::Records::open(path)?;
        Ok(Self { records, path: path.to_path_buf(), keys: known.to_vec(), cipher: None, committed })
    }

    /// The next piece of log, with its position; `None` at the committed end.
    pub(crate) fn next(&mut self, keys: &JournalKeys) -> Result<Option<(Lsn, Vec<u8>)>> {
        loop {
            let at = self.records.offset;
            match self.records.next()? {
                records::Item::Run(run, bytes) => {
                    // A run without any record holds nothing that its key would open.
                    if run.start >= self.committed {
                        return Ok(None);
                    }
                    let hash: [u8; 32] = Sha256::digest(&bytes).into();
                    let key = match self.keys.iter().find(|known| known.header_hash == hash) {
                        Some(known) => known.key.clone(),
                        None => keys.open_data_key(&run.wrapped_key, &self.path)?,
                    };
                    self.cipher = Some(RunCipher::new(&key, &bytes));
                }
                records::Item::Record(header, ..) if header.end() > self.committed => return Ok(None),
                records::Item::Record(header, head, sealed) => {
                    let cipher = self
                        .cipher
                        .as_ref()
                        .ok_or_else(|| Error::damaged(&self.path, at, "its first record comes before any run"))?;
                    let bytes = cipher.open(&head, sealed).map_err(|reason| Error::damaged(&self.path, at, reason))?;
                    if !bytes.is_empty() {
                        return Ok(Some((header.lsn, bytes)));
                    }
                }
                records::Item::End | records::Item::Damage(_) => return Ok(None),
            }
        }
    }
}

/// How far a tail is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DurableEnd {
    pub end: Lsn,
    pub as_of: Option<Timestamp>,
    pub segment_size: SegmentSize,
}

/// What of a tail is durable, as a reader beside the writer may see it.
///
/// The slot says what was acknowledged. When that is the whole segment there is nothing more to find: a
/// full tail may wait for a while before it is closed, and whoever reads its log counts and checks it.
/// Else whole flushes behind the slot may be under way or may have been made just before a crash: syncing
/// the file here makes them durable before they are used.
pub(crate) fn durable_end(path: &Path) -> Result<DurableEnd> {
    let mut records = records::Records::open(path)?;
    if let Some(slot) = records.slot
        && let records::Item::Run(first, _) = records.next()?
        && slot.acknowledged == Lsn(first.start.0 + first.lineage.segment_size.bytes())
    {
        let segment_size = first.lineage.segment_size;
        return Ok(DurableEnd { end: slot.acknowledged, as_of: slot.as_of, segment_size });
    }
    let scan = records::scan(path)?;
    if scan.slot.is_none_or(|slot| slot.acknowledged < scan.committed) {
        let file = File::open(path).map_err(Error::io("open", path))?;
        fdatasync(&file).map_err(|errno| Error::io("sync", path)(errno.into()))?;
    }
    Ok(DurableEnd { end: scan.committed, as_of: scan.as_of, segment_size: scan.runs[0].lineage.segment_size })
}
