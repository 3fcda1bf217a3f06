use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use levee_engine::postgres::{
    self as engine, ConnectOptions, Connection, Event, IdentifiedSystem, NextTimeline, ReplicationStream,
};
use levee_model::postgres::{Lsn, SegmentSize, TimelineId};

use super::source_clock::SourceClock;
use super::watch::Watch;
use super::{ArchiveOptions, ArchiveStatus};
use crate::postgres::slot::{self, Ensured};
use crate::postgres::{Lineage, LogChunk, LogSink, SourceLog, preflight};
use crate::{Error, Result, StopSignal};

/// The server hears of us at least this often, and is asked for its time when it has nothing to send: the age of the
/// recovery point is known to about twice this.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);
/// Where no commit waits, what comes is gathered for so long: one wake-up then serves many commits, and the processor
/// that it would take is left to the database. It adds to the age of the recovery point, which is far longer.
const GATHERING: Duration = Duration::from_millis(10);
/// Not when so much comes in that time: then an archive catches up that was away.
const GATHERED_BYTES_MAX: u64 = 2 << 20;
/// A server that has not answered for this long is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// One connection's share of an archive.
pub(super) struct Session<'a> {
    pub(super) options: &'a ArchiveOptions,
    pub(super) sink: &'a mut dyn LogSink,
    pub(super) stop: &'a StopSignal,
    pub(super) watch: &'a Watch,
    pub(super) status: &'a mut ArchiveStatus,
    pub(super) on_status: &'a mut dyn FnMut(&ArchiveStatus),
    pub(super) has_streamed: bool,
}

pub(super) enum SessionEnd {
    Stopped,
    ServerStopped,
}

enum StreamEnd {
    Timeline(NextTimeline),
    Session(SessionEnd),
}

