//! Group commit: everything that has arrived is taken, then made durable by one flush, then acknowledged once.

use jiff::Timestamp;
use levee_model::Epoch;
use levee_model::control::Signed;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use tracing::debug;

use super::{CHUNK_BYTES_MAX, LogChunk, LogOpen, LogRefusal, LogSession, RefusalReason};
use crate::agent::Caller;
use crate::proto::{self, log_answer, log_message};

/// Messages that have arrived while a flush was under way.
const ARRIVED_MESSAGES: usize = 256;
/// A flush is not put off for longer than this much log, so that acknowledgements keep coming under full load.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Small; a sender that does not read them is dropped with its connection.
const ANSWERS: usize = 64;

type Answers = mpsc::Sender<Result<proto::LogAnswer, Status>>;

/// Serves one stream. The first message was not read yet.
pub(crate) fn receive(
    caller: Caller,
    mut messages: Streaming<proto::LogMessage>,
) -> mpsc::Receiver<Result<proto::LogAnswer, Status>> {
    let (answers, answered) = mpsc::channel(ANSWERS);
    tokio::spawn(async move {
        let (arrived, arriving) = mpsc::channel(ARRIVED_MESSAGES);
        let session = tokio::task::spawn_blocking(move || {
            if let Err(refusal) = run(&caller, arriving, &answers) {
                debug!(peer = %caller.peer, %refusal, "refused a log");
                let refused = proto::LogRefused { reason_code: refusal.reason.code().into(), message: refusal.message };
                answer(&answers, log_answer::Answer::Refused(refused));
            }
        });
        while let Ok(Some(message)) = messages.message().await {
            if arrived.send(message).await.is_err() {
                break;
            }
        }
        drop(arrived);
        // The session's thread ends by itself once it has made durable what had arrived.
        let _ = session.await;
    });
    answered
}

/// False when nobody listens any more.
fn answer(answers: &Answers, answer: log_answer::Answer) -> bool {
    answers.blocking_send(Ok(proto::LogAnswer { answer: Some(answer) })).is_ok()
}

fn run(caller: &Caller, mut arriving: mpsc::Receiver<proto::LogMessage>, answers: &Answers) -> Result<(), LogRefusal> {
    let Some(first) = arriving.blocking_recv() else { return Ok(()) };
    let Some(log_message::Message::Open(open)) = first.message else {
        return Err(protocol("the first message of a log stream must be Open"));
    };
    let mut session = caller.calls.open_log(&caller.peer, read_open(open)?)?;
    if !answer(answers, log_answer::Answer::Resume(proto::LogResume { lsn: session.resume_lsn().0 })) {
        return Ok(());
    }
    while let Some(message) = arriving.blocking_recv() {
        if caller.is_revoked() {
            let message = format!("the certificate of {} has been revoked", caller.peer);
            return Err(LogRefusal::new(RefusalReason::NotGranted, message));
        }
        let mut bytes = take(session.as_mut(), message)?;
        while bytes < BATCH_BYTES_MAX
            && let Ok(message) = arriving.try_recv()
        {
            bytes += take(session.as_mut(), message)?;
        }
        let durable = session.flush()?;
        if !answer(answers, log_answer::Answer::Durable(proto::LogDurable { lsn: durable.0 })) {
            return Ok(());
        }
    }
    Ok(())
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
