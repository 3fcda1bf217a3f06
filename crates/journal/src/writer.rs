//! Taking in a log: append, flush, and on to the next segment.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{Timestamp, ToSpan};
use levee_model::Epoch;
use levee_model::postgres::Lsn;

use crate::background::{Background, FullTail};
use crate::epoch::EpochGate;
use crate::format::Slot;
use crate::journal::LogJournal;
use crate::layout::TailName;
use crate::live::Live;
use crate::records::Scan;
use crate::source_clock::SourceClock;
use crate::tail::{DurableEnd, RunKey, Tail};
use crate::{Error, JournalKeys, Lineage, Result, durable, layout, records};

/// Bytes sealed as one record while more are coming.
const RECORD_BYTES: usize = 256 << 10;
/// At most so often the acknowledged position is noted while flushes follow each other: each note makes the next sync write
/// a second place. A flush that another follows is vouched for by that one.
const NOTE_INTERVAL: Duration = Duration::from_millis(50);
/// While the source is idle, the moment up to which everything is contained is made durable this often.
const IDLE_NOTE_SECONDS: i64 = 1;

/// Where a writer is to go on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Begin {
    /// The source can send from here on.
    At(Lsn),
    /// Where the journal ends; a new one begins here.
    AtEnd { otherwise: Lsn },
    /// Here, although the journal ends before it.
    AfterGap(Lsn),
}

/// The one writer of a journal. Not durable before `flush` has returned.
///
/// After an error of `append` or `flush` other than `Gap` the writer is done: what is on the disk is
/// found out by opening a new one.
pub struct LogWriter {
    // Order matters for dropping: the background thread ends before the lock is let go.
    background: Background,
    tail: Tail,
    gate: EpochGate,
    lineage: Lineage,
    tail_start: Lsn,
    /// Keys of this process's runs in the current tail.
    keys: Vec<RunKey>,
    pending: Vec<u8>,
    end: Lsn,
    durable: Lsn,
    clock: SourceClock,
    noted: Option<Timestamp>,
    note_due: Instant,
    failed: bool,
    live: Arc<Live>,
    _lock: File,
}

impl LogWriter {
    pub(crate) fn open(journal: &LogJournal, lineage: Lineage, begin: Begin) -> Result<Self> {
        let gate = EpochGate::open(journal.dir())?;
        gate.seal(lineage.epoch)?;
        let lock = writer_lock(journal)?;
        journal.check_system(&lineage)?;
        let folder = layout::lineage_folder(journal.dir(), &lineage);
        durable::create_folder(&layout::system_folder(journal.dir(), lineage.system_identifier))?;
        durable::create_folder(&folder)?;
        let left = Left::look(&folder, &lineage)?;
        let after_gap = matches!(begin, Begin::AfterGap(_));
        let start = match begin {
            Begin::At(start) | Begin::AfterGap(start) => start,
            Begin::AtEnd { otherwise } => left.end().unwrap_or(otherwise),
        };
        let background = Background::start(folder.clone(), journal.shared_keys(), journal.finder())?;
        for full in left.full {
            background.close(full);
        }
        let keys = journal.keys();
        let gap = |expected| Error::Gap {
            system_identifier: lineage.system_identifier,
            timeline: lineage.timeline,
            expected,
            found: start,
        };
        let aligned = start.segment_start(lineage.segment_size);
        let (tail, tail_start, as_of) = match (left.open, left.full_end) {
            (Some((name, scan)), _) if scan.committed >= start => {
                (Tail::resume(&name.path, &scan, &lineage, keys)?, name.start, scan.as_of)
            }
            (Some((name, scan)), _) if after_gap && name.start < aligned => {
                durable::rename(&name.path, &name.path.with_extension("ended"))?;
                tracing::warn!(from = %scan.committed, to = %aligned, "the journal goes on behind a gap");
                (enter_new(&folder, &lineage, aligned, keys)?, aligned, None)
            }
            (Some((_, scan)), _) => return Err(gap(scan.committed)),
            (None, Some(end)) if end >= start => (enter_new(&folder, &lineage, end, keys)?, end, None),
            (None, Some(end)) if !after_gap => return Err(gap(end)),
            (None, _) => {
                if !after_gap {
                    journal.check_parent(&lineage)?;
                }
                (enter_new(&folder, &lineage, aligned, keys)?, aligned, None)
            }
        };
        let durable = tail.end();
        let writer = LogWriter {
            background,
            keys: vec![tail.run_key().clone()],
            gate,
            lineage,
            tail_start,
            pending: Vec::with_capacity(RECORD_BYTES),
            end: durable,
            durable,
            clock: SourceClock::starting_at(as_of),
            noted: as_of,
            note_due: Instant::now(),
            failed: false,
            live: journal.live().clone(),
            _lock: lock,
            tail,
        };
        writer.background.prepare(lineage, writer.segment_end());
        writer.live.enter(writer.tail.path(), writer.durable_end());
        Ok(writer)
    }

    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    pub fn epoch(&self) -> Epoch {
        self.lineage.epoch
    }

