//! The writer's end of a database's log stream: to the other site, and back with what is durable there.

mod gathered;
mod remembered;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use levee_database::StopSignal;
use levee_database::postgres::{Lineage, LogChunk, LogSink, SinkError, SourceLog};
use levee_model::AssetId;
use levee_model::control::{Assignment, Failure, Peer};
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use levee_wire::AgentClient;
use levee_wire::log::{LogError, LogOpen, LogReceiver, LogSender, LogStream, RefusalReason};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::folder::AppFolder;
use crate::context::ProtectContext;
use gathered::Gathered;
use remembered::{Begun, Remembered, next_to_fetch};

/// How long the other side's reason for the end of a stream may take to get here.
const REASON_MAX: Duration = Duration::from_millis(500);
/// How long the other site may take to end a stream.
const CLOSING_MAX: Duration = Duration::from_secs(2);
/// How long it is waited for everything that was sent to be durable, where somebody waits for it.
const FLUSH_MAX: Duration = Duration::from_secs(1);
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
    /// Without a thread of its own: the connection goes on in calls of the archive alone, most of all in `wait`. A commit
    /// that waits for the other site thus wakes one thread here.
    runtime: Runtime,
    stream: Option<OpenStream>,
    /// Log that goes on in one message, once everything that has come is in it.
    gathered: Option<Gathered>,
    /// A stream that was opened to learn how far the other site has a timeline, for `begin` to go on with.
    asked: Option<(Lineage, LogStream)>,
    /// What was said last of the source on this stream: the moment, and where its log ended then.
    source: Option<(Timestamp, Lsn)>,
    /// The end of what was appended to this stream.
    appended: Lsn,
    /// The log that the other site would need next is gone: it goes on behind the gap.
    after_gap: bool,
    /// History files for the next stream.
    histories: Vec<(TimelineId, Vec<u8>)>,
}

struct OpenStream {
    sender: LogSender,
    listener: Listener,
}

/// The task that hears what is durable.
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the listening task tells the archive.
#[derive(Default)]
struct Progress {
    durable: AtomicU64,
    /// Why the stream ended, until the archive has asked.
    ended: Mutex<Option<SinkError>>,
    moved: Notify,
}

impl Progress {
    fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::SeqCst))
    }

    fn reach(&self, durable: Lsn) {
        self.durable.fetch_max(durable.0, Ordering::SeqCst);
        self.moved.notify_one();
    }

    fn end(&self, error: SinkError) {
        *self.ended() = Some(error);
        self.moved.notify_one();
    }

    fn ended(&self) -> MutexGuard<'_, Option<SinkError>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when everything before `end` is durable, or the stream has ended.
    async fn has_reached(&self, end: Lsn) {
        while self.durable() < end && self.ended().is_none() {
            self.moved.notified().await;
        }
    }
}

