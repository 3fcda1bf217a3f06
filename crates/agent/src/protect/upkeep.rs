//! What the recovery side does for the copies that it keeps, unasked: looking for ransomware at work, retention, clearing
//! away, and reading what is stored again.
//!
//! One thread for each app, at the lowest priority, and only where copies may be removed at all: beside a writer they
//! are frozen.

pub(super) mod again;
mod alarm;
mod bases;
mod log_grace;
mod offered;
pub(super) mod prune;
pub(super) mod record;
mod reread;
mod reread_log;
mod retention;
pub(super) mod state;
mod whole;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use levee_database::StopSignal;
use levee_model::control::{Assignment, Failure};
use levee_model::protection::{AppSpec, Retention};

use super::app::{App, failure, in_full};
use crate::durable;
use alarm::Alarms;
use offered::OfferedLog;
use reread::Rereading;
use reread_log::LogRereading;
use state::UpkeepState;

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often old copies are looked for: a tenth of the time for which they are kept, within these bounds.
const TRIM_EVERY_MIN: SignedDuration = SignedDuration::from_secs(5);
const TRIM_EVERY_MAX: SignedDuration = SignedDuration::from_mins(10);
/// Where copies are counted and not timed.
const TRIM_EVERY_COUNTED: SignedDuration = SignedDuration::from_mins(1);
const TRIM_AGAIN_AFTER_FAILURE: SignedDuration = SignedDuration::from_secs(15);
/// Comparing large trees takes a while: it is done again after so many times as long.
const LOOK_SHARE: u32 = 20;
/// What this does takes what everything else leaves over.
const PATIENT_NICE: i32 = 19;

/// Gives this thread, and those that it starts, the lowest priority.
pub(super) fn be_patient() {
    if let Err(errno) = rustix::process::setpriority_process(None, PATIENT_NICE) {
        tracing::debug!(%errno, "copies are looked after at the usual priority");
    }
}

pub fn run(app: &Arc<App>, stop: &StopSignal) {
    be_patient();
    let mut upkeep = Upkeep {
        app,
        stop,
        trim_again_at: Timestamp::MIN,
        prune_retry: prune::Retry::default(),
        rereading: None,
        log_rereading: None,
        alarms: None,
        offered: OfferedLog::new(),
        look_again_at: Instant::now(),
    };
    while !stop.wait(LOOK_EVERY) {
        // This thread may outlive its phase by a moment, and what is removed does not come back.
        if !app.copies.exists() || !app.state().may_remove_copies() {
            continue;
        }
        upkeep.turn(Timestamp::now());
    }
}

struct Upkeep<'a> {
    app: &'a Arc<App>,
    stop: &'a StopSignal,
    trim_again_at: Timestamp,
    prune_retry: prune::Retry,
    rereading: Option<Rereading>,
    log_rereading: Option<LogRereading>,
    /// As they are on the disk; `None` until they are read.
    alarms: Option<Alarms>,
    offered: OfferedLog,
    look_again_at: Instant,
}

