//! Group commit: everything that has arrived is taken, then made durable by one flush, then acknowledged once.
//! Log that no commit waits for is flushed a few times in a second only.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use jiff::Timestamp;
use levee_model::control::Signed;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use levee_model::{Epoch, FlushSchedule};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use tracing::debug;

use super::{CHUNK_BYTES_MAX, LogChunk, LogOpen, LogRefusal, LogSession, RefusalReason};
use crate::agent::Caller;
use crate::listen;
use crate::proto::{self, log_answer, log_message};

/// A flush is not put off for longer than this much log, so that acknowledgements keep coming under full load.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Small; a sender that does not read them is dropped with its connection.
const ANSWERS: usize = 64;

type Answers = mpsc::Sender<Result<proto::LogAnswer, Status>>;

/// Serves one stream. The first message was not read yet. The stream has its connection's thread for itself, and blocks it
/// while it writes: what comes meanwhile waits in the socket.
pub(crate) fn receive(
    caller: Caller,
    held: listen::Held,
    mut messages: Streaming<proto::LogMessage>,
) -> mpsc::Receiver<Result<proto::LogAnswer, Status>> {
    let (answers, answered) = mpsc::channel(ANSWERS);
    tokio::spawn(async move {
        if let Err(refusal) = run(&caller, &mut messages, &answers).await {
            debug!(peer = %caller.peer, %refusal, "refused a log");
            let refused = proto::LogRefused { reason_code: refusal.reason.code().into(), message: refusal.message };
            answer(&answers, log_answer::Answer::Refused(refused)).await;
        }
        drop(held);
    });
    answered
}

/// False when nobody listens any more.
async fn answer(answers: &Answers, answer: log_answer::Answer) -> bool {
    answers.send(Ok(proto::LogAnswer { answer: Some(answer) })).await.is_ok()
}

async fn run(
    caller: &Caller,
    messages: &mut Streaming<proto::LogMessage>,
    answers: &Answers,
) -> Result<(), LogRefusal> {
    let Arrived::Message(first) = next(messages).await else { return Ok(()) };
    let Some(log_message::Message::Open(open)) = first.message else {
        return Err(protocol("the first message of a log stream must be Open"));
    };
    let mut session = caller.calls.open_log(&caller.peer, read_open(open)?)?;
    let mut told = session.resume_lsn();
    let resume = proto::LogResume { lsn: told.0, has_log: session.has_log() };
    if !answer(answers, log_answer::Answer::Resume(resume)).await {
        return Ok(());
    }
    let mut batch = Batch { session: session.as_mut(), bytes: 0, schedule: FlushSchedule::default() };
    loop {
        let mut arrived = match batch.schedule.due() {
            Some(due) => tokio::time::timeout_at(due.into(), next(messages)).await.unwrap_or(Arrived::Nothing),
            None => next(messages).await,
        };
        while let Arrived::Message(message) = arrived {
            if caller.is_revoked() {
                let message = format!("the certificate of {} has been revoked", caller.peer);
                return Err(LogRefusal::new(RefusalReason::NotGranted, message));
            }
            batch.take(message)?;
            let is_full = batch.bytes >= BATCH_BYTES_MAX;
            arrived = if is_full { Arrived::Nothing } else { next_here(messages).await };
        }
        let is_over = matches!(arrived, Arrived::End);
        // Whatever ended the stream: what had arrived may be the last that there is.
        if is_over || batch.is_due(Instant::now()) {
            let durable = batch.flush()?;
            let moved = durable != told;
            told = durable;
            if moved && !answer(answers, log_answer::Answer::Durable(proto::LogDurable { lsn: durable.0 })).await {
                return Ok(());
            }
        }
        if is_over {
            return Ok(());
        }
    }
}

enum Arrived {
    Message(proto::LogMessage),
    /// The time came first.
    Nothing,
    End,
}

