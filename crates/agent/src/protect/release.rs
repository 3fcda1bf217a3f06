//! The end of an app's protection: what Levee has left in databases is taken away, and everything else stays.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use levee_database::postgres::instance::{Instance, StopMode};
use levee_database::postgres::slot;
use levee_model::control::{Failure, Removed};
use levee_model::protection::PostgresSite;
use levee_model::{AppName, AssetId, AssetName, Epoch};

use super::app::{failure, in_full, transient};
use super::database;
use super::folder::AppFolder;
use super::leaving;
use super::state::{AppState, Phase, Remnant, Standing};
use crate::context::ProtectContext;
use crate::durable;

/// How soon a release that failed is tried again: a slot in a database that is down can wait, for it holds nothing back.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long a standby of ours may take to end.
const STOP_MAX: Duration = Duration::from_secs(60);

/// The removed apps that this agent has served.
#[derive(Debug, Default)]
pub struct Releases {
    /// Short holds, never during a release.
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    done: BTreeMap<AppName, Epoch>,
    /// When one was tried in vain, and the words that were said of it.
    failed: Option<(Instant, String)>,
}

impl Releases {
    pub fn done(&self) -> BTreeMap<AppName, Epoch> {
        self.lock().done.clone()
    }

    /// Whether something is to be tried again now.
    pub fn is_due(&self) -> bool {
        self.lock().failed.as_ref().is_some_and(|(at, _)| at.elapsed() >= RETRY_AFTER)
    }

    /// Releases an app, unless that is done. Nobody works on it any more. Returns whether it is released.
    pub fn release(&self, context: &ProtectContext, removed: &Removed) -> bool {
        if self.lock().done.get(&removed.app).is_some_and(|epoch| *epoch >= removed.epoch) {
            return true;
        }
        let released = release(context, removed);
        let mut inside = self.lock();
        match released {
            Ok(()) => {
                inside.done.insert(removed.app.clone(), removed.epoch);
                context.changed.notify_one();
                true
            }
            Err(failure) => {
                if inside.failed.as_ref().is_none_or(|(_, said)| *said != failure.message) {
                    tracing::warn!(app = %removed.app, "{}; it is tried again", failure.message);
                }
                inside.failed = Some((Instant::now(), failure.message));
                false
            }
        }
    }

    /// A new round of releases begins.
    pub fn begin(&self) {
        self.lock().failed = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the slots of the app's databases, so that their disks do not fill, and ends its standbys. Databases that are
/// in use go on. At the end the app's state gets another name: an app that is protected anew begins anew.
fn release(context: &ProtectContext, removed: &Removed) -> Result<(), Failure> {
    let folder = AppFolder::new(context.folder.root(), &removed.app);
    let cannot = |what: &str, error: std::io::Error| {
        failure(format!("cannot {what} {}: {error}; make room or repair the disk", folder.state().display()))
    };
    let state: Option<AppState> = durable::read_json(&folder.state()).map_err(|error| cannot("read", error))?;
    // Of a later life, which this removal does not mean.
    let Some(state) = state.filter(|state| state.epoch < removed.epoch) else { return Ok(()) };
    for (asset, spec) in &removed.spec.postgres {
        let Some(here) = spec.at.get(&removed.site) else { continue };
        match (state.phase, state.standing(asset)) {
            (Phase::Writer | Phase::Sealed, Standing::Live) => {
                drop_slot(context, &removed.app, asset, here, &format!("{asset} of the removed app {}", removed.app))?
            }
            (_, Standing::Staged) => stop_standby(&folder, asset, here)?,
            _ => {}
        }
    }
    // What went out of the file before.
    for (asset, leaving) in &state.leaving {
        match leaving::take_away(context, &removed.app, &folder, asset, leaving) {
            // Where the app is written no more, the database of such a slot may never be started again.
            Err(failure)
                if leaving.remnant == Remnant::Slot && !matches!(state.phase, Phase::Writer | Phase::Sealed) =>
            {
                tracing::warn!(app = %removed.app, %asset, "{}", failure.message);
            }
            outcome => outcome?,
        }
    }
    context.view.forbid(&removed.app);
    let kept = folder.removed_state(removed.epoch);
    std::fs::rename(folder.state(), &kept)
        .and_then(|()| std::fs::File::open(folder.root())?.sync_all())
        .map_err(|error| cannot("rename", error))?;
    tracing::info!(app = %removed.app, epoch = %removed.epoch, "the app is protected no more; its state is in {}", kept.display());
    Ok(())
}

/// Drops a database's slot, which the failure calls the one of `whose`.
pub fn drop_slot(
    context: &ProtectContext,
    app: &AppName,
    asset: &AssetName,
    here: &PostgresSite,
    whose: &str,
) -> Result<(), Failure> {
    let name = slot::name_for(&AssetId::new(app.clone(), asset.clone()));
    let still_there =
        |why: &str| transient(format!("the slot {name} of {whose} is still there, and may hold back log: {why}"));
    let options = database::connect_options(&context.secrets, here).map_err(|failure| still_there(&failure.message))?;
    slot::drop(&options, &name).map_err(|error| still_there(&in_full(&error)))
}

/// A standby is Levee's own copy. It ends, and its data stay.
pub fn stop_standby(folder: &AppFolder, asset: &AssetName, here: &PostgresSite) -> Result<(), Failure> {
    // Without this file it was promoted, or is the operator's own by now: then it goes on.
    if !here.data_directory.join("standby.signal").exists() {
        return Ok(());
    }
    let log = folder.server(asset).join("postgresql.log");
    Instance::open(&here.data_directory, &here.os_user, here.binaries.as_deref(), Some(&log))
        .and_then(|instance| instance.stop(StopMode::Fast, STOP_MAX).map(drop))
        .map_err(|error| transient(format!("the standby of {asset} does not stop: {}", in_full(&error))))
}
