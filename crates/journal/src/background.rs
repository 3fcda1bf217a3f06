//! What is done beside the stream, so that a flush never waits for it: making the next tail, and
//! turning full tails into closed segments.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use jiff::Timestamp;
use levee_model::postgres::Lsn;

use crate::closed::{ClosedHeader, ClosedReader, ClosedWriter};
use crate::keys::{JournalKeys, SharedKeys};
use crate::tail::{RunKey, Tail, TailLog};
use crate::{Error, Lineage, Result, durable, layout};

/// A full tail that is to be closed.
pub(crate) struct FullTail {
    pub path: PathBuf,
    pub lineage: Lineage,
    pub start: Lsn,
    pub as_of: Option<Timestamp>,
    /// Keys of the runs that this process wrote.
    pub keys: Vec<RunKey>,
}

/// Where the next tail is to begin.
struct NextTail {
    lineage: Lineage,
    start: Lsn,
}

/// Two threads, so that the next tail need not wait for a segment to be closed. Dropping it waits for
/// what is under way.
pub(crate) struct Background {
    wanted: Option<Sender<NextTail>>,
    prepared: Receiver<Result<Tail>>,
    // What waits is bounded by the disk: each job stands for a tail of a whole segment.
    full: Option<Sender<FullTail>>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(folder: PathBuf, keys: SharedKeys) -> Result<Self> {
        // The writer asks for the next tail only when it has taken the one before.
        let (wanted, asked) = bounded::<NextTail>(1);
        let (hand_over, prepared) = bounded(1);
        let (full, to_close) = unbounded();
        let prepare = spawn("journal-prepare", {
            let (folder, keys) = (folder.clone(), keys.clone());
            move || {
                for next in asked {
                    let tail = Tail::prepare(&folder, &next.lineage, next.start, &keys);
                    if hand_over.send(tail).is_err() {
                        return;
                    }
                }
            }
        });
        let close = spawn("journal-close", move || close_all(&folder, &keys, &to_close));
        let threads = vec![prepare?, close?];
        Ok(Self { wanted: Some(wanted), prepared, full: Some(full), threads })
    }

    /// Asks for the next tail; `take_prepared` gets it.
    pub(crate) fn prepare(&self, lineage: Lineage, start: Lsn) {
        if let Some(wanted) = &self.wanted {
            // Without the thread `take_prepared` says so.
            let _ = wanted.send(NextTail { lineage, start });
        }
    }

    /// The tail that was asked for, waiting for it if it must.
    pub(crate) fn take_prepared(&self) -> Result<Tail> {
        self.prepared.recv().unwrap_or(Err(Error::WriterFailed))
    }

