use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use levee_database::StopSignal;
use levee_database::postgres::{Lineage, LogChunk, LogSink, SinkError, SourceLog};
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// Keeps the log in memory. `durable` follows at once, or when the test says so.
#[derive(Clone)]
pub struct MemorySink {
    pub shared: Arc<Mutex<Shared>>,
    progress: Arc<OwnedFd>,
}

#[derive(Default)]
pub struct Shared {
    pub logs: BTreeMap<TimelineId, Log>,
    pub histories: BTreeMap<TimelineId, Vec<u8>>,
    pub current: Option<TimelineId>,
    /// Nothing becomes durable by itself.
    pub held: bool,
    pub refuse: bool,
    pub unavailable: bool,
    /// The last moment told, with the end of the source's log then.
    pub source: Option<(Timestamp, Lsn)>,
}

pub struct Log {
    pub start: Lsn,
    pub bytes: Vec<u8>,
    pub durable: Lsn,
}

impl Log {
    pub fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }
}

impl MemorySink {
    pub fn new() -> Self {
        let progress = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self { shared: Arc::default(), progress: Arc::new(progress) }
    }

    /// Makes everything durable that was received.
    pub fn flush(&self) {
        let mut shared = self.shared.lock().unwrap();
        for log in shared.logs.values_mut() {
            log.durable = log.end();
        }
        drop(shared);
        rustix::io::write(&self.progress, &1u64.to_ne_bytes()).unwrap();
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut Shared) -> T) -> T {
        look(&mut self.shared.lock().unwrap())
    }

    pub fn end(&self, timeline: u32) -> Lsn {
        self.with(|shared| shared.logs.get(&TimelineId(timeline)).map_or(Lsn(0), Log::end))
    }
}

impl LogSink for MemorySink {
    fn newest_timeline(&mut self, _: &SourceLog<'_>) -> Result<Option<TimelineId>, SinkError> {
        Ok(self.with(|shared| shared.logs.keys().last().copied()))
    }

    fn begin(&mut self, lineage: Lineage, _: SegmentSize, source_start: Lsn) -> Result<Lsn, SinkError> {
        self.with(|shared| {
            if shared.refuse {
                return Err(SinkError::Refused { reason: "a newer epoch has begun".into() });
            }
            if shared.unavailable {
                return Err(SinkError::Unavailable { reason: "the link is down".into() });
            }
            shared.current = Some(lineage.timeline);
            let empty = || Log { start: source_start, bytes: Vec::new(), durable: source_start };
            let log = shared.logs.entry(lineage.timeline).or_insert_with(empty);
            // What was not durable is lost.
            log.bytes.truncate((log.durable.0 - log.start.0) as usize);
            Ok(log.durable)
        })
    }

    fn history(&mut self, _: SystemIdentifier, timeline: TimelineId, content: &[u8]) -> Result<(), SinkError> {
        self.with(|shared| shared.histories.insert(timeline, content.to_vec()));
        Ok(())
    }

    fn append(&mut self, chunk: LogChunk<'_>) -> Result<(), SinkError> {
        self.with(|shared| {
            let current = shared.current.unwrap();
            let held = shared.held;
            if shared.unavailable {
                return Err(SinkError::Unavailable { reason: "the link is down".into() });
            }
            let log = shared.logs.get_mut(&current).unwrap();
            assert_eq!(chunk.lsn, log.end(), "not contiguous");
            log.bytes.extend_from_slice(chunk.bytes);
            if !held {
                log.durable = log.end();
            }
            shared.source = Some((chunk.source_time, chunk.source_end));
            Ok(())
        })
    }

    fn flush_due(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    fn durable(&self) -> Lsn {
        self.with(|shared| shared.logs[&shared.current.unwrap()].durable)
    }

    fn wait(&mut self, server: Option<BorrowedFd<'_>>, stop: &StopSignal, timeout: Duration) -> Result<(), SinkError> {
        let descriptors = [Some(self.progress.as_fd()), Some(stop.as_fd()), server].into_iter().flatten();
        let mut polled: Vec<_> =
            descriptors.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)).collect();
        poll(&mut polled, Some(&timeout.try_into().unwrap())).unwrap();
        // Nothing there is no error: the wake came from elsewhere.
        let _ = rustix::io::read(&self.progress, &mut [0; 8]);
        Ok(())
    }
}
