//! The recovery side's copies in a further vault: everything that this site keeps of the app is brought there, and what its
//! retention has removed goes there too.
//!
//! One thread for each vault, at the lowest priority, as long as this site is the app's recovery side. It holds nothing
//! else up, and nothing waits for it: a run that brings the app here leaves it to end at its next operation.

mod clearing;
mod copying;
mod held_log;
mod locking;
mod log;
mod mending;
mod place;
mod shared;
mod state;
mod turns;
mod verifying;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_database::StopSignal;
use levee_database::postgres::base::{self, KnownBases};
use levee_model::control::{AssetPoint, Assignment, Failure};
use levee_model::protection::{Upkeep, VaultSpec};
use levee_model::{AssetId, AssetName, Position, VaultName};
use levee_vault::{Snapshot, SnapshotId, Vault};

use super::app::App;
use super::copies::point_of;
use super::queue::Ticket;
use super::upkeep::prune::Retry;
use super::{tags, upkeep};
use held_log::HeldLog;
use locking::Renewal;
use log::{LogCopy, Trouble};
use mending::NotMended;
use place::Place;
pub use shared::{FurtherVaults, SharedVault};
use state::FurtherState;
use verifying::{HIT_AGAIN_MIN, Verifying};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether what was copied is still there.
const LOOK_THERE_EVERY: Duration = Duration::from_secs(3600);

pub fn run(app: &Arc<App>, name: &VaultName, stop: &StopSignal) {
    let assignment = app.assignment();
    let Some(spec) = assignment.vaults.get(name) else { return };
    upkeep::be_patient();
    let shared = app.context.further.vault(name);
    let mut further = Further {
        app,
        name,
        spec,
        stop,
        shared: &shared,
        place: Place { app, name, spec, stop, shared: &shared },
        ticket: None,
        has_asked: false,
        waiting: None,
        hook_retry: Retry::default(),
        state: None,
        there: None,
        copied_log_at: BTreeMap::new(),
        damaged: BTreeMap::new(),
        to_mend: BTreeSet::new(),
        not_mended: NotMended::default(),
        new_logs: BTreeSet::new(),
        known_bases: BTreeMap::new(),
        held: BTreeMap::new(),
        verifying: None,
        damage: None,
        renewal: None,
        besides: BTreeMap::new(),
        retry: Retry::default(),
        clear_retry: Retry::default(),
        lock_retry: Retry::default(),
        verify_retry: Retry::default(),
    };
    loop {
        // This thread may outlive its phase by a moment.
        if app.copies.exists() && app.state().may_remove_copies() && further.retry.is_time(Timestamp::now()) {
            let outcome = further.turn(Timestamp::now());
            if stop.is_stopped() {
                break;
            }
            further.retry.note(outcome.is_ok(), Timestamp::now());
            if outcome.is_err() {
                // What was cached may not be so any more.
                further.there = None;
                // Nobody waits behind one that rests until it is tried again.
                further.leave_line();
            }
            further.remark(&further.problems(outcome.err()));
        }
        if stop.wait(LOOK_EVERY) {
            break;
        }
    }
    further.leave_line();
    further.remark(&[]);
}

struct Further<'a> {
    app: &'a Arc<App>,
    name: &'a VaultName,
    spec: &'a VaultSpec,
    stop: &'a StopSignal,
    shared: &'a SharedVault,
    place: Place<'a>,
    /// Its place in the vault's line, while it waits there.
    ticket: Option<Ticket<'a>>,
    /// The asset whose copy waits.
    waiting: Option<AssetName>,
    /// Whether it has asked for its turn since it last looked what is missing there.
    has_asked: bool,
    /// As it is on the disk; `None` until it is read.
    state: Option<FurtherState>,
    /// `None` until it is opened, and after a failure.
    there: Option<There>,
    /// When the log of each database was last copied by this thread.
    copied_log_at: BTreeMap<AssetName, Instant>,
    /// Snapshots that can't be copied because they are damaged, and when that was found. They hold up nothing else.
    damaged: BTreeMap<SnapshotId, (Instant, String)>,
    /// Snapshots whose copies there lack what was damaged there: this site has it, and brings it anew like what is missing.
    to_mend: BTreeSet<SnapshotId>,
    /// Those of them with which that has failed.
    not_mended: NotMended,
    /// Databases of which there may be a copy of the log that a newer one replaces.
    new_logs: BTreeSet<AssetName>,
    /// The base backups there.
    known_bases: BTreeMap<AssetId, KnownBases>,
    /// Which log its copies there hold.
    held: BTreeMap<SnapshotId, HeldLog>,
    /// `None` until something there is to be read again, and after a failure.
    verifying: Option<Verifying>,
    /// What is damaged there, in words.
    damage: Option<String>,
    /// A renewal of object lock that is under way.
    renewal: Option<Renewal>,
    /// What goes wrong beside the copies, and holds them up no more than a damaged one does: an append-only vault lets
    /// nothing go.
    besides: BTreeMap<String, String>,
    retry: Retry,
    clear_retry: Retry,
    lock_retry: Retry,
    verify_retry: Retry,
    /// When the operator's command is asked again whether a copy may be made.
    hook_retry: Retry,
}