impl WireSink {
    /// Fails only when the process may open no more file descriptors.
    pub fn new(
        context: ProtectContext,
        assignment: Arc<Assignment>,
        asset: AssetId,
        after_gap: bool,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            context,
            assignment,
            asset,
            progress: Arc::default(),
            runtime,
            stream: None,
            gathered: None,
            asked: None,
            source: None,
            appended: Lsn(0),
            after_gap,
            histories: Vec::new(),
        })
    }

    /// Ends the open stream as `close` does: the connection goes on in calls alone, so that without one the other site
    /// would never hear of the end, and refuse the stream that follows.
    fn close_open(&mut self) {
        let Some(OpenStream { sender, mut listener }) = self.stream.take() else { return };
        drop(sender);
        let _ = self.runtime.block_on(async { timeout(CLOSING_MAX, &mut listener.0).await });
    }

    /// The same for a stream that was only asked of.
    fn close_asked(&mut self) {
        if let Some((_, stream)) = self.asked.take() {
            self.close(stream);
        }
    }

    /// Ends a stream, and waits until the other site has let go of its journal: it takes one stream at a time.
    fn close(&self, stream: LogStream) {
        let LogStream { sender, mut receiver, .. } = stream;
        drop(sender);
        let ended = async { while receiver.durable().await.is_ok() {} };
        // One that takes longer is in the way of the next stream, which is then tried again.
        let _ = self.runtime.block_on(async { timeout(CLOSING_MAX, ended).await });
    }

    /// Why the stream ended. The sender notices an end sooner than the listener hears the reason.
    fn take_end(&mut self) -> SinkError {
        let has_ended = self.progress.has_reached(Lsn(u64::MAX));
        // Without a reason in time there is none.
        let _ = self.runtime.block_on(async { timeout(REASON_MAX, has_ended).await });
        self.stream = None;
        self.progress.ended().take().unwrap_or_else(no_reason)
    }

    /// An error, once, when the other site has ended the stream.
    fn still_open(&mut self) -> Result<(), SinkError> {
        let ended = self.progress.ended().take();
        match ended {
            Some(ended) => {
                self.stream = None;
                Err(ended)
            }
            None => Ok(()),
        }
    }

    fn send_gathered(&mut self, may_wait: bool) -> Result<(), SinkError> {
        let (Some(stream), Some(gathered)) = (&self.stream, self.gathered.take()) else { return Ok(()) };
        let sent = self.runtime.block_on(stream.sender.chunk(gathered.message(may_wait)));
        sent.map_err(|_| self.take_end())
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

impl Drop for WireSink {
    fn drop(&mut self) {
        // Another archive may follow at once, as when the protection file has changed.
        self.close_open();
        self.close_asked();
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
            Ok(lsn) => progress.reach(lsn),
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
        self.close_open();
        self.close_asked();
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
        self.close_open();
        (self.source, self.gathered) = (None, None);
        let LogStream { resume, has_log, sender, receiver } = match self.asked.take_if(|(asked, _)| *asked == lineage) {
            Some((_, stream)) => stream,
            None => {
                self.close_asked();
                self.open(lineage, segment_size, source_start)?
            }
        };
        let (epoch, after_gap) = (self.assignment.epoch, self.after_gap);
        let begun = Begun { epoch, lineage, source_start, resume, has_log, after_gap };
        self.remembered().note(&begun).map_err(unavailable)?;
        // Only the first stream goes over the gap; whatever comes later continues what this one began.
        self.after_gap = false;
        self.progress.durable.store(resume.0, Ordering::SeqCst);
        *self.progress.ended() = None;
        self.appended = resume;
        let listener = Listener(self.runtime.spawn(listen(receiver, self.progress.clone(), self.assignment.clone())));
        for (timeline, content) in std::mem::take(&mut self.histories) {
            let sent = self.runtime.block_on(sender.history(timeline, &content));
            sent.map_err(|_| self.take_end())?;
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
            return Err(self.take_end());
        }
        self.source = Some((chunk.source_time, chunk.source_end));
        if chunk.bytes.is_empty() {
            self.send_gathered(true)?;
            let Some(stream) = &self.stream else { return Ok(()) };
            let sent = self.runtime.block_on(stream.sender.source_time(chunk.source_time, chunk.source_end));
            return sent.map_err(|_| self.take_end());
        }
        self.appended = Lsn(chunk.lsn.0 + chunk.bytes.len() as u64);
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
            self.send_gathered(false)?;
        } else if let (Some(stream), Some((source_time, source_end))) = (&self.stream, self.source) {
            stream.sender.hurry(source_time, source_end);
        }
        if self.stream.is_some() {
            let has_reached = self.progress.has_reached(self.appended);
            // Who needs it durable looks at `durable`.
            let _ = self.runtime.block_on(async { timeout(FLUSH_MAX, has_reached).await });
        }
        self.still_open()
    }

    fn durable(&self) -> Lsn {
        self.progress.durable()
    }

    fn wait(&mut self, server: Option<BorrowedFd<'_>>, stop: &StopSignal, wait_max: Duration) -> Result<(), SinkError> {
        let waited: std::io::Result<()> = self.runtime.block_on(async {
            let server = server.map(watch).transpose()?;
            let stop = watch(stop.as_fd())?;
            let is_readable = async {
                match &server {
                    Some(server) => server.readable().await.map(drop),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.progress.moved.notified() => Ok(()),
                readable = is_readable => readable,
                stopped = stop.readable() => stopped.map(drop),
                () = tokio::time::sleep(wait_max) => Ok(()),
            }
        });
        waited.map_err(|error| SinkError::Unavailable { reason: format!("cannot wait for the log: {error}") })?;
        self.still_open()
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for what does not keep to I/O safety, and a borrowed descriptor does"
)]
fn watch(descriptor: BorrowedFd<'_>) -> std::io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