    pub(crate) fn close(&self, tail: FullTail) {
        if let Some(full) = &self.full
            && full.send(tail).is_err()
        {
            tracing::error!("the journal's closing thread is gone; full segments stay open tails until a restart");
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        (self.wanted, self.full) = (None, None);
        // Taking the tail that was prepared for nothing lets the thread end.
        while let Ok(tail) = self.prepared.recv() {
            // The next writer would remove it as well.
            let _ = tail.map(|tail| durable::remove(tail.path()));
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal has panicked; full segments stay open tails until a restart");
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(Error::io("start a thread for", Path::new("the journal")))
}

fn close_all(folder: &Path, keys: &JournalKeys, full: &Receiver<FullTail>) {
    // Tried again when the next one comes: a disk that was full may have room by then.
    let mut failed = Vec::new();
    for tail in full {
        for tail in std::mem::take(&mut failed).into_iter().chain([tail]) {
            if let Err(error) = close(folder, keys, &tail, &|_| Ok(())) {
                let path = tail.path.display();
                tracing::warn!(%error, %path, "cannot close a full segment now; it stays readable as a tail");
                failed.push(tail);
            }
        }
    }
}

/// The points at which closing may be interrupted; a test fails at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseStep {
    Written,
    Verified,
    Renamed,
    TailRemoved,
}

/// Turns a full tail into a closed segment. At every moment the tail, or the closed file, is there and whole.
pub(crate) fn close(
    folder: &Path,
    keys: &JournalKeys,
    tail: &FullTail,
    reached: &dyn Fn(CloseStep) -> Result<()>,
) -> Result<()> {
    let end = Lsn(tail.start.0 + tail.lineage.segment_size.bytes());
    let path = layout::closed_path(folder, &tail.lineage, tail.start, end);
    let beside = path.with_added_extension("tmp");
    let header = ClosedHeader { lineage: tail.lineage, start: tail.start, end, as_of: tail.as_of };
    let mut writer = ClosedWriter::create(&beside, header, keys)?;
    let mut log = TailLog::open(&tail.path, end, &tail.keys)?;
    while let Some((_, bytes)) = log.next(keys)? {
        writer.push(&bytes)?;
    }
    writer.finish()?;
    reached(CloseStep::Written)?;
    // Without an identity only the writer's word stands for it, as with every sealed file.
    if keys.identity.is_some() {
        let mut reader = ClosedReader::open(&beside, keys)?;
        while reader.next()?.is_some() {}
    }
    reached(CloseStep::Verified)?;
    durable::rename(&beside, &path)?;
    reached(CloseStep::Renamed)?;
    durable::remove(&tail.path)?;
    reached(CloseStep::TailRemoved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, LogJournal};
    use levee_model::Epoch;
    use levee_model::postgres::{SegmentSize, SystemIdentifier, TimelineId};

    const SEGMENT: u64 = 1 << 20;

    fn lineage() -> Lineage {
        Lineage {
            system_identifier: SystemIdentifier(7),
            timeline: TimelineId(1),
            epoch: Epoch(1),
            segment_size: SegmentSize::new(SEGMENT).unwrap(),
        }
    }

    /// Interrupted at each step, the log is readable at once, and the next writer ends the work.
    #[test]
    fn closing_may_be_interrupted_anywhere() {
        for step in [CloseStep::Written, CloseStep::Verified, CloseStep::Renamed, CloseStep::TailRemoved] {
            let dir = tempfile::tempdir().unwrap();
            let keys = JournalKeys::of_identity(Identity::generate());
            let journal = LogJournal::open(dir.path(), keys.clone()).unwrap();
            let folder = journal.folder(lineage().system_identifier, lineage().timeline);
            durable::create_folder(&folder).unwrap();
            let bytes: Vec<u8> = (0..SEGMENT).map(|byte| (byte / 7) as u8).collect();
            let mut tail = Tail::prepare(&folder, &lineage(), Lsn(SEGMENT), &keys).unwrap();
            tail.enter(crate::format::Slot { acknowledged: Lsn(SEGMENT), as_of: None }).unwrap();
            tail.write(&bytes, true, Lsn(SEGMENT), None).unwrap();
            tail.sync().unwrap();
            let full = FullTail {
                path: tail.path().to_path_buf(),
                lineage: lineage(),
                start: Lsn(SEGMENT),
                as_of: None,
                keys: vec![tail.run_key().clone()],
            };
            let crash = |reached| if reached == step { Err(Error::WriterFailed) } else { Ok(()) };
            close(&folder, &keys, &full, &crash).unwrap_err();
            let check = || {
                let segment = journal.segment(SystemIdentifier(7), TimelineId(1), Lsn(SEGMENT)).unwrap().unwrap();
                assert!(segment.complete && segment.bytes == bytes, "after {step:?}");
            };
            check();
            let writer = journal.writer(lineage(), Lsn(SEGMENT)).unwrap();
            assert_eq!(writer.end(), Lsn(2 * SEGMENT));
            drop(writer);
            check();
            let files = layout::list(&folder).unwrap();
            assert_eq!((files.closed.len(), files.leftovers.len()), (1, 0), "after {step:?}");
            let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left.len(), 2, "after {step:?} only the closed segment and the next tail are there: {left:?}");
        }
    }
}
