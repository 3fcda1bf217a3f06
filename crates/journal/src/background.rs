//! What is done beside the stream, so that a flush never waits for it: making the next tail, and
//! turning full tails into closed segments.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
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

/// How many full tails may wait for a processor that has nothing better to do. Beyond it they are closed at
/// the usual priority: until then stock tools can't read them, and each takes the place of a whole segment.
const WAITING_TAILS_MAX: usize = 16;
/// The lowest priority there is: closing takes what the database, and everything else, leaves over.
const PATIENT_NICE: i32 = 19;

/// Threads of their own, so that the next tail need not wait for a segment to be closed. Dropping it closes
/// what is left.
pub(crate) struct Background {
    wanted: Option<Sender<NextTail>>,
    prepared: Receiver<Result<Tail>>,
    // What waits is bounded by the disk: each job stands for a tail of a whole segment.
    full: Option<Sender<FullTail>>,
    /// Told once for each tail that is not to wait any longer.
    overdue: Option<Sender<()>>,
    waiting: Receiver<FullTail>,
    closer: Arc<Closer>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(folder: PathBuf, keys: SharedKeys) -> Result<Self> {
        // The writer asks for the next tail only when it has taken the one before.
        let (wanted, asked) = bounded::<NextTail>(1);
        let (hand_over, prepared) = bounded(1);
        let (full, waiting) = unbounded();
        // One that is not told because the thread is behind already is closed all the same, when the next comes.
        let (overdue, told) = bounded::<()>(1);
        let closer = Arc::new(Closer { folder: folder.clone(), keys: keys.clone(), failed: Mutex::default() });
        let prepare = spawn("journal-prepare", move || {
            for next in asked {
                let tail = Tail::prepare(&folder, &next.lineage, next.start, &keys);
                if hand_over.send(tail).is_err() {
                    return;
                }
            }
        });
        let patient = spawn("journal-close", {
            let (closer, waiting) = (closer.clone(), waiting.clone());
            move || {
                // Of this thread alone. Where it is not allowed, segments are closed at the usual priority.
                if let Err(errno) = rustix::process::setpriority_process(None, PATIENT_NICE) {
                    tracing::debug!(%errno, "segments are closed at the usual priority");
                }
                for tail in waiting {
                    closer.close(tail);
                }
            }
        });
        let impatient = spawn("journal-overdue", {
            let (closer, waiting) = (closer.clone(), waiting.clone());
            move || {
                for () in told {
                    while waiting.len() > WAITING_TAILS_MAX
                        && let Ok(tail) = waiting.try_recv()
                    {
                        closer.close(tail);
                    }
                }
            }
        });
        let threads = vec![prepare?, patient?, impatient?];
        let (wanted, full, overdue) = (Some(wanted), Some(full), Some(overdue));
        Ok(Self { wanted, prepared, full, overdue, waiting, closer, threads })
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
        let (Some(full), Some(overdue)) = (&self.full, &self.overdue) else { return };
        // This end holds a receiver itself, so that neither can fail but for a full `overdue`.
        let _ = full.send(tail);
        if self.waiting.len() > WAITING_TAILS_MAX {
            let _ = overdue.try_send(());
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        (self.wanted, self.full, self.overdue) = (None, None, None);
        // Taking the tail that was prepared for nothing lets the thread end.
        while let Ok(tail) = self.prepared.recv() {
            // The next writer would remove it as well.
            let _ = tail.map(|tail| durable::remove(tail.path()));
        }
        // Somebody waits now, maybe the next writer for its lock: not at the lowest priority.
        while let Ok(tail) = self.waiting.try_recv() {
            self.closer.close(tail);
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

/// Turns full tails into closed segments, from whichever thread.
struct Closer {
    folder: PathBuf,
    keys: SharedKeys,
    /// What could not be closed. Tried again when the next one comes: a disk that was full may have room by then.
    failed: Mutex<Vec<FullTail>>,
}

impl Closer {
    fn close(&self, tail: FullTail) {
        let failed = std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner));
        for tail in failed.into_iter().chain([tail]) {
            if let Err(error) = close(&self.folder, &self.keys, &tail, &|_| Ok(())) {
                let path = tail.path.display();
                tracing::warn!(%error, %path, "cannot close a full segment now; it stays readable as a tail");
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(tail);
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
