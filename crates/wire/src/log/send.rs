use bytes::Bytes;
use jiff::Timestamp;
use levee_model::postgres::{Lsn, TimelineId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{CHUNK_BYTES_MAX, LogChunk, LogOpen, LogRefusal, RefusalReason};
use crate::error::Error;
use crate::explain;
use crate::proto::agent_client::AgentClient;
use crate::proto::{self, log_answer, log_message};

/// Messages that wait for the connection. With pieces of 256 KiB these are 8 MiB; more would only hide from the database
/// that the link is slow.
const QUEUE_MESSAGES: usize = 32;

/// Why a log stream failed or ended.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the recovery side refused the log")]
    Refused(#[source] LogRefusal),
    #[error("the log stream broke off")]
    Link(#[source] Error),
}

/// The stream has ended; `LogReceiver::durable` says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log stream has ended")]
pub struct LogEnded;

/// An open log stream.
pub struct LogStream {
    /// Where to go on.
    pub resume: Lsn,
    /// The other side has log that ends there.
    pub has_log: bool,
    pub sender: LogSender,
    pub receiver: LogReceiver,
}

/// The sending half. Each call waits while the queue is full; dropping it ends the stream.
#[derive(Clone)]
pub struct LogSender {
    queue: mpsc::Sender<proto::LogMessage>,
}

impl LogSender {
    pub async fn chunk(&self, chunk: LogChunk) -> Result<(), LogEnded> {
        for piece in pieces(chunk) {
            self.send(log_message::Message::Chunk(piece)).await?;
        }
        Ok(())
    }

    pub async fn history(&self, timeline: TimelineId, content: &[u8]) -> Result<(), LogEnded> {
        self.send(history(timeline, content)).await
    }

    /// Nothing beyond `source_end` was written at the source up to `as_of` on its clock.
    pub async fn source_time(&self, as_of: Timestamp, source_end: Lsn) -> Result<(), LogEnded> {
        self.send(source_time(as_of, source_end, true)).await
    }

    /// Asks that everything that was sent is flushed at once, by saying again what was said last of the source. A
    /// queue that is full is left alone: what is in it gets flushed for its size.
    pub fn hurry(&self, as_of: Timestamp, source_end: Lsn) {
        let message = Some(source_time(as_of, source_end, false));
        // A stream that has ended says so elsewhere.
        let _ = self.queue.try_send(proto::LogMessage { message });
    }

    async fn send(&self, message: log_message::Message) -> Result<(), LogEnded> {
        self.queue.send(proto::LogMessage { message: Some(message) }).await.map_err(|_| LogEnded)
    }
}

fn pieces(chunk: LogChunk) -> impl Iterator<Item = proto::LogChunk> {
    let LogChunk { mut lsn, mut bytes, source_time, source_end, may_wait } = chunk;
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let piece: Bytes = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
        let start = lsn;
        lsn = Lsn(lsn.0.saturating_add(piece.len() as u64));
        Some(proto::LogChunk {
            lsn: start.0,
            bytes: piece,
            source_time_us: source_time.as_microsecond(),
            source_end_lsn: source_end.0,
            // One flush for the whole of it.
            may_wait: may_wait || !bytes.is_empty(),
        })
    })
}

fn history(timeline: TimelineId, content: &[u8]) -> log_message::Message {
    log_message::Message::History(proto::LogHistory { timeline: timeline.0, content: content.to_vec() })
}

fn source_time(as_of: Timestamp, source_end: Lsn, may_wait: bool) -> log_message::Message {
    let as_of_us = as_of.as_microsecond();
    log_message::Message::SourceTime(proto::LogSourceTime { as_of_us, source_end_lsn: source_end.0, may_wait })
}

/// The half that hears what has become durable.
pub struct LogReceiver {
    peer: String,
    answers: Streaming<proto::LogAnswer>,
}

impl LogReceiver {
    /// Waits for the next position up to which everything is durable at the other side.
    pub async fn durable(&mut self) -> Result<Lsn, LogError> {
        match next(&self.peer, &mut self.answers).await? {
            log_answer::Answer::Durable(durable) => Ok(Lsn(durable.lsn)),
            other => Err(unexpected(&self.peer, &other)),
        }
    }
}

async fn next(peer: &str, answers: &mut Streaming<proto::LogAnswer>) -> Result<log_answer::Answer, LogError> {
    let message = answers.message().await.map_err(|status| LogError::Link(explain::call(peer, status)))?;
    match message.and_then(|message| message.answer) {
        Some(log_answer::Answer::Refused(refused)) => {
            let reason = RefusalReason::from_code(&refused.reason_code);
            Err(LogError::Refused(LogRefusal { reason, message: refused.message }))
        }
        Some(answer) => Ok(answer),
        None => {
            let ended = tonic::Status::unavailable("it ended the log stream");
            Err(LogError::Link(Error::Disconnected { peer: peer.into(), source: Box::new(ended) }))
        }
    }
}

fn unexpected(peer: &str, answer: &log_answer::Answer) -> LogError {
    let what = match answer {
        log_answer::Answer::Resume(_) => "resume",
        log_answer::Answer::Durable(_) => "durable",
        log_answer::Answer::Refused(_) => "refused",
    };
    let why = format!("{what} has no place here");
    LogError::Link(Error::Malformed { what: format!("the log stream's answer from {peer}"), why })
}

pub(crate) async fn open(
    client: &mut AgentClient<Channel>,
    peer: String,
    open: LogOpen,
) -> Result<LogStream, LogError> {
    let (queue, messages) = mpsc::channel(QUEUE_MESSAGES);
    let grant = serde_json::to_string(&open.grant)
        .map_err(|error| LogError::Link(Error::Malformed { what: "the grant".into(), why: error.to_string() }))?;
    let first = proto::LogOpen {
        asset: open.asset.to_string(),
        epoch: open.epoch.0,
        grant,
        system_identifier: open.system_identifier.0,
        timeline: open.timeline.0,
        segment_size_bytes: open.segment_size.bytes(),
        source_start_lsn: open.source_start.0,
        after_gap: open.after_gap,
    };
    let sender = LogSender { queue };
    // The queue is empty, so that this does not wait.
    let _ = sender.send(log_message::Message::Open(first)).await;
    let answers = client.append_log(ReceiverStream::new(messages)).await;
    let mut answers = answers.map_err(|status| LogError::Link(explain::call(&peer, status)))?.into_inner();
    match next(&peer, &mut answers).await? {
        log_answer::Answer::Resume(resume) => {
            let receiver = LogReceiver { peer, answers };
            Ok(LogStream { resume: Lsn(resume.lsn), has_log: resume.has_log, sender, receiver })
        }
        other => Err(unexpected(&peer, &other)),
    }
}
