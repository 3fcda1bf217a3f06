//! The archive of one machine: the log goes straight into a journal on a local disk.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use levee_journal::{LogJournal, LogWriter};
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use levee_model::{Epoch, FlushSchedule};

use super::{Lineage, LogChunk, LogSink, SinkError, SourceLog};
use crate::StopSignal;

/// Puts a log into a journal. What a commit waits for is durable when `append` returns; everything else
/// becomes so at the end of a segment, or when its time has come.
pub struct JournalSink {
    journal: LogJournal,
    epoch: Epoch,
    writer: Option<LogWriter>,
    schedule: FlushSchedule,
}

impl JournalSink {
    pub fn new(journal: LogJournal, epoch: Epoch) -> JournalSink {
        JournalSink { journal, epoch, writer: None, schedule: FlushSchedule::default() }
    }
}

/// What can pass by itself is tried again.
fn sink_error(error: levee_journal::Error) -> SinkError {
    use levee_journal::Error as J;
    let reason = crate::error_text(&error);
    match error {
        J::Io { .. } | J::Full { .. } | J::Busy { .. } | J::WriterFailed => SinkError::Unavailable { reason },
        _ => SinkError::Refused { reason },
    }
}

impl LogSink for JournalSink {
    fn newest_timeline(&mut self, source: &SourceLog<'_>) -> Result<Option<TimelineId>, SinkError> {
        let system_identifier = source.system_identifier;
        let lineages = self.journal.lineages().map_err(sink_error)?;
        let mut newest = None;
        for (system, timeline) in lineages.into_iter().filter(|(system, _)| *system == system_identifier) {
            if self.journal.extent(system, timeline).map_err(sink_error)?.is_some() {
                newest = newest.max(Some(timeline));
            }
        }
        Ok(newest)
    }

    fn begin(&mut self, lineage: Lineage, segment_size: SegmentSize, source_start: Lsn) -> Result<Lsn, SinkError> {
        // The old writer goes first: a journal has one.
        self.writer = None;
        self.schedule.flushed();
        let lineage = levee_journal::Lineage {
            system_identifier: lineage.system_identifier,
            timeline: lineage.timeline,
            epoch: self.epoch,
            segment_size,
        };
        let writer = self.journal.writer(lineage, source_start).map_err(sink_error)?;
        let end = writer.end();
        self.writer = Some(writer);
        Ok(end)
    }

    fn history(
        &mut self,
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
        content: &[u8],
    ) -> Result<(), SinkError> {
        self.journal.put_history(system_identifier, timeline, content).map_err(sink_error)
    }

    fn append(&mut self, chunk: LogChunk<'_>) -> Result<(), SinkError> {
        let Some(writer) = &mut self.writer else {
            return Err(SinkError::Unavailable { reason: "the journal's writer has ended".into() });
        };
        if !chunk.bytes.is_empty() {
            writer.append(chunk.lsn, chunk.bytes).map_err(sink_error)?;
        }
        writer.note_source_time(chunk.source_end, chunk.source_time);
        self.schedule.took(chunk.may_wait, Instant::now());
        self.flush_due()
    }

    fn flush_due(&mut self) -> Result<(), SinkError> {
        if self.schedule.is_due(Instant::now()) { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        if let Some(writer) = &mut self.writer {
            writer.flush().map_err(sink_error)?;
        }
        self.schedule.flushed();
        Ok(())
    }

    fn durable(&self) -> Lsn {
        self.writer.as_ref().map_or(Lsn(0), LogWriter::durable)
    }

    fn wait(&mut self, server: Option<BorrowedFd<'_>>, stop: &StopSignal, timeout: Duration) -> Result<(), SinkError> {
        stop.wait_or(server, timeout);
        Ok(())
    }
}
