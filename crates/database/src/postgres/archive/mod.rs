//! The continuous archive: streams the log from a server to a sink, and tells the server what is durable there.

mod session;
mod source_clock;
mod watch;

use std::time::Duration;

use jiff::Timestamp;
use levee_engine::postgres::ConnectOptions;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};

use super::{Expect, LogSink, Needs, SinkError, slot};
use crate::{Error, Result, StopSignal};
use session::{Session, SessionEnd};
use watch::Watch;

/// The first wait after a failure; it doubles up to the last.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What is archived, and how.
#[derive(Clone, Debug)]
pub struct ArchiveOptions {
    pub connect: ConnectOptions,
    /// What `synchronous_standby_names` calls this receiver. It should be the only one of its name.
    pub application_name: String,
    pub slot: String,
    /// How much log the slot may hold back before it is dropped; `None` for no bound.
    pub slot_bound_bytes: Option<u64>,
    /// Commits are to wait for this archive: looks from time to time whether they do.
    pub zero_loss: bool,
    /// The cluster that it must be, when that is known.
    pub system_identifier: Option<SystemIdentifier>,
}

impl ArchiveOptions {
    /// An archive with a slot of its own and the application name of the slot.
    pub fn new(connect: ConnectOptions, slot: impl Into<String>) -> Self {
        let slot = slot.into();
        Self {
            connect,
            application_name: slot.clone(),
            slot,
            slot_bound_bytes: None,
            zero_loss: false,
            system_identifier: None,
        }
    }

    /// What it needs of the server, for a preflight. It may as well follow a standby.
    pub fn needs(&self) -> Needs {
        Needs {
            expect: Expect::Either,
            zero_loss: self.zero_loss,
            application_name: self.application_name.clone(),
            slot: Some(self.slot.clone()),
            system_identifier: self.system_identifier,
        }
    }
}

/// How an archive stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// The log is streaming.
    pub connected: bool,
    pub system_identifier: Option<SystemIdentifier>,
    pub timeline: Option<TimelineId>,
    /// Where the source's log ended when it last said so.
    pub source_end: Option<Lsn>,
    /// The end of what was received.
    pub received: Option<Lsn>,
    /// The end of what is durable at the sink.
    pub durable: Option<Lsn>,
    /// Everything that was committed up to this moment, on the source's clock, is durable at the sink.
    pub as_of: Option<Timestamp>,
    /// How much log the slot holds back at the source.
    pub slot_held_bytes: Option<u64>,
    /// What hinders the archive now, and what to do about it.
    pub problem: Option<String>,
    /// What is wrong with how commits wait for this archive: why one may return without being durable at the sink, where
    /// zero loss is asked for, or why one would never return, whether it is asked for or not.
    pub zero_loss_problem: Option<String>,
}

/// How an archive ended, when not by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveEnd {
    Stopped,
    /// The slot held back more than its bound and was dropped, so that the source's disk would not fill up. What is
    /// stored stays; archiving goes on with a new base backup, or without one if the source still has the log.
    SlotDropped {
        held_bytes: u64,
        bound_bytes: u64,
    },
}

/// Archives until it is stopped. It reconnects by itself after whatever may pass: `ArchiveStatus::problem` tells of
/// that. An error is what will not pass: a gap, another cluster, a log that holds too little, a sink that refuses.
pub fn run(
    options: &ArchiveOptions,
    sink: &mut dyn LogSink,
    stop: &StopSignal,
    on_status: &mut dyn FnMut(&ArchiveStatus),
) -> Result<ArchiveEnd> {
    slot::check_name(&options.slot)?;
    let watch = Watch::new().map_err(|source| Error::System { doing: "starting the archive", source })?;
    std::thread::scope(|scope| {
        scope.spawn(|| watch.run(options));
        // Also when this panics, since the scope waits for the watch.
        let _ended = StopAtEnd(watch.stop_signal());
        let mut status = ArchiveStatus::default();
        let mut backoff = BACKOFF_FIRST;
        loop {
            let mut session =
                Session { options, sink, stop, watch: &watch, status: &mut status, on_status, has_streamed: false };
            let end = session.run();
            if session.has_streamed {
                backoff = BACKOFF_FIRST;
            }
            status.connected = false;
            // What has come is not to wait for the next stream, which may never begin.
            if let Err(error) = sink.flush() {
                tracing::debug!(slot = options.slot, %error, "the last of an ended stream is not durable");
            }
            // A slot that was dropped ends the connection before that is known here.
            if let Some(dropped) = watch.dropped() {
                return Ok(dropped);
            }
            match end {
                Ok(SessionEnd::Stopped) => return Ok(ArchiveEnd::Stopped),
                Ok(SessionEnd::ServerStopped) => status.problem = Some("the server was shut down".into()),
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    let problem = error.with_causes();
                    if status.problem.as_ref() != Some(&problem) {
                        tracing::warn!(slot = options.slot, problem, "the archive was interrupted");
                    }
                    status.problem = Some(problem);
                }
            }
            on_status(&status);
            if stop.wait(backoff) {
                return Ok(ArchiveEnd::Stopped);
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    })
}

struct StopAtEnd<'a>(&'a StopSignal);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Whether trying again can't help.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::Gap { .. }
            | Error::SourceBehind { .. }
            | Error::Diverged { .. }
            | Error::OtherCluster { .. }
            | Error::UnsupportedVersion { .. }
            | Error::UnsupportedBuild { .. }
            | Error::WalLevelMinimal
            | Error::SlotIsLogical { .. }
            | Error::Sink(SinkError::Refused { .. })
    )
}
