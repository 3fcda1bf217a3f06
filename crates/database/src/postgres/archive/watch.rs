use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{ArchiveEnd, ArchiveOptions};
use crate::postgres::preflight::{Expect, Needs, check_zero_loss};
use crate::postgres::slot::{Bounded, hold_to_bound};
use crate::{Error, StopSignal};

/// How often the slot and the settings are looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// Looks after the slot from a thread of its own, since the archive may be waiting for its sink for long: that is
/// exactly when the log piles up.
pub(super) struct Watch {
    stop: StopSignal,
    /// Whether a commit may be waiting for this archive. Until the server says otherwise it may.
    commits_wait: AtomicBool,
    /// Protects what the thread has seen last.
    seen: Mutex<Seen>,
    /// Held by whoever makes the slot or drops it, so that a dropped one is not made again.
    slot: Mutex<()>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) held_bytes: Option<u64>,
    pub(super) zero_loss_problem: Option<String>,
    dropped: Option<ArchiveEnd>,
}

impl Watch {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            stop: StopSignal::new()?,
            commits_wait: AtomicBool::new(true),
            seen: Mutex::default(),
            slot: Mutex::default(),
        })
    }

    pub(super) fn stop_signal(&self) -> &StopSignal {
        &self.stop
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a commit may be waiting for this archive, as of at most `INTERVAL` ago.
    pub(super) fn commits_wait(&self) -> bool {
        self.commits_wait.load(Ordering::Relaxed)
    }

    /// How the archive ends, once the slot has been dropped for its bound.
    pub(super) fn dropped(&self) -> Option<ArchiveEnd> {
        self.seen().dropped
    }

    /// The right to make the slot; `None` once it has been dropped for its bound.
    pub(super) fn slot_in_use(&self) -> Option<MutexGuard<'_, ()>> {
        let guard = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if self.dropped().is_some() { None } else { Some(guard) }
    }

    /// Until it is stopped, or has dropped the slot.
    pub(super) fn run(&self, options: &ArchiveOptions) {
        loop {
            let mut seen = self.seen();
            if options.zero_loss {
                match check_zero_loss(&options.connect, &needs(options)) {
                    Ok(()) => seen.zero_loss_problem = None,
                    Err(error) if is_about_zero_loss(&error) => seen.zero_loss_problem = Some(error.with_causes()),
                    // A server that could not be asked has changed nothing that is known.
                    Err(error) => tracing::debug!(slot = options.slot, problem = error.with_causes(), "not asked"),
                }
            }
            let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            match hold_to_bound(&options.connect, &options.slot, options.slot_bound_bytes.unwrap_or(u64::MAX)) {
                Ok(Bounded::Within(status)) => {
                    seen.held_bytes = Some(status.held_bytes);
                    if let Some(is_waited_for) = status.is_waited_for {
                        self.commits_wait.store(is_waited_for || options.zero_loss, Ordering::Relaxed);
                    }
                }
                Ok(Bounded::Missing) => seen.held_bytes = None,
                Ok(Bounded::Dropped { held_bytes, bound_bytes }) => {
                    seen.dropped = Some(ArchiveEnd::SlotDropped { held_bytes, bound_bytes });
                }
                // The archive itself tells of a server that can't be reached.
                Err(error) => tracing::debug!(slot = options.slot, problem = error.with_causes(), "slot not seen"),
            }
            let is_over = seen.dropped.is_some();
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
            drop(slot);
            if is_over || self.stop.wait(INTERVAL) {
                return;
            }
        }
    }
}

fn is_about_zero_loss(error: &Error) -> bool {
    matches!(
        error,
        Error::RemoteApply { .. }
            | Error::CommitsDoNotWait { .. }
            | Error::NotInEveryQuorum { .. }
            | Error::ApplicationNameTaken { .. }
    )
}

fn needs(options: &ArchiveOptions) -> Needs {
    Needs {
        expect: Expect::Either,
        zero_loss: true,
        application_name: options.application_name.clone(),
        slot: Some(options.slot.clone()),
        system_identifier: options.system_identifier,
    }
}