impl Session<'_> {
    pub(super) fn run(&mut self) -> Result<SessionEnd> {
        let connect =
            ConnectOptions { application_name: self.options.application_name.clone(), ..self.options.connect.clone() };
        let connected = preflight::connect(&connect, Connection::connect_replication);
        let mut connection = connected.map_err(|error| self.why_no_sender(error))?;
        let version = connection.server_version();
        if !(13..=17).contains(&version.major()) {
            return Err(Error::UnsupportedVersion { version: version.to_string() });
        }
        let mut system = connection.identify_system().map_err(Error::engine("identifying the server"))?;
        // The cluster must stay the same as long as this archive runs.
        if let Some(expected) = self.options.system_identifier.or(self.status.system_identifier)
            && expected != system.system_identifier
        {
            return Err(Error::OtherCluster { expected, found: system.system_identifier });
        }
        self.status.system_identifier = Some(system.system_identifier);
        self.status.source_end = Some(system.flushed);
        let segment_size = segment_size(&mut connection)?;
        let (slot_restart, slot_note) = self.ensure_slot(&mut connection)?;

        let held_from = slot_restart.unwrap_or(system.flushed);
        let mut source_start = held_from;
        let mut branches = ancestors(&mut connection, &system)?;
        let source = SourceLog {
            system_identifier: system.system_identifier,
            ancestors: &branches,
            segment_size,
            start: source_start.segment_start(segment_size),
        };
        let newest = self.sink.newest_timeline(&source).map_err(Error::Sink)?;
        let mut timeline = newest.max(self.status.timeline).unwrap_or(system.timeline);
        loop {
            source_start = source_start.max(branch_start(&branches, timeline));
            let resume = self.begin(&mut connection, &system, timeline, segment_size, source_start, &branches)?;
            let streamed = connection
                .start_replication(Some(&self.options.slot), timeline, resume)
                .map_err(|error| self_or_gap(error, resume, timeline, &slot_note))
                .and_then(|stream| self.stream(stream, timeline, held_from, &slot_note));
            if let Err(Error::Gap { needed, .. }) = streamed {
                self.drop_slot_of_removed_log(needed, segment_size);
            }
            let (end, after) = streamed?;
            match end {
                StreamEnd::Session(end) => return Ok(end),
                StreamEnd::Timeline(next) => {
                    tracing::info!(slot = self.options.slot, timeline = %next.timeline, start = %next.start, "the source has a new timeline");
                    (timeline, source_start, connection) = (next.timeline, next.start, after);
                    system = connection.identify_system().map_err(Error::engine("identifying the server"))?;
                    branches = ancestors(&mut connection, &system)?;
                }
            }
        }
    }

    /// With wal_level = minimal a server has no WAL sender at all, and says that all are in use. Raising max_wal_senders,
    /// which is the advice then, would keep it from starting.
    fn why_no_sender(&self, error: Error) -> Error {
        if !matches!(error, Error::AllSendersInUse { .. }) {
            return error;
        }
        match preflight(&self.options.connect, &self.options.needs()) {
            Err(minimal @ Error::WalLevelMinimal) => minimal,
            _ => error,
        }
    }

    /// Says where the slot keeps the log from, and what an operator should know of it should the log be gone.
    fn ensure_slot(&mut self, connection: &mut Connection) -> Result<(Option<Lsn>, String)> {
        let name = &self.options.slot;
        // Not while the watch drops it, and never again after that.
        let Some(_slot) = self.watch.slot_in_use() else { return Err(Error::Stopped) };
        let mut note = String::new();
        let mut ensured = slot::ensure_on(connection, name)?;
        let mut status = slot::status(&self.options.connect, name)?;
        if status.as_ref().is_some_and(|status| status.is_lost) {
            // The server has invalidated it for max_slot_wal_keep_size; it can't be used any more.
            slot::drop(&self.options.connect, name)?;
            ensured = slot::ensure_on(connection, name)?;
            status = slot::status(&self.options.connect, name)?;
            note = format!(" (slot {name:?} had passed max_slot_wal_keep_size)");
        } else if ensured == Ensured::Created && self.status.durable.is_some() {
            note = format!(" (slot {name:?} had been dropped)");
        }
        if ensured == Ensured::Created {
            tracing::info!(slot = name, restart = ?status.as_ref().and_then(|s| s.restart), "slot created{note}");
        }
        Ok((status.and_then(|status| status.restart), note))
    }

    /// A slot that reserves log which the server does not have any more holds nothing, and hides what there is: the next
    /// attempt would ask for the removed log again. One is left behind by a server that was told of a position below its
    /// own log, or by a copy of its files that is older than the log beside it.
    fn drop_slot_of_removed_log(&self, needed: Lsn, segment_size: SegmentSize) {
        let name = &self.options.slot;
        let Some(_slot) = self.watch.slot_in_use() else { return };
        let dropped = slot::status(&self.options.connect, name).and_then(|status| {
            let restart = status.and_then(|status| status.restart);
            let reserves_removed = restart.is_some_and(|restart| restart.segment_start(segment_size) <= needed);
            if reserves_removed { slot::drop(&self.options.connect, name).map(|()| restart) } else { Ok(None) }
        });
        match dropped {
            Ok(Some(restart)) => tracing::warn!(slot = name, %restart, %needed, "dropped the slot: its log is removed"),
            Ok(None) => {}
            Err(error) => tracing::warn!(slot = name, problem = error.with_causes(), "the slot of removed log stays"),
        }
    }

    /// Agrees with the sink where to go on.
    fn begin(
        &mut self,
        connection: &mut Connection,
        system: &IdentifiedSystem,
        timeline: TimelineId,
        segment_size: SegmentSize,
        source_start: Lsn,
        branches: &[(TimelineId, Lsn)],
    ) -> Result<Lsn> {
        let diverged = Error::Diverged { stored: timeline, server: system.timeline };
        let end = if timeline == system.timeline {
            None
        } else {
            match branches.iter().find(|(ancestor, _)| *ancestor == timeline) {
                Some((_, end)) => Some(*end),
                None => return Err(diverged),
            }
        };
        if timeline > TimelineId(1) {
            let history =
                connection.timeline_history(timeline).map_err(Error::engine("reading a timeline's history"))?;
            self.sink.history(system.system_identifier, timeline, &history.content).map_err(Error::Sink)?;
        }
        let lineage = Lineage { system_identifier: system.system_identifier, timeline };
        let start = source_start.segment_start(segment_size);
        let resume = self.sink.begin(lineage, segment_size, start).map_err(Error::Sink)?;
        match end {
            Some(end) if resume > end => return Err(diverged),
            None if resume > system.flushed => {
                return Err(Error::SourceBehind { stored: resume, server: system.flushed, timeline });
            }
            _ => {}
        }
        self.status.timeline = Some(timeline);
        tracing::info!(slot = self.options.slot, %timeline, %resume, "archiving");
        Ok(resume)
    }

    fn stream(
        &mut self,
        mut stream: ReplicationStream,
        timeline: TimelineId,
        held_from: Lsn,
        slot_note: &str,
    ) -> Result<(StreamEnd, Connection)> {
        const DOING: &str = "receiving the log";
        let mut clock = SourceClock::default();
        let mut confirmed = None;
        let mut status_sent = Instant::now() - STATUS_INTERVAL;
        let mut heard = Instant::now();
        let mut data_seen = Instant::now() - STATUS_INTERVAL;
        let mut ended: Option<NextTimeline> = None;
        let mut gathered_from = stream.position();
        // Whatever position the server is told of, it moves the slot there, also back to log that it has removed. What the
        // slot holds it has; for what lies below, the first log that comes proves it.
        let mut is_held = stream.position() >= held_from;
        loop {
            let came_bytes = stream.position().bytes_since(gathered_from);
            // What has come already goes to the sink before anything else is done.
            let is_more_here = came_bytes > 0 && stream.has_buffered();
            if !is_more_here || status_sent.elapsed() >= STATUS_INTERVAL {
                self.sink.flush_due().map_err(Error::Sink)?;
            }
            let durable = self.sink.durable();
            if let Some(next) = ended
                && durable >= next.start.min(stream.position())
            {
                self.report(durable, &mut clock, true);
                return Ok((StreamEnd::Timeline(next), stream.into_connection()));
            }
            if ended.is_none() && (confirmed != Some(durable) || status_sent.elapsed() >= STATUS_INTERVAL) {
                // Written and flushed are one: what is not durable may vanish, so it is not called written either.
                let ask = data_seen.elapsed() >= STATUS_INTERVAL;
                let told = if is_held { durable } else { Lsn(0) };
                stream.send_status(told, told, Timestamp::now(), ask).map_err(Error::engine(DOING))?;
                (confirmed, status_sent) = (Some(durable), Instant::now());
                self.report(durable, &mut clock, true);
            }
            if self.stop.is_stopped() {
                return Ok((StreamEnd::Session(SessionEnd::Stopped), stream.into_connection()));
            }
            let timeout = STATUS_INTERVAL.saturating_sub(status_sent.elapsed()).max(Duration::from_millis(1));
            let is_gathering = came_bytes > 0 && came_bytes < GATHERED_BYTES_MAX && !self.watch.commits_wait();
            if !is_more_here {
                gathered_from = stream.position();
            }
            let (event, server, timeout) = if ended.is_some() {
                // The timeline is over, and its last bytes are on their way to the sink.
                (Event::Idle, None, timeout)
            } else if is_gathering && !is_more_here {
                (Event::Idle, None, GATHERING)
            } else {
                let needed = stream.position();
                let event = stream.poll(Duration::ZERO);
                let event = event.map_err(|error| self_or_gap(error, needed, timeline, slot_note))?;
                (event, Some(stream.as_fd()), timeout)
            };
            match event {
                Event::Idle => self.sink.wait(server, self.stop, timeout).map_err(Error::Sink)?,
                _ => heard = Instant::now(),
            }
            match event {
                Event::WalData { start, server_end, server_time, bytes } => {
                    data_seen = heard;
                    is_held = true;
                    clock.data(server_end, server_time);
                    self.status.source_end = Some(server_end);
                    // One flush for everything that is here already, as pg_receivewal does it.
                    let may_wait = !self.watch.commits_wait() || stream.has_more().map_err(Error::engine(DOING))?;
                    let (source_time, source_end) = (server_time, server_end);
                    let chunk = LogChunk { lsn: start, bytes: &bytes, source_time, source_end, may_wait };
                    self.sink.append(chunk).map_err(Error::Sink)?;
                    self.status.received = Some(stream.position());
                }
                Event::Keepalive { sent_end, server_time, reply_requested } => {
                    if let Some((source_end, source_time)) = clock.keepalive(sent_end, server_time) {
                        let (lsn, bytes) = (stream.position(), &Bytes::new());
                        let chunk = LogChunk { lsn, bytes, source_time, source_end, may_wait: true };
                        self.sink.append(chunk).map_err(Error::Sink)?;
                        self.report(self.sink.durable(), &mut clock, true);
                    }
                    // A server that stops waits until everything is durable here.
                    if reply_requested {
                        self.sink.flush().map_err(Error::Sink)?;
                        confirmed = None;
                    }
                }
                Event::EndOfTimeline { next } => {
                    self.sink.flush().map_err(Error::Sink)?;
                    ended = Some(next);
                }
                Event::Ended => {
                    return Ok((StreamEnd::Session(SessionEnd::ServerStopped), stream.into_connection()));
                }
                Event::Idle => {}
            }
            if heard.elapsed() > SILENCE_MAX && ended.is_none() {
                let seconds = SILENCE_MAX.as_secs();
                return Err(Error::Engine { doing: DOING, source: engine::Error::TimedOut { doing: DOING, seconds } });
            }
        }
    }

    fn report(&mut self, durable: Lsn, clock: &mut SourceClock, connected: bool) {
        let seen = self.watch.seen();
        self.watch.say_streaming(self.status.source_end.map_or(0, |end| end.bytes_since(durable)));
        self.has_streamed |= connected;
        let status = &mut *self.status;
        status.connected = connected;
        status.problem = None;
        status.durable = Some(durable);
        status.as_of = clock.durable(durable).or(status.as_of);
        status.slot_held_bytes = seen.held_bytes;
        status.zero_loss_problem = seen.zero_loss_problem;
        (self.on_status)(status);
    }
}