    /// Where the next append must begin.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Everything before this position is durable here.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The moment on the source's clock up to which everything is durable here.
    pub fn as_of(&self) -> Option<Timestamp> {
        self.noted
    }

    fn durable_end(&self) -> DurableEnd {
        DurableEnd { end: self.durable, as_of: self.noted, segment_size: self.lineage.segment_size }
    }

    fn segment_end(&self) -> Lsn {
        Lsn(self.tail_start.0 + self.lineage.segment_size.bytes())
    }

    /// At `at`, on the source's clock, the source's log ended at `source_end`. Once everything up to
    /// there is durable, this is the journal's `as_of`.
    pub fn note_source_time(&mut self, source_end: Lsn, at: Timestamp) {
        self.clock.note(source_end, at);
    }

    /// Takes in log that begins at `lsn`.
    ///
    /// # Errors
    /// `Gap` when `lsn` is not `end()`; nothing is taken in then, and the writer stays usable.
    pub fn append(&mut self, lsn: Lsn, bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(Error::WriterFailed);
        }
        if lsn != self.end {
            return Err(Error::Gap {
                system_identifier: self.lineage.system_identifier,
                timeline: self.lineage.timeline,
                expected: self.end,
                found: lsn,
            });
        }
        self.guarded(|writer| writer.take(bytes))
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = (self.segment_end().0 - self.end.0).min((RECORD_BYTES - self.pending.len()) as u64);
            let (part, rest) = bytes.split_at(bytes.len().min(room as usize));
            self.pending.extend_from_slice(part);
            self.end = Lsn(self.end.0 + part.len() as u64);
            bytes = rest;
            if self.end == self.segment_end() {
                self.next_segment()?;
            } else if self.pending.len() == RECORD_BYTES {
                self.tail.write(&self.pending, false, self.durable, None)?;
                self.pending.clear();
            }
        }
        Ok(())
    }

    /// Makes everything that was appended durable, with one `fdatasync`, and answers with its end.
    pub fn flush(&mut self) -> Result<Lsn> {
        if self.failed {
            return Err(Error::WriterFailed);
        }
        self.guarded(|writer| if writer.end > writer.durable { writer.commit() } else { writer.note_idle() })?;
        Ok(self.durable)
    }

    fn commit(&mut self) -> Result<()> {
        self.background.took(self.end.bytes_since(self.durable));
        let as_of = self.clock.as_of(self.end);
        let reached = DurableEnd { end: self.end, as_of, segment_size: self.lineage.segment_size };
        let now = Instant::now();
        // A full tail says so: who opens it need not look for more.
        let is_noted = now >= self.note_due || self.end == self.segment_end();
        self.gate.while_current(self.lineage.epoch, || {
            self.tail.write(&self.pending, true, self.durable, as_of)?;
            self.tail.sync()?;
            if is_noted {
                self.tail.note(Slot { acknowledged: self.end, as_of })?;
            }
            // Before sealing can go on: whoever seals and then reads is to see what is acknowledged in a moment.
            self.live.advance(reached);
            Ok(())
        })?;
        if is_noted {
            self.note_due = now + NOTE_INTERVAL;
        }
        self.pending.clear();
        (self.durable, self.noted) = (self.end, as_of);
        Ok(())
    }

    /// Nothing new came, but the source has said that there is nothing: that is worth keeping.
    fn note_idle(&mut self) -> Result<()> {
        let as_of = self.clock.as_of(self.end);
        let due = match (self.noted, as_of) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(noted), Some(as_of)) => as_of >= noted + IDLE_NOTE_SECONDS.seconds(),
        };
        if !due {
            return Ok(());
        }
        self.gate.while_current(self.lineage.epoch, || {
            self.tail.note(Slot { acknowledged: self.durable, as_of })?;
            self.tail.sync()
        })?;
        self.noted = as_of;
        self.live.advance(self.durable_end());
        Ok(())
    }

    /// Ends the full segment durably and goes on in a new tail.
    fn next_segment(&mut self) -> Result<()> {
        self.commit()?;
        let start = self.segment_end();
        let mut next = self.background.take_prepared()?;
        next.enter(Slot { acknowledged: start, as_of: self.noted })?;
        let keys = std::mem::replace(&mut self.keys, vec![next.run_key().clone()]);
        let full = std::mem::replace(&mut self.tail, next);
        self.background.prepare(self.lineage, Lsn(start.0 + self.lineage.segment_size.bytes()));
        self.background.close(FullTail {
            path: full.path().to_path_buf(),
            lineage: self.lineage,
            start: self.tail_start,
            as_of: self.noted,
            keys,
        });
        self.tail_start = start;
        self.live.enter(self.tail.path(), self.durable_end());
        Ok(())
    }

    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let result = work(self);
        self.failed = result.is_err();
        if self.failed {
            self.live.leave();
        }
        result
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if !self.failed {
            // The next commit would say it as well; there is none.
            let _ = self.tail.note(Slot { acknowledged: self.durable, as_of: self.noted });
        }
        // While the lock is still held: the next writer's tail is not to be forgotten.
        self.live.leave();
    }
}

