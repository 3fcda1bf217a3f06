//! The writer's end of a database's log stream: to the other site, and back with what is durable there.

mod gathered;
mod remembered;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_database::postgres::{Lineage, LogChunk, LogSink, SinkError, SourceLog};
use levee_model::AssetId;
use levee_model::control::{Assignment, Failure, Peer};
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use levee_wire::AgentClient;
use levee_wire::log::{LogError, LogOpen, LogReceiver, LogSender, LogStream, RefusalReason};
use rustix::event::{EventfdFlags, eventfd};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::folder::AppFolder;
use crate::context::ProtectContext;
use gathered::Gathered;
use remembered::{Begun, Remembered, next_to_fetch};

/// How long the other side's reason for the end of a stream may take to get here.
const REASON_MAX: Duration = Duration::from_millis(500);
const REASON_EVERY: Duration = Duration::from_millis(10);
/// How long the other site may take to end a stream.
const CLOSING_MAX: Duration = Duration::from_secs(10);
/// The most log that is sent in one message.
const GATHERED_BYTES_MAX: usize = 256 << 10;

fn no_reason() -> SinkError {
    SinkError::Unavailable { reason: "the log stream to the other site has ended".into() }
}

/// Sends a log to the agent of the recovery side.
pub struct WireSink {
    context: ProtectContext,
    assignment: Arc<Assignment>,
    asset: AssetId,
    progress: Arc<Progress>,
    /// Of one thread, for the connection alone: on the agent's own runtime a message would wake several.
    runtime: Runtime,
    stream: Option<OpenStream>,
    /// Log that goes on in one message, once everything that has come is in it.
    gathered: Option<Gathered>,
    /// A stream that was opened to learn how far the other site has a timeline, for `begin` to go on with.
    asked: Option<(Lineage, LogStream)>,
    /// What was said last of the source on this stream: the moment, and where its log ended then.
    source: Option<(Timestamp, Lsn)>,
    /// The log that the other site would need next is gone: it goes on behind the gap.
    after_gap: bool,
    /// History files for the next stream.
    histories: Vec<(TimelineId, Vec<u8>)>,
}

struct OpenStream {
    sender: LogSender,
    listener: JoinHandle<()>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// What the listening task tells the archive's thread.
struct Progress {
    durable: AtomicU64,
    /// Why the stream ended, until the archive has asked.
    ended: Mutex<Option<SinkError>>,
    event: OwnedFd,
}

impl Progress {
    fn wake(&self) {
        // A full counter is readable already, which is all that is wanted.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    fn end(&self, error: SinkError) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.wake();
    }

    /// Why the stream ended. The sender notices an end sooner than the listener hears the reason.
    fn take_end(&self) -> SinkError {
        let deadline = Instant::now() + REASON_MAX;
        loop {
            if let Some(ended) = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return ended;
            }
            if Instant::now() >= deadline {
                return no_reason();
            }
            std::thread::sleep(REASON_EVERY);
        }
    }
}

impl WireSink {
    /// Fails only when the process may open no more file descriptors or start no more threads.
    pub fn new(
        context: ProtectContext,
        assignment: Arc<Assignment>,
        asset: AssetId,
        after_gap: bool,
    ) -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("log").enable_all().build()?;
        let progress = Progress { durable: AtomicU64::new(0), ended: Mutex::default(), event };
        Ok(Self {
            context,
            assignment,
            asset,
            progress: Arc::new(progress),
            runtime,
            stream: None,
            gathered: None,
            asked: None,
            source: None,
            after_gap,
            histories: Vec::new(),
        })
    }

    /// Ends a stream, and waits until the other site has let go of its journal: it takes one stream at a time.
    fn close(&self, stream: LogStream) {
        let LogStream { sender, mut receiver, .. } = stream;
        drop(sender);
        let ended = async { while receiver.durable().await.is_ok() {} };
        // One that takes longer is in the way of the next stream, which is then tried again.
        let _ = self.runtime.block_on(async { tokio::time::timeout(CLOSING_MAX, ended).await });
    }

    fn send_gathered(&mut self, may_wait: bool) -> Result<(), SinkError> {
        let (Some(stream), Some(gathered)) = (&self.stream, self.gathered.take()) else { return Ok(()) };
        stream.sender.chunk_blocking(gathered.message(may_wait)).map_err(|_| self.progress.take_end())
    }

    fn remembered(&self) -> Remembered {
        let folder = AppFolder::new(self.context.folder.root(), &self.asset.app);
        Remembered::of(&folder, &self.asset.asset)
    }

    fn open(&self, lineage: Lineage, segment_size: SegmentSize, source_start: Lsn) -> Result<LogStream, SinkError> {
        let peer = self.assignment.peer.as_ref().ok_or_else(|| SinkError::Unavailable {
            reason: format!("no agent has joined at the recovery side of app {} yet", self.assignment.app),
        })?;
        let open = LogOpen {
            asset: self.asset.clone(),
            epoch: self.assignment.epoch,
            grant: self.assignment.grant.clone(),
            system_identifier: lineage.system_identifier,
            timeline: lineage.timeline,
            segment_size,
            source_start,
            after_gap: self.after_gap,
        };
        self.runtime.block_on(async {
            // A connection of its own: nothing else may sit in front of a commit's acknowledgement.
            let mut client = AgentClient::connect(&self.context.credentials, &peer.agent, &peer.wire.to_string())
                .await
                .map_err(|error| sink_error(LogError::Link(error), peer))?;
            client.append_log(open).await.map_err(|error| sink_error(error, peer))
        })
    }
}