/// The open vault, and what it holds.
struct There {
    vault: Vault,
    /// The copy of each snapshot, by the id that this has at the site.
    snapshots: BTreeMap<SnapshotId, SnapshotId>,
    looked_at: Instant,
}

/// An asset's snapshots that are here, the oldest first.
struct OfAsset {
    asset: AssetName,
    is_database: bool,
    here: Vec<(SnapshotId, Snapshot)>,
}

impl Further<'_> {
    fn turn(&mut self, now: Timestamp) -> Result<(), Failure> {
        let assignment = self.app.assignment();
        let mut state = match self.state.take() {
            Some(state) => state,
            None => FurtherState::read(&self.app.folder, self.name, self.spec.address.as_str())?,
        };
        let before = state.clone();
        let outcome = self.work(&assignment, &mut state, now);
        let written = if state == before { Ok(()) } else { state.write(&self.app.folder, self.name) };
        if !self.stop.is_stopped() {
            self.tell(&assignment, &state);
        }
        self.state = written.is_ok().then_some(state);
        outcome.and(written)
    }

    fn work(&mut self, assignment: &Assignment, state: &mut FurtherState, now: Timestamp) -> Result<(), Failure> {
        state.clearing.begin(now);
        let assets = self.assets(assignment)?;
        let (mut there, is_new) = self.there(state)?;
        if is_new {
            self.forget_what_is_gone(&assets, &there, state)?;
        }
        if self.clear_retry.is_time(now) {
            // What goes makes room for what comes.
            let cleared = self.clear(&mut there, assignment, state, now);
            self.clear_retry.note(cleared.is_ok(), Timestamp::now());
            self.note_besides("what goes", cleared);
        }
        if self.lock_retry.is_time(now) {
            let renewed = self.renew_locks(&there, state, now);
            // Trying again what has failed may take several turns: its end alone says whether that has worked.
            let tries_again = self.renewal.as_ref().is_some_and(Renewal::tries_again);
            if renewed.is_err() || !tries_again {
                self.lock_retry.note(renewed.is_ok(), Timestamp::now());
            }
            self.note_besides("object lock", renewed.and(self.locks_in_time(state, now)));
        }
        let here: BTreeSet<SnapshotId> = assets.iter().flat_map(|of| of.here.iter().map(|(id, _)| *id)).collect();
        self.damaged.retain(|id, _| here.contains(id));
        self.copy(&mut there, &assets, state)?;
        self.look_after(&there, &assignment.spec.upkeep, state, now);
        self.there = Some(there);
        Ok(())
    }

    /// Reads again what is there, once all copies are made that are due.
    fn look_after(&mut self, there: &There, upkeep: &Upkeep, state: &mut FurtherState, now: Timestamp) {
        let Some(within) = self.spec.verify_within else {
            (self.verifying, self.damage) = (None, None);
            self.to_mend.clear();
            self.not_mended = NotMended::default();
            state.damaged.clear();
            state.hit.clear();
            return;
        };
        if self.verify_retry.is_time(now) {
            let verified = self.verify(there, upkeep, within, state);
            self.verify_retry.note(verified.is_ok(), Timestamp::now());
            if verified.is_err() {
                self.verifying = None;
            }
            self.note_besides("reading again", verified.and(self.verified_in_time(upkeep, within)));
        }
    }

    fn note_besides(&mut self, what: &str, outcome: Result<(), Failure>) {
        match outcome {
            Ok(()) => drop(self.besides.remove(what)),
            Err(failure) => drop(self.besides.insert(what.into(), failure.message)),
        }
    }

    /// What is here of each asset.
    fn assets(&self, assignment: &Assignment) -> Result<Vec<OfAsset>, Failure> {
        let (spec, copies) = (&assignment.spec, &self.app.copies);
        let of = |asset: &AssetName| {
            let is_database = spec.postgres.contains_key(asset);
            let id = AssetId::new(self.app.name.clone(), asset.clone());
            let here = match is_database {
                true => copies.snapshots_with_tag(&base::asset_tag(&id))?,
                false => copies.files(asset)?,
            };
            Ok(OfAsset { asset: asset.clone(), is_database, here })
        };
        spec.asset_names().map(of).collect()
    }

    /// The open vault, looked through anew from time to time; and whether it was.
    fn there(&mut self, state: &mut FurtherState) -> Result<(There, bool), Failure> {
        // A repair there changes the index under whoever has opened it before.
        let every = if state.hit.is_empty() { LOOK_THERE_EVERY } else { HIT_AGAIN_MIN };
        if let Some(known) = self.there.take().filter(|there| there.looked_at.elapsed() < every) {
            return Ok((known, false));
        }
        let vault = self.place.open(state)?;
        let listed = vault.list_snapshots().map_err(|error| self.place.failure("list what is in", &error))?;
        let copy = |(id, snapshot): (SnapshotId, Snapshot)| Some((SnapshotId(snapshot.original?), id));
        let snapshots = listed.or_warn().into_iter().filter_map(copy).collect();
        // What is said of the log there is to be so.
        self.copied_log_at.clear();
        self.new_logs = self.app.assignment().spec.postgres.keys().cloned().collect();
        Ok((There { vault, snapshots, looked_at: Instant::now() }, true))
    }

    /// A point whose copy is not there any more is none.
    fn forget_what_is_gone(&self, assets: &[OfAsset], there: &There, state: &mut FurtherState) -> Result<(), Failure> {
        for of in assets {
            let is_there = match of.is_database {
                true => of.newest_there(there, &state.hit).is_some() && !self.logs(there, &of.asset)?.is_empty(),
                false => of.newest_there(there, &state.hit).is_some(),
            };
            if !is_there {
                state.points.remove(&of.asset);
            }
        }
        let known: BTreeSet<&AssetName> = assets.iter().map(|of| &of.asset).collect();
        state.points.retain(|asset, _| known.contains(asset));
        Ok(())
    }

    /// The newest copy of a folder that is there and opens there.
    fn tell_files(&self, there: &There, of: &OfAsset, state: &mut FurtherState) -> Result<(), Failure> {
        let Some((id, snapshot, copy)) = of.newest_there(there, &state.hit) else {
            state.points.remove(&of.asset);
            return Ok(());
        };
        let position = Position::Snapshot { id: id.to_string(), taken_at: snapshot.time };
        let point = AssetPoint { position, as_of: self.app.copies.as_of(&of.asset, &id, snapshot)? };
        if state.points.get(&of.asset) == Some(&point) {
            return Ok(());
        }
        self.open_there(there, &copy)?;
        state.points.insert(of.asset.clone(), point);
        Ok(())
    }

    fn open_there(&self, there: &There, copy: &SnapshotId) -> Result<(), Failure> {
        there.vault.open_snapshot(copy).map_err(|error| self.place.failure("open what was copied to", &error))
    }

    /// Copies a database's journal, when it is time.
    fn copy_log(&mut self, there: &There, of: &OfAsset, state: &mut FurtherState) -> Result<(), Failure> {
        let asset = &of.asset;
        let sound = of.sound(there, &state.hit);
        let mut bases = self.app.copies.bases(asset)?;
        bases.retain(|base| sound.contains(&base.snapshot));
        let is_time = self.copied_log_at.get(asset).is_none_or(|at| at.elapsed() >= self.spec.log_every.duration());
        if bases.is_empty() || !is_time {
            return Ok(());
        }
        // Asked before the log is copied: whatever was durable by now is in the copy.
        let Some(plan) = self.app.copies.newest_from(asset, &bases)? else { return Ok(()) };
        let (point, journal) = (point_of(&plan), self.app.copies.journal(asset)?);
        let earlier = self.logs(there, asset)?;
        let log =
            LogCopy { journal: &journal, host: self.app.context.agent.as_str(), tag: tags::log(&self.app.name, asset) };
        let stored = log.store(&there.vault, earlier.last());
        let newest = stored.map_err(|trouble| match trouble {
            Trouble::There(error) => self.place.failure("copy the log to", &error),
            Trouble::Here(failure) => failure,
        })?;
        self.open_there(there, &newest)?;
        self.new_logs.insert(asset.clone());
        self.copied_log_at.insert(asset.clone(), Instant::now());
        match self.is_hit(there, &newest, state)? {
            true => drop(state.points.remove(asset)),
            false => drop(state.points.insert(asset.clone(), point)),
        }
        self.note_besides(asset.as_str(), Ok(()));
        Ok(())
    }

    /// The copies of a database's journal, the oldest first.
    fn logs(&self, there: &There, asset: &AssetName) -> Result<Vec<SnapshotId>, Failure> {
        let found = tags::snapshots(&there.vault, &tags::log(&self.app.name, asset));
        let found = found.map_err(|error| self.place.failure("list what is in", &error))?;
        Ok(found.into_iter().map(|(id, _)| id).collect())
    }

    fn tell(&self, assignment: &Assignment, state: &FurtherState) {
        for asset in assignment.spec.asset_names() {
            self.app.board.update(asset, |entry| match state.points.get(asset) {
                Some(point) => drop(entry.vaults.insert(self.name.clone(), point.clone())),
                None => drop(entry.vaults.remove(self.name)),
            });
        }
    }

    fn problems(&self, failure: Option<Failure>) -> Vec<String> {
        let besides = self.besides.values().cloned();
        let left_alone = self.damaged.values().next().map(|(_, said)| match self.damaged.len() {
            1 => said.clone(),
            many => format!("{said}; and {} more", many - 1),
        });
        failure
            .map(|failure| failure.message)
            .into_iter()
            .chain(besides)
            .chain(left_alone)
            .chain(self.damage.clone())
            .chain(self.not_mended.text(self.name))
            .collect()
    }

    /// What is wrong with the vault is said at each asset that it is of.
    fn remark(&self, problems: &[String]) {
        let about = format!("vault {}", self.name);
        for asset in self.app.assignment().spec.asset_names() {
            self.app.board.remark(asset, &about, Some(problems.join("; ")).filter(|text| !text.is_empty()));
        }
    }
}