/// The server no longer has the log that is needed: a gap, which has a name of its own.
fn self_or_gap(error: engine::Error, needed: Lsn, timeline: TimelineId, slot_note: &str) -> Error {
    const UNDEFINED_FILE: &str = "58P01";
    const OBJECT_IN_USE: &str = "55006";
    match error.sqlstate() {
        Some(UNDEFINED_FILE) => Error::Gap { needed, timeline, since: slot_note.into() },
        Some(OBJECT_IN_USE) => Error::SlotBusy { source: error },
        _ => Error::Engine { doing: "receiving the log", source: error },
    }
}

fn segment_size(connection: &mut Connection) -> Result<SegmentSize> {
    const DOING: &str = "reading wal_segment_size";
    let rows = connection.simple_query("SHOW wal_segment_size").map_err(Error::engine(DOING))?;
    let text = rows.first().and_then(|row| row.get(0)).unwrap_or("");
    let units = [("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];
    let bytes =
        units.iter().find_map(|(unit, bytes)| text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*bytes));
    bytes.and_then(|bytes| SegmentSize::new(bytes).ok()).ok_or_else(|| Error::Engine {
        doing: DOING,
        source: engine::Error::Value {
            doing: DOING,
            column: "wal_segment_size",
            value: text.chars().take(40).collect(),
        },
    })
}

/// The ancestors of the server's timeline with the position at which each ended.
fn ancestors(connection: &mut Connection, system: &IdentifiedSystem) -> Result<Vec<(TimelineId, Lsn)>> {
    if system.timeline == TimelineId(1) {
        return Ok(Vec::new());
    }
    let history =
        connection.timeline_history(system.timeline).map_err(Error::engine("reading a timeline's history"))?;
    Ok(history.branches())
}

/// Where a timeline began: its files hold nothing before the segment of that position.
fn branch_start(branches: &[(TimelineId, Lsn)], timeline: TimelineId) -> Lsn {
    branches.iter().filter(|(ancestor, _)| *ancestor < timeline).map(|(_, end)| *end).max().unwrap_or(Lsn(0))
}