fn unavailable(failure: Failure) -> SinkError {
    SinkError::Unavailable { reason: failure.message }
}

fn sink_error(error: LogError, peer: &Peer) -> SinkError {
    match error {
        LogError::Refused(refusal) => {
            let reason = refusal.message;
            match refusal.reason {
                RefusalReason::NotReady | RefusalReason::Storage => SinkError::Unavailable { reason },
                _ => SinkError::Refused { reason },
            }
        }
        LogError::Link(error) => {
            SinkError::Unavailable { reason: levee_wire::unreachable(&peer.agent, &peer.wire, &error) }
        }
    }
}

async fn listen(mut receiver: LogReceiver, progress: Arc<Progress>, assignment: Arc<Assignment>) {
    loop {
        match receiver.durable().await {
            Ok(lsn) => {
                progress.durable.fetch_max(lsn.0, Ordering::SeqCst);
                progress.wake();
            }
            Err(error) => {
                let ended = assignment.peer.as_ref().map(|peer| sink_error(error, peer));
                return progress.end(ended.unwrap_or_else(no_reason));
            }
        }
    }
}

impl LogSink for WireSink {
    fn newest_timeline(&mut self, source: &SourceLog<'_>) -> Result<Option<TimelineId>, SinkError> {
        // Behind a gap nothing is missing that could still be had.
        if self.after_gap {
            return Ok(None);
        }
        let remembered = self.remembered().older_timeline(self.assignment.epoch, source).map_err(unavailable)?;
        let Some(timeline) = remembered else { return Ok(None) };
        (self.stream, self.asked) = (None, None);
        let lineage = Lineage { system_identifier: source.system_identifier, timeline };
        let stream = self.open(lineage, source.segment_size, source.start)?;
        let next = next_to_fetch(source.ancestors, timeline, stream.resume);
        if next == Some(timeline) {
            self.asked = Some((lineage, stream));
        } else {
            self.close(stream);
        }
        Ok(next)
    }

    fn begin(&mut self, lineage: Lineage, segment_size: SegmentSize, source_start: Lsn) -> Result<Lsn, SinkError> {
        (self.stream, self.source, self.gathered) = (None, None, None);
        let LogStream { resume, has_log, sender, receiver } = match self.asked.take() {
            Some((asked, stream)) if asked == lineage => stream,
            _ => self.open(lineage, segment_size, source_start)?,
        };
        let (epoch, after_gap) = (self.assignment.epoch, self.after_gap);
        let begun = Begun { epoch, lineage, source_start, resume, has_log, after_gap };
        self.remembered().note(&begun).map_err(unavailable)?;
        // Only the first stream goes over the gap; whatever comes later continues what this one began.
        self.after_gap = false;
        self.progress.durable.store(resume.0, Ordering::SeqCst);
        *self.progress.ended.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let listener = self.runtime.spawn(listen(receiver, self.progress.clone(), self.assignment.clone()));
        for (timeline, content) in std::mem::take(&mut self.histories) {
            sender.history_blocking(timeline, &content).map_err(|_| self.progress.take_end())?;
        }
        self.stream = Some(OpenStream { sender, listener });
        Ok(resume)
    }

    fn history(
        &mut self,
        _system_identifier: SystemIdentifier,
        timeline: TimelineId,
        content: &[u8],
    ) -> Result<(), SinkError> {
        // The stream that follows brings it. One that is still there may have broken off, and `begin` replaces it.
        self.histories.retain(|(known, _)| *known != timeline);
        self.histories.push((timeline, content.to_vec()));
        Ok(())
    }

    fn append(&mut self, chunk: LogChunk<'_>) -> Result<(), SinkError> {
        if self.stream.is_none() {
            return Err(self.progress.take_end());
        }
        self.source = Some((chunk.source_time, chunk.source_end));
        if chunk.bytes.is_empty() {
            self.send_gathered(true)?;
            let Some(stream) = &self.stream else { return Ok(()) };
            return stream
                .sender
                .source_time_blocking(chunk.source_time, chunk.source_end)
                .map_err(|_| self.progress.take_end());
        }
        let length = self.gathered.get_or_insert_with(|| Gathered::first(&chunk)).add(&chunk);
        if !chunk.may_wait || length >= GATHERED_BYTES_MAX {
            self.send_gathered(chunk.may_wait)?;
        }
        Ok(())
    }

    fn flush_due(&mut self) -> Result<(), SinkError> {
        // The other site looks after the time, also when nothing more comes from here.
        self.send_gathered(true)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        if self.gathered.is_some() {
            return self.send_gathered(false);
        }
        if let (Some(stream), Some((source_time, source_end))) = (&self.stream, self.source) {
            stream.sender.hurry(source_time, source_end);
        }
        Ok(())
    }

    fn durable(&self) -> Lsn {
        Lsn(self.progress.durable.load(Ordering::SeqCst))
    }

    fn progress(&self) -> Option<BorrowedFd<'_>> {
        Some(self.progress.event.as_fd())
    }

    fn acknowledge_progress(&mut self) -> Result<(), SinkError> {
        let mut counter = [0; 8];
        // An empty counter says EAGAIN: nothing to drain.
        let _ = rustix::io::read(&self.progress.event, &mut counter);
        match self.progress.ended.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(ended) => Err(ended),
            None => Ok(()),
        }
    }
}