impl OfAsset {
    /// What is not there, or not whole, the oldest first.
    fn missing(&self, there: &There, to_mend: &BTreeSet<SnapshotId>) -> Vec<(SnapshotId, Snapshot)> {
        let is_missing = |(id, _): &&(SnapshotId, Snapshot)| !there.snapshots.contains_key(id) || to_mend.contains(id);
        self.here.iter().filter(is_missing).cloned().collect()
    }

    /// What is there and can be restored whole from there.
    fn sound(&self, there: &There, hit: &BTreeSet<SnapshotId>) -> BTreeSet<SnapshotId> {
        self.here.iter().map(|(id, _)| *id).filter(|id| there.sound_copy(id, hit).is_some()).collect()
    }

    /// The newest that is there too and can be restored whole from there, and its copy.
    fn newest_there(&self, there: &There, hit: &BTreeSet<SnapshotId>) -> Option<(SnapshotId, &Snapshot, SnapshotId)> {
        self.here.iter().rev().find_map(|(id, snapshot)| Some((*id, snapshot, there.sound_copy(id, hit)?)))
    }
}

impl There {
    /// A snapshot's copy, unless damage hits it.
    fn sound_copy(&self, id: &SnapshotId, hit: &BTreeSet<SnapshotId>) -> Option<SnapshotId> {
        self.snapshots.get(id).copied().filter(|copy| !hit.contains(copy))
    }
}
