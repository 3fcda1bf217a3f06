//! What is done beside the stream, so that a flush never waits for it: making the next tail, and
//! turning full tails into closed segments.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use jiff::Timestamp;
use levee_model::postgres::Lsn;

use crate::closed::{self, ClosedHeader, ClosedWriter};
use crate::find_marks::{MarkFinder, Marking};
use crate::keys::{JournalKeys, SharedKeys};
use crate::tail::{RunKey, Tail, TailLog};
use crate::{Error, Lineage, Result, durable, layout, mark_files};

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

/// How many full tails may wait for the log to grow quiet. Beyond it they are closed whatever comes: until then stock
/// tools can't read them, and each takes the place of a whole segment.
const WAITING_TAILS_MAX: usize = 16;
/// The log is quiet when less than so much comes in `QUIET_TIME`: 4 MiB/s.
const QUIET_BYTES: u64 = 1 << 20;
const QUIET_TIME: Duration = Duration::from_millis(250);

/// Threads of their own, so that the next tail need not wait for a segment to be closed. Dropping it closes
/// what is left.
///
/// Closing a segment takes the processor for as long as some hundred commits. A low priority does not keep it out of
/// their way: Linux weighs sessions against each other first (`sched_autogroup_enabled`), and each of PostgreSQL's
/// processes is a session of its own. So it waits until the log itself is quiet.
pub(crate) struct Background {
    wanted: Option<Sender<NextTail>>,
    prepared: Receiver<Result<Tail>>,
    // What waits is bounded by the disk: each job stands for a tail of a whole segment.
    full: Option<Sender<FullTail>>,
    /// Bytes of log that have been taken in.
    taken: Arc<AtomicU64>,
    /// Never sent on; dropped to say that nothing more comes.
    goes_on: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(folder: PathBuf, keys: SharedKeys, finder: Option<MarkFinder>) -> Result<Self> {
        // The writer asks for the next tail only when it has taken the one before.
        let (wanted, asked) = bounded::<NextTail>(1);
        let (hand_over, prepared) = bounded(1);
        let (full, waiting) = unbounded();
        let (goes_on, ended) = bounded(0);
        let taken = Arc::new(AtomicU64::new(0));
        let mut closer = Closer {
            folder: folder.clone(),
            keys: keys.clone(),
            marking: finder.map(Marking::new),
            failed: Vec::new(),
        };
        let prepare = spawn("journal-prepare", move || {
            for next in asked {
                let tail = Tail::prepare(&folder, &next.lineage, next.start, &keys);
                if hand_over.send(tail).is_err() {
                    return;
                }
            }
        });
        let close = spawn("journal-close", {
            let taken = taken.clone();
            move || {
                for tail in &waiting {
                    // Not once the writer has ended: then somebody waits, maybe the next one for its lock.
                    wait_until_quiet(&taken, &ended, || waiting.len() >= WAITING_TAILS_MAX);
                    closer.close(tail);
                }
            }
        });
        let threads = vec![prepare?, close?];
        let (wanted, full, goes_on) = (Some(wanted), Some(full), Some(goes_on));
        Ok(Self { wanted, prepared, full, taken, goes_on, threads })
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

    /// So much log has been taken in.
    pub(crate) fn took(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn close(&self, tail: FullTail) {
        let Some(full) = &self.full else { return };
        // Without the thread it stays a tail, and the next writer closes it.
        let _ = full.send(tail);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        (self.wanted, self.full, self.goes_on) = (None, None, None);
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

/// Returns when little log comes, when too many tails wait, or when the writer has ended.
fn wait_until_quiet(taken: &AtomicU64, ended: &Receiver<()>, too_many_wait: impl Fn() -> bool) {
    while !too_many_wait() {
        let before = taken.load(Ordering::Relaxed);
        let has_ended = ended.recv_timeout(QUIET_TIME) != Err(RecvTimeoutError::Timeout);
        if has_ended || taken.load(Ordering::Relaxed).saturating_sub(before) < QUIET_BYTES {
            return;
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(Error::io("start a thread for", Path::new("the journal")))
}

/// Turns full tails into closed segments, in the order in which they became full.
struct Closer {
    folder: PathBuf,
    keys: SharedKeys,
    marking: Option<Marking>,
    /// What could not be closed. Tried again when the next one comes: a disk that was full may have room by then.
    failed: Vec<FullTail>,
}

impl Closer {
    fn close(&mut self, tail: FullTail) {
        let failed_before = std::mem::take(&mut self.failed);
        let had_failed = !failed_before.is_empty();
        let mut is_full = false;
        for tail in failed_before.into_iter().chain([tail]) {
            // Where one finds no room the next finds none, and each try reads a whole segment.
            if is_full {
                self.failed.push(tail);
                continue;
            }
            if let Err(error) = close(&self.folder, &self.keys, &tail, self.marking.as_mut(), &|_| Ok(())) {
                is_full = matches!(error, Error::Full { .. });
                let path = tail.path.display();
                if !(is_full && had_failed) {
                    tracing::warn!(%error, %path, "cannot close a full segment now; it stays readable as a tail");
                }
                self.failed.push(tail);
            }
        }
        if had_failed && self.failed.is_empty() {
            tracing::info!("the full segments that could not be closed are closed now");
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
    marking: Option<&mut Marking>,
    reached: &dyn Fn(CloseStep) -> Result<()>,
) -> Result<()> {
    let end = Lsn(tail.start.0 + tail.lineage.segment_size.bytes());
    let path = layout::closed_path(folder, &tail.lineage, tail.start, end);
    let beside = path.with_added_extension("tmp");
    let header = ClosedHeader { lineage: tail.lineage, start: tail.start, end, as_of: tail.as_of };
    let mut writer = ClosedWriter::create(&beside, header, keys)?;
    let mut log = TailLog::open(&tail.path, end, &tail.keys)?;
    let mut looking = marking.map(|marking| marking.begin(&tail.lineage, tail.start));
    while let Some((_, bytes)) = log.next(keys)? {
        writer.push(&bytes)?;
        if let Some(looking) = &mut looking {
            looking.feed(&bytes);
        }
    }
    let written = writer.finish()?;
    reached(CloseStep::Written)?;
    // Without an identity only the writer's word stands for it, as with every sealed file.
    if keys.identity.is_some() {
        closed::verify(&beside, &written, keys)?;
    }
    reached(CloseStep::Verified)?;
    durable::rename(&beside, &path)?;
    reached(CloseStep::Renamed)?;
    durable::remove(&tail.path)?;
    reached(CloseStep::TailRemoved)?;
    if let Some(block) = looking.and_then(|looking| looking.end(end))
        && let Err(error) = mark_files::write(folder, keys, &tail.lineage, &block)
    {
        // They can be found again from the log.
        tracing::debug!(%error, path = %path.display(), "the marks of a segment are not kept");
    }
    Ok(())
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
            close(&folder, &keys, &full, None, &crash).unwrap_err();
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
