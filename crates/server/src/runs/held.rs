//! Apps that a run holds: nothing else may change them.
//!
//! A run and its mark on its app come in one transition, a moment before the run is carried out, and go in one. Whoever
//! meets the mark in that moment tries again. One that stays with no run to it must end in an error, and never in a wait
//! without an end.

use std::time::{Duration, Instant};

use levee_model::{AppName, RunId};

use super::{OPEN, open_key};
use crate::error::{Result, ServerError};
use crate::server::Shared;
use crate::state::{Compare, Op};

/// How long a change is decided anew that others have come before. A run is carried out milliseconds after it is durable, and
/// an operator waits for the answer.
const CHANGE_MAX: Duration = Duration::from_secs(2);
/// Between two attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

impl Shared {
    /// Waits a moment before a change is decided anew, of which one of `compares` did not hold. Blocks.
    ///
    /// # Errors
    /// When that has gone on for too long since it was begun: `AppHeld` when a run is in the way, and otherwise `Contended`.
    pub fn wait_to_decide_anew(&self, begun: Instant, doing: &'static str, compares: &[Compare]) -> Result<()> {
        if begun.elapsed() < CHANGE_MAX {
            std::thread::sleep(AGAIN_AFTER);
            return Ok(());
        }
        for compare in compares {
            if let Compare::Absent(key) = compare
                && let Some(app) = key.strip_prefix(OPEN)
            {
                self.check_not_held(&AppName::new(app)?)?;
            }
        }
        Err(ServerError::Contended { doing })
    }

    /// Refuses an app that a run holds.
    pub fn check_not_held(&self, app: &AppName) -> Result<()> {
        match self.store.get(&open_key(app))? {
            Some(mark) => Err(ServerError::AppHeld { app: app.clone(), run: mark.parse::<RunId>()? }),
            None => Ok(()),
        }
    }

    /// Lets go of apps whose run is not among those that were taken up: nobody would ever end it.
    pub(super) fn let_go_of_lost_runs(&self) -> Result<()> {
        // First the marks: a run that ends in between takes its own away before it is gone.
        let marks = self.store.range(OPEN)?.values;
        let open = self.runs.open();
        for mark in marks.iter().filter(|mark| open.keys().all(|app| open_key(app) != mark.key)) {
            let compare = Compare::ModRevision(mark.key.clone(), mark.mod_revision);
            if self.store.txn(&[compare], &[Op::delete(mark.key.clone())])?.succeeded {
                let (app, run) = (mark.name(OPEN), String::from_utf8_lossy(&mark.value));
                tracing::warn!(app, %run, "nothing is left of the run that held the app; it can be changed again");
            }
        }
        Ok(())
    }
}
