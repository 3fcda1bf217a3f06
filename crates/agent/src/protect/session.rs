//! The receiving end of a database's log stream: into the journal, and durable before it is acknowledged.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use levee_journal::{Error as JournalError, Lineage, LogJournal, LogWriter};
use levee_model::AssetName;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use levee_wire::log::{LogChunk, LogOpen, LogRefusal, LogSession, RefusalReason};

use super::app::{App, in_full};
use super::state::Phase;

/// One stream into one journal.
pub struct JournalSession {
    app: Arc<App>,
    journal: Arc<LogJournal>,
    writer: LogWriter,
    system_identifier: SystemIdentifier,
    open: LogOpen,
    resume: Lsn,
    has_log: bool,
}

impl JournalSession {
    /// Opens the stream when this site is the recovery side at exactly the sender's epoch.
    pub fn open(app: Arc<App>, open: LogOpen) -> Result<JournalSession, LogRefusal> {
        still_wanted(&app, &open)?;
        let asset = &open.asset.asset;
        if !app.assignment().spec.postgres.contains_key(asset) {
            return Err(LogRefusal::new(
                RefusalReason::NotReady,
                format!("this site has not been told of a database {asset} of app {}", app.name),
            ));
        }
        let journal =
            app.copies.journal(asset).map_err(|failure| LogRefusal::new(RefusalReason::Storage, failure.message))?;
        let refusal = |error| refusal(&app, asset, error);
        let lineage = Lineage {
            system_identifier: open.system_identifier,
            timeline: open.timeline,
            epoch: open.epoch,
            segment_size: open.segment_size,
        };
        let known = journal.extent(open.system_identifier, open.timeline).map_err(refusal)?;
        let has_log = known.is_some() && !open.after_gap;
        let writer = if open.after_gap {
            journal.writer_after_gap(lineage, open.source_start)
        } else {
            journal.writer_at_end(lineage, open.source_start)
        }
        .map_err(refusal)?;
        let resume = writer.end();
        Ok(JournalSession { app, journal, writer, system_identifier: open.system_identifier, open, resume, has_log })
    }

    fn refusal(&self, error: JournalError) -> LogRefusal {
        refusal(&self.app, &self.open.asset.asset, error)
    }
}

/// Whether copies of the sender's epoch are still taken here. Asked at every flush, so that sealing ends a stream.
fn still_wanted(app: &App, open: &LogOpen) -> Result<(), LogRefusal> {
    let state = app.state();
    if state.epoch > open.epoch || (state.epoch == open.epoch && state.phase != Phase::Recovery) {
        return Err(LogRefusal::new(
            RefusalReason::StaleEpoch,
            format!(
                "{} takes no log of app {} at epoch {} any more: it knows epoch {}; this site is no longer the writer",
                app.context.site, app.name, open.epoch, state.epoch
            ),
        ));
    }
    if state.epoch < open.epoch {
        return Err(LogRefusal::new(
            RefusalReason::NotReady,
            format!("{} has not heard of epoch {} of app {} yet", app.context.site, open.epoch, app.name),
        ));
    }
    Ok(())
}

impl LogSession for JournalSession {
    fn resume_lsn(&self) -> Lsn {
        self.resume
    }

    fn has_log(&self) -> bool {
        self.has_log
    }

    fn append(&mut self, chunk: LogChunk) -> Result<(), LogRefusal> {
        self.writer.append(chunk.lsn, &chunk.bytes).map_err(|error| self.refusal(error))?;
        self.source_time(chunk.source_time, chunk.source_end)
    }

    fn history(&mut self, timeline: TimelineId, content: &[u8]) -> Result<(), LogRefusal> {
        self.journal.put_history(self.system_identifier, timeline, content).map_err(|error| self.refusal(error))
    }

    fn source_time(&mut self, as_of: Timestamp, source_end: Lsn) -> Result<(), LogRefusal> {
        self.writer.note_source_time(source_end, as_of);
        Ok(())
    }

    fn flush(&mut self) -> Result<Lsn, LogRefusal> {
        still_wanted(&self.app, &self.open)?;
        self.writer.flush().map_err(|error| self.refusal(error))
    }
}

fn refusal(app: &App, asset: &AssetName, error: JournalError) -> LogRefusal {
    let reason = match &error {
        JournalError::Gap { .. } => RefusalReason::Gap,
        JournalError::StaleEpoch { .. } => RefusalReason::StaleEpoch,
        JournalError::UnknownLineage { .. } | JournalError::HistoryConflict { .. } => RefusalReason::UnknownLineage,
        JournalError::Busy { .. } => RefusalReason::NotReady,
        _ => RefusalReason::Storage,
    };
    if matches!(reason, RefusalReason::Storage) {
        // The writer is there, and has more: that makes what is stored older.
        app.board.update(asset, |entry| entry.refused_at = Some(Instant::now()));
    }
    LogRefusal::new(reason, in_full(&error))
}