/// Dropped while it waits, it loses nothing.
async fn next(messages: &mut Streaming<proto::LogMessage>) -> Arrived {
    match messages.message().await {
        Ok(Some(message)) => Arrived::Message(message),
        Ok(None) | Err(_) => Arrived::End,
    }
}

/// The next message, if it is here already.
async fn next_here(messages: &mut Streaming<proto::LogMessage>) -> Arrived {
    let mut next = pin!(next(messages));
    poll_fn(|context| match next.as_mut().poll(context) {
        Poll::Ready(arrived) => Poll::Ready(arrived),
        Poll::Pending => Poll::Ready(Arrived::Nothing),
    })
    .await
}

/// What was taken since the last flush.
struct Batch<'a> {
    session: &'a mut dyn LogSession,
    bytes: usize,
    schedule: FlushSchedule,
}

impl Batch<'_> {
    fn take(&mut self, message: proto::LogMessage) -> Result<(), LogRefusal> {
        let may_wait = match &message.message {
            Some(log_message::Message::Chunk(chunk)) => chunk.may_wait,
            Some(log_message::Message::SourceTime(source)) => source.may_wait,
            _ => true,
        };
        self.bytes += take(self.session, message)?;
        self.schedule.took(may_wait, Instant::now());
        Ok(())
    }

    fn is_due(&self, now: Instant) -> bool {
        self.bytes >= BATCH_BYTES_MAX || self.schedule.is_due(now)
    }

    fn flush(&mut self) -> Result<Lsn, LogRefusal> {
        let durable = self.session.flush()?;
        self.bytes = 0;
        self.schedule.flushed();
        Ok(durable)
    }
}

/// Hands one message to the session; returns how many bytes of log it held.
fn take(session: &mut dyn LogSession, message: proto::LogMessage) -> Result<usize, LogRefusal> {
    match message.message {
        Some(log_message::Message::Chunk(chunk)) => {
            let length = chunk.bytes.len();
            if length > CHUNK_BYTES_MAX {
                return Err(protocol("a piece of log is larger than 1 MiB"));
            }
            session.append(LogChunk {
                lsn: Lsn(chunk.lsn),
                bytes: chunk.bytes,
                source_time: time(chunk.source_time_us)?,
                source_end: Lsn(chunk.source_end_lsn),
                may_wait: chunk.may_wait,
            })?;
            Ok(length)
        }
        Some(log_message::Message::History(history)) => {
            session.history(TimelineId(history.timeline), &history.content).map(|()| 0)
        }
        Some(log_message::Message::SourceTime(source)) => {
            session.source_time(time(source.as_of_us)?, Lsn(source.source_end_lsn)).map(|()| 0)
        }
        Some(log_message::Message::Open(_)) => Err(protocol("a log stream is opened once")),
        None => Err(protocol("an empty message; the sender may be of a newer version")),
    }
}

fn read_open(open: proto::LogOpen) -> Result<LogOpen, LogRefusal> {
    let grant: Signed = serde_json::from_str(&open.grant).map_err(|_| protocol("the grant cannot be read"))?;
    if open.epoch == 0 {
        return Err(protocol("epoch 0 is never valid"));
    }
    Ok(LogOpen {
        asset: open.asset.parse().map_err(|error| protocol(&format!("{error}")))?,
        epoch: Epoch(open.epoch),
        grant,
        system_identifier: SystemIdentifier(open.system_identifier),
        timeline: TimelineId(open.timeline),
        segment_size: SegmentSize::new(open.segment_size_bytes).map_err(|error| protocol(&error.to_string()))?,
        source_start: Lsn(open.source_start_lsn),
        after_gap: open.after_gap,
    })
}

fn time(microseconds: i64) -> Result<Timestamp, LogRefusal> {
    Timestamp::from_microsecond(microseconds).map_err(|_| protocol("a time is out of range"))
}

fn protocol(message: &str) -> LogRefusal {
    LogRefusal::new(RefusalReason::Protocol, message)
}
