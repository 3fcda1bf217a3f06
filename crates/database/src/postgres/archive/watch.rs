use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use levee_engine::postgres::Connection;

use super::{ArchiveEnd, ArchiveOptions};
use crate::postgres::preflight::check_zero_loss;
use crate::postgres::slot::{Bounded, hold_to_bound};
use crate::{Error, Result, StopSignal};

/// How often the slot and the settings are looked at while all is well.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often the slot is looked at while log piles up for it. In this time a fast disk takes some 100 MB: by so much
/// the bound can be passed.
const INTERVAL_PRESSING: Duration = Duration::from_millis(100);
/// The archive says how much waits for its sink several times a second; when it has not for this long, it does not
/// stream, or waits itself.
const WORD_AGE_MAX: Duration = Duration::from_millis(500);
/// The slot is looked at closely from this part of its bound on.
const PRESSING_PART: u64 = 8;

/// Looks after the slot from a thread of its own, since the archive may be waiting for its sink for long: that is
/// exactly when the log piles up.
pub(super) struct Watch {
    stop: StopSignal,
    /// Whether a commit may be waiting for this archive. Until the server says otherwise it may.
    commits_wait: AtomicBool,
    /// Protects what the thread has seen last.
    seen: Mutex<Seen>,
    /// Protects what the archive has said last.
    said: Mutex<Option<Said>>,
    /// Held by whoever makes the slot or drops it, so that a dropped one is not made again.
    slot: Mutex<()>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) held_bytes: Option<u64>,
    pub(super) zero_loss_problem: Option<String>,
    dropped: Option<ArchiveEnd>,
}

/// The archive's word on what waits for its sink.
#[derive(Clone, Copy, Debug)]
struct Said {
    at: Instant,
    waiting_bytes: u64,
}

impl Watch {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            stop: StopSignal::new()?,
            commits_wait: AtomicBool::new(true),
            seen: Mutex::default(),
            said: Mutex::default(),
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

    /// The archive streams, and so much of the log has not become durable yet.
    pub(super) fn say_streaming(&self, waiting_bytes: u64) {
        let said = Said { at: Instant::now(), waiting_bytes };
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }

    /// Whether log may be piling up.
    fn is_pressing(&self, bound_bytes: u64) -> bool {
        let part = bound_bytes / PRESSING_PART;
        let said = *self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let is_well = said.is_some_and(|said| said.at.elapsed() < WORD_AGE_MAX && said.waiting_bytes < part);
        !is_well || self.seen().held_bytes.is_some_and(|held| held >= part)
    }

    /// Until it is stopped, or has dropped the slot.
    pub(super) fn run(&self, options: &ArchiveOptions) {
        // Kept only while the slot is looked at closely: a session that stays would be in the way of who wants to drop
        // or copy the database that it is in.
        let mut connection = None;
        let mut looked_at_all: Option<Instant> = None;
        let mut is_name_taken = false;
        loop {
            let is_due = looked_at_all.is_none_or(|at| at.elapsed() >= INTERVAL);
            let is_pressing = options.slot_bound_bytes.is_some_and(|bound| self.is_pressing(bound));
            if is_due {
                looked_at_all = Some(Instant::now());
            }
            if is_due || is_pressing {
                let looked = self.look_at_slot(options, &mut connection);
                // The archive itself tells of a server that can't be reached.
                if let Err(error) = looked {
                    tracing::debug!(slot = options.slot, problem = error.with_causes(), "slot not seen");
                    connection = None;
                }
            }
            // After the slot, which tells whether any commit waits.
            if is_due {
                self.look_at_commits(options, &mut is_name_taken);
            }
            if !is_pressing {
                connection = None;
            }
            if self.dropped().is_some() || self.stop.wait(INTERVAL_PRESSING) {
                return;
            }
        }
    }

    /// Without zero loss it is looked at as well as soon as a commit may wait for this archive: with remote_apply it
    /// would do so for ever.
    ///
    /// A receiver of the same name is a problem once it has been seen twice: one of a moment ago may be on its way out.
    fn look_at_commits(&self, options: &ArchiveOptions, is_name_taken: &mut bool) {
        if !options.zero_loss && !self.commits_wait() {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).zero_loss_problem = None;
            return;
        }
        let found = check_zero_loss(&options.connect, &options.needs());
        let was_taken = std::mem::replace(is_name_taken, matches!(&found, Err(Error::ApplicationNameTaken { .. })));
        let problem = match found {
            Ok(()) => None,
            Err(Error::ApplicationNameTaken { .. }) if !was_taken => return,
            Err(error) if is_about_commits(&error) => Some(error.with_causes()),
            // A server that could not be asked has changed nothing that is known.
            Err(error) => {
                tracing::debug!(slot = options.slot, problem = error.with_causes(), "not asked");
                return;
            }
        };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).zero_loss_problem = problem;
    }

    fn look_at_slot(&self, options: &ArchiveOptions, connection: &mut Option<Connection>) -> Result<()> {
        let open = match connection {
            Some(open) => open,
            None => {
                let opened = Connection::connect(&options.connect);
                connection.insert(opened.map_err(Error::engine("connecting for a slot"))?)
            }
        };
        let _slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = options.slot_bound_bytes.unwrap_or(u64::MAX);
        let bounded = hold_to_bound(open, &options.connect, &options.slot, bound)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match bounded {
            Bounded::Within(status) => {
                seen.held_bytes = Some(status.held_bytes);
                if let Some(is_waited_for) = status.is_waited_for {
                    self.commits_wait.store(is_waited_for || options.zero_loss, Ordering::Relaxed);
                }
            }
            Bounded::Missing => seen.held_bytes = None,
            Bounded::Dropped { held_bytes, bound_bytes } => {
                seen.dropped = Some(ArchiveEnd::SlotDropped { held_bytes, bound_bytes });
            }
        }
        Ok(())
    }
}

fn is_about_commits(error: &Error) -> bool {
    matches!(
        error,
        Error::RemoteApply { .. }
            | Error::CommitsDoNotWait { .. }
            | Error::NotInEveryQuorum { .. }
            | Error::ApplicationNameTaken { .. }
    )
}