impl Upkeep<'_> {
    fn turn(&mut self, now: Timestamp) {
        let assignment = self.app.assignment();
        let mut state = match UpkeepState::read(&self.app.folder) {
            Ok(state) => state,
            Err(failure) => return self.remark("upkeep", Err(failure)),
        };
        let begun = match state.clearing.begin(now) {
            false => Ok(()),
            true => state.write(&self.app.folder),
        };
        self.remark("upkeep", begun);
        self.remark("snapshots", self.all_are_readable().map_err(|failure| with_log(failure, &assignment.spec)));
        self.remark("index", self.whole_index_is_readable().map_err(|failure| with_log(failure, &assignment.spec)));
        // Before anything goes: what is kept depends on it.
        let (alarms, looked) = match self.look_for_alarms(&assignment) {
            Ok(alarms) => (Some(alarms), Ok(())),
            Err(failure) => (None, Err(failure)),
        };
        self.remark("alarms", looked);
        let every = trim_every(&assignment.spec);
        // A clock that was put back must not hold this up.
        let is_time = now >= self.trim_again_at || self.trim_again_at.duration_since(now) > every;
        if let (true, Some(alarms)) = (is_time, alarms) {
            let trimmed = retention::trim(self.app, &assignment.spec, &alarms, &state, &mut self.offered, now);
            let trimmed = trimmed.map(|removed| state.clearing.unpruned |= removed > 0);
            let trimmed = trimmed.and_then(|()| state.write(&self.app.folder));
            let pause = if trimmed.is_ok() { every } else { every.min(TRIM_AGAIN_AFTER_FAILURE) };
            self.trim_again_at = now.checked_add(pause).unwrap_or(Timestamp::MAX);
            self.remark("retention", trimmed);
        }
        if self.prune_retry.is_time(now) && state.clearing.is_due(&assignment.spec.upkeep, now, self.app.name.as_str())
        {
            let pruned = prune::prune(self.app, &assignment.spec.upkeep, &mut state, now, self.stop);
            if self.stop.is_stopped() {
                return;
            }
            self.prune_retry.note(pruned.is_ok(), Timestamp::now());
            let spec = &assignment.spec;
            let unpruned = state.clearing.unpruned;
            self.remark("prune", pruned.map_err(|failure| if unpruned { with_log(failure, spec) } else { failure }));
        }
        let reread = self.reread(&assignment.spec, &mut state);
        if !self.stop.is_stopped() {
            self.remark("verify", reread);
        }
        let reread = self.reread_log(&assignment.spec);
        if !self.stop.is_stopped() {
            self.remark("verify log", reread);
        }
    }

    /// A file among the snapshots that can't be read is passed over by everything but a prune, which must know of each.
    fn all_are_readable(&self) -> Result<(), Failure> {
        let cannot = |error| failure(format!("cannot list the snapshots: {}", in_full(&error)));
        let damaged = self.app.copies.vault()?.list_snapshots().map_err(cannot)?.damaged;
        let Some(first) = damaged.first() else { return Ok(()) };
        Err(failure(format!(
            "{} of the snapshots can't be read, first {}: {}; recovery passes them over, but no space comes back until \
             they are gone: look at the disk, then `levee vault forget {}` removes it",
            damaged.len(),
            first.id.short(),
            in_full(&first.error),
            first.id.short()
        )))
    }

    /// The same of a file of the index.
    fn whole_index_is_readable(&self) -> Result<(), Failure> {
        let vault = self.app.copies.vault()?;
        vault.refresh_index().map_err(|error| failure(format!("cannot read the index: {}", in_full(&error))))?;
        let damaged = vault.damaged_index_files();
        let Some((first, reason)) = damaged.first() else { return Ok(()) };
        Err(failure(format!(
            "{} of the index files can't be read, first index/{first}: {reason}; recovery goes on without them, but no \
             space comes back until the index is whole: look at the disk, then `levee vault repair index --apply` makes \
             it anew",
            damaged.len()
        )))
    }

    /// Looks at what has come of each folder, and tells what looks like ransomware at work.
    fn look_for_alarms(&mut self, assignment: &Assignment) -> Result<Alarms, Failure> {
        let path = self.app.folder.alarms();
        let cannot = |error: std::io::Error| failure(format!("cannot use {}: {error}", path.display()));
        let known = match self.alarms.take() {
            Some(known) => known,
            None => durable::read_json::<Alarms>(&path).map_err(cannot)?.unwrap_or_default(),
        };
        let mut alarms = known.clone();
        for (asset, at) in &assignment.acknowledged {
            if let Some(alarm) = alarms.get_mut(asset) {
                alarm.acknowledge(*at);
            }
        }
        let (begun, mut looked) = (Instant::now(), Ok(()));
        if begun >= self.look_again_at {
            for asset in assignment.spec.files.keys() {
                let alarm = alarms.entry(asset.clone()).or_default();
                let arrivals = retention::arrivals_of_folder(self.app, asset)?;
                let compare = |before: &_, after: &_| alarm::compare(self.app, before, after);
                let compared = alarm.look(&arrivals, Timestamp::now(), compare);
                looked = looked.and(compared.map(drop));
            }
            self.look_again_at = Instant::now() + begun.elapsed() * LOOK_SHARE;
        }
        alarms.retain(|asset, _| assignment.spec.files.contains_key(asset));
        if alarms != known {
            durable::write_json(&path, &alarms).map_err(cannot)?;
        }
        for (asset, alarm) in &alarms {
            self.app.board.remark(
                asset,
                "ransomware",
                alarm.text().map(|text| text.replace("APP ASSET", &format!("{} {asset}", self.app.name))),
            );
            let since = alarm.warning.as_ref().map(|warning| warning.since);
            self.app.board.update(asset, |entry| entry.warned_since = since);
        }
        self.alarms = Some(alarms.clone());
        looked.map(|()| alarms)
    }

    fn reread(&mut self, spec: &AppSpec, state: &mut UpkeepState) -> Result<(), Failure> {
        let rereading = match &mut self.rereading {
            Some(rereading) => rereading,
            None => self.rereading.insert(Rereading::begin(self.app, self.stop)?),
        };
        let turned = rereading.turn(self.app, spec, state, self.stop);
        if let Err(failure) = turned {
            // Begun anew: the disk may have been mended meanwhile.
            self.rereading = None;
            return Err(failure);
        }
        rereading.in_time(&spec.upkeep)
    }

    fn reread_log(&mut self, spec: &AppSpec) -> Result<(), Failure> {
        let rereading = match &mut self.log_rereading {
            Some(rereading) => rereading,
            None => self.log_rereading.insert(LogRereading::begin(self.app)?),
        };
        rereading.turn(self.app, spec, self.stop)?;
        rereading.in_time(&spec.upkeep)
    }

    /// What concerns the whole app is said at its first asset.
    fn remark(&self, kind: &'static str, outcome: Result<(), Failure>) {
        let Some(asset) = self.app.assignment().spec.asset_names().next().cloned() else { return };
        self.app.board.remark(&asset, kind, outcome.err().map(|failure| failure.message));
    }
}

/// What it holds up besides space when old data are not cleared away.
fn with_log(failure: Failure, spec: &AppSpec) -> Failure {
    if spec.postgres.is_empty() {
        return failure;
    }
    let delete_after = SignedDuration::try_from(spec.upkeep.delete_after().duration()).unwrap_or(SignedDuration::MAX);
    let days = log_grace::unpruned_max(delete_after).as_hours() / 24;
    let message = format!(
        "{}; until old data are cleared away log that no rule keeps stays as well, for up to {days} days",
        failure.message
    );
    Failure { message, ..failure }
}

fn trim_every(spec: &AppSpec) -> SignedDuration {
    let of = |keep: &Retention| match keep {
        Retention::For(period) => {
            let tenth = period.duration().as_secs() / 10;
            SignedDuration::from_secs(i64::try_from(tenth).unwrap_or(i64::MAX)).clamp(TRIM_EVERY_MIN, TRIM_EVERY_MAX)
        }
        Retention::Rules(_) => TRIM_EVERY_COUNTED,
        Retention::Forever => TRIM_EVERY_MAX,
    };
    let databases = spec.postgres.values().flat_map(|spec| [Some(&spec.keep), spec.keep_bases.as_ref()]).flatten();
    let files = spec.files.values().map(|spec| &spec.keep);
    databases.chain(files).map(of).min().unwrap_or(TRIM_EVERY_MAX)
}
