use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use fallible_iterator::FallibleIterator;
use jiff::Timestamp;
use levee_model::postgres::{Lsn, TimelineId};
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend::{self, CopyData};

use super::connection::{describe, server_error};
use super::transport::Waited;
use super::{Connection, Error, Result, from_postgres_time, to_postgres_time};

const DOING: &str = "receiving the log";

/// Where the log goes on after a timeline has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextTimeline {
    pub timeline: TimelineId,
    /// Where it branched off: the end of the timeline before.
    pub start: Lsn,
}

/// What a replication stream has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next bytes of the log, from `start` on. At `server_time` the server's flushed log ended at `server_end`.
    WalData { start: Lsn, server_end: Lsn, server_time: Timestamp, bytes: Bytes },
    /// The server is alive and has sent everything before `sent_end`; it may have more that it has not sent yet.
    Keepalive { sent_end: Lsn, server_time: Timestamp, reply_requested: bool },
    /// The timeline is complete. `ReplicationStream::into_connection` gives the connection back.
    EndOfTimeline { next: NextTimeline },
    /// The server shuts down, and everything that it had was received and confirmed.
    Ended,
    /// Nothing happened in the time given.
    Idle,
}

/// A running physical replication.
#[derive(Debug)]
pub struct ReplicationStream {
    connection: Connection,
    /// Where the next bytes must begin.
    position: Lsn,
    ended: Option<NextTimeline>,
}

impl ReplicationStream {
    pub(crate) fn new(connection: Connection, position: Lsn) -> Self {
        Self { connection, position, ended: None }
    }

    /// For the server's answer that the timeline has nothing after the position asked for.
    pub(crate) fn ended(mut connection: Connection, position: Lsn, row: &DataRowBody) -> Result<Self> {
        let next = next_timeline(row)?;
        connection.wait_until_ready(DOING)?;
        Ok(Self { connection, position, ended: Some(next) })
    }

    /// The end of what was received.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Waits for the next event. Who waits for something else as well asks with no time at all, and waits for the
    /// descriptor of this stream after `Event::Idle` only: what is buffered does not make it readable.
    pub fn poll(&mut self, timeout: Duration) -> Result<Event> {
        if let Some(next) = self.ended {
            return Ok(Event::EndOfTimeline { next });
        }
        if let Some(message) = self.connection.buffered(DOING)? {
            return self.event(message);
        }
        match self.connection.wait(timeout, &[]).map_err(Error::io(DOING))? {
            Waited::TimedOut | Waited::Woken => return Ok(Event::Idle),
            Waited::Readable => self.connection.fill(DOING)?,
        }
        match self.connection.buffered(DOING)? {
            Some(message) => self.event(message),
            // A part of a message.
            None => Ok(Event::Idle),
        }
    }

    /// Whether more has been read already than was polled: a message, or a part of one.
    pub fn has_buffered(&self) -> bool {
        self.connection.has_input()
    }

    /// Whether more has come already, so that `poll` would not wait.
    pub fn has_more(&mut self) -> Result<bool> {
        if self.connection.has_input() {
            return Ok(true);
        }
        let waited = self.connection.wait(Duration::ZERO, &[]).map_err(Error::io(DOING))?;
        Ok(waited == Waited::Readable)
    }

    /// Tells the server how far the log is written and flushed here; `Lsn(0)` stands for "not known". Levee applies
    /// nothing, and says so. With `reply` the server answers with a keepalive at once.
    pub fn send_status(&mut self, write: Lsn, flush: Lsn, now: Timestamp, reply: bool) -> Result<()> {
        const APPLY: Lsn = Lsn(0);
        let mut body = [0; 34];
        body[0] = b'r';
        body[1..9].copy_from_slice(&write.0.to_be_bytes());
        body[9..17].copy_from_slice(&flush.0.to_be_bytes());
        body[17..25].copy_from_slice(&APPLY.0.to_be_bytes());
        body[25..33].copy_from_slice(&to_postgres_time(now).to_be_bytes());
        body[33] = u8::from(reply);
        self.connection.send("reporting the position", |buffer| {
            CopyData::new(&body[..])?.write(buffer);
            Ok(())
        })
    }

    /// The connection, for other commands, after `EndOfTimeline`.
    pub fn into_connection(self) -> Connection {
        self.connection
    }

    fn event(&mut self, message: Message) -> Result<Event> {
        match message {
            Message::CopyData(body) => self.copy_data(body.into_bytes()),
            Message::CopyDone => {
                let next = self.finish_timeline()?;
                self.ended = Some(next);
                Ok(Event::EndOfTimeline { next })
            }
            Message::CommandComplete(_) => Ok(Event::Ended),
            Message::ErrorResponse(body) => Err(Error::Server(Box::new(server_error(body.fields())))),
            other => Err(Error::protocol(DOING, describe(&other))),
        }
    }

    fn copy_data(&mut self, mut body: Bytes) -> Result<Event> {
        let short = || Error::protocol(DOING, "a message that is too short");
        match body.try_get_u8().map_err(|_| short())? {
            b'w' => {
                if body.len() < 24 {
                    return Err(short());
                }
                let (start, server_end) = (Lsn(body.get_u64()), Lsn(body.get_u64()));
                let server_time = server_time(body.get_i64())?;
                if start != self.position {
                    return Err(Error::protocol(DOING, format!("log from {start} where {} was due", self.position)));
                }
                let end = start.0.checked_add(body.len() as u64).ok_or_else(short)?;
                self.position = Lsn(end);
                Ok(Event::WalData { start, server_end, server_time, bytes: body })
            }
            b'k' => {
                if body.len() < 17 {
                    return Err(short());
                }
                let sent_end = Lsn(body.get_u64());
                let server_time = server_time(body.get_i64())?;
                Ok(Event::Keepalive { sent_end, server_time, reply_requested: body.get_u8() != 0 })
            }
            other => Err(Error::protocol(DOING, format!("a message of type {other}"))),
        }
    }

    /// The server has sent CopyDone: answer it, and read where the log goes on.
    fn finish_timeline(&mut self) -> Result<NextTimeline> {
        self.connection.send(DOING, |buffer| {
            frontend::copy_done(buffer);
            Ok(())
        })?;
        let mut next = None;
        loop {
            match self.connection.receive_or_error(DOING)? {
                Message::DataRow(row) => next = Some(next_timeline(&row)?),
                Message::ReadyForQuery(_) => break,
                Message::RowDescription(_) | Message::CommandComplete(_) | Message::CopyData(_) => {}
                other => return Err(Error::protocol(DOING, describe(&other))),
            }
        }
        next.ok_or_else(|| Error::protocol(DOING, "the end of the log without a next timeline"))
    }
}

impl AsFd for ReplicationStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn server_time(microseconds: i64) -> Result<Timestamp> {
    from_postgres_time(microseconds).ok_or_else(|| Error::protocol(DOING, "a time that can't be"))
}

/// Columns: next_tli, next_tli_startpos.
fn next_timeline(body: &DataRowBody) -> Result<NextTimeline> {
    let values: Vec<Option<Arc<str>>> = body
        .ranges()
        .map(|range| {
            let bytes = range.and_then(|range| body.buffer().get(range));
            Ok(bytes.map(|bytes| Arc::from(String::from_utf8_lossy(bytes))))
        })
        .collect()
        .map_err(Error::io(DOING))?;
    let value = |column: usize| values.get(column).cloned().flatten();
    let next = || Some(NextTimeline { timeline: TimelineId(value(0)?.parse().ok()?), start: value(1)?.parse().ok()? });
    next().ok_or_else(|| Error::protocol(DOING, "a next timeline that can't be read"))
}