fn enter_new(folder: &Path, lineage: &Lineage, start: Lsn, keys: &JournalKeys) -> Result<Tail> {
    let mut tail = Tail::prepare(folder, lineage, start, keys)?;
    tail.enter(Slot { acknowledged: start, as_of: None })?;
    Ok(tail)
}

fn writer_lock(journal: &LogJournal) -> Result<File> {
    let path = journal.dir().join("writer.lock");
    let lock = durable::lock_file(&path)?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Busy { dir: journal.dir().to_path_buf() }),
        Err(errno) => Err(Error::io("lock", &path)(errno.into())),
    }
}

/// What an earlier writer has left in a timeline's folder.
struct Left {
    full: Vec<FullTail>,
    open: Option<(TailName, Scan)>,
    /// Where the newest closed or full segment ends.
    full_end: Option<Lsn>,
    /// Where the newest tail ends that a gap was to follow.
    ended: Option<Lsn>,
}

impl Left {
    fn end(&self) -> Option<Lsn> {
        let open = self.open.as_ref().map(|(_, scan)| scan.committed);
        open.max(self.full_end).max(self.ended)
    }

    fn look(folder: &Path, lineage: &Lineage) -> Result<Self> {
        let files = layout::list(folder)?;
        for leftover in &files.leftovers {
            durable::remove(leftover)?;
        }
        let closed_end = files.closed.last().map(|closed| closed.end);
        let mut left = Left { full: Vec::new(), open: None, full_end: closed_end, ended: None };
        for name in files.tails {
            if name.ended {
                // Damage before an accepted gap does not keep the log behind it from going on.
                left.ended = records::scan(&name.path).map_or(left.ended, |scan| Some(scan.committed));
                continue;
            }
            let scan = records::scan(&name.path)?;
            let known = scan.runs.last().map_or(*lineage, |run| run.lineage);
            if known.segment_size != lineage.segment_size {
                return Err(Error::SegmentSize {
                    known: known.segment_size.bytes(),
                    found: lineage.segment_size.bytes(),
                });
            }
            // A tail is entered only when the one before it is full and synced.
            let lost = |(name, scan): &(TailName, Scan), acknowledged| {
                Err(Error::Lost { path: name.path.clone(), readable: scan.committed, acknowledged })
            };
            if let Some(open) = &left.open {
                return lost(open, name.start);
            }
            let end = Lsn(name.start.0 + lineage.segment_size.bytes());
            if scan.committed == end {
                left.full_end = left.full_end.max(Some(end));
                left.full.push(FullTail {
                    path: name.path,
                    lineage: known,
                    start: name.start,
                    as_of: scan.as_of,
                    keys: Vec::new(),
                });
                continue;
            }
            let open = (name, scan);
            if let Some(later) = closed_end.filter(|later| *later > open.0.start) {
                return lost(&open, later);
            }
            left.open = Some(open);
        }
        Ok(left)
    }
}
