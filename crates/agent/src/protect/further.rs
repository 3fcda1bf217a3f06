//! The recovery side's copies in a further vault: everything that this site keeps of the app is brought there, and what its
//! retention has removed goes there too.
//!
//! One thread for each vault, at the lowest priority, as long as this site is the app's recovery side. It holds nothing
//! else up, and nothing waits for it: a run that brings the app here leaves it to end at its next operation.

mod clearing;
mod log;
mod place;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_database::StopSignal;
use levee_database::postgres::base;
use levee_model::control::{AssetPoint, Assignment, Failure};
use levee_model::protection::VaultSpec;
use levee_model::{AssetId, AssetName, Position, VaultName};
use levee_store::FileType;
use levee_vault::{CopyOptions, SWAP_PATIENCE, Snapshot, SnapshotId, SnapshotSelection, Vault};

use super::app::{App, failure, in_full};
use super::copies::point_of;
use super::owner_store::OwnerStore;
use super::removals::Original;
use super::upkeep::prune::Retry;
use super::{tags, upkeep};
use log::{LogCopy, Trouble};
use place::Place;
use state::FurtherState;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether what was copied is still there.
const LOOK_THERE_EVERY: Duration = Duration::from_secs(3600);
/// How many older snapshots are copied before newer ones and the log have their turn again.
const OLDER_AT_ONCE: usize = 10;
/// A snapshot that is damaged here is left alone for so long: somebody may mend it.
const DAMAGED_AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);

pub fn run(app: &Arc<App>, name: &VaultName, stop: &StopSignal) {
    let assignment = app.assignment();
    let Some(spec) = assignment.vaults.get(name) else { return };
    upkeep::be_patient();
    let mut further = Further {
        app,
        name,
        spec,
        stop,
        place: Place { app, name, spec, stop },
        state: None,
        there: None,
        copied_log_at: BTreeMap::new(),
        damaged: BTreeMap::new(),
        new_logs: BTreeSet::new(),
        not_cleared: None,
        retry: Retry::default(),
        clear_retry: Retry::default(),
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
            }
            further.remark(&further.problems(outcome.err()));
        }
        if stop.wait(LOOK_EVERY) {
            break;
        }
    }
    further.remark(&[]);
}

struct Further<'a> {
    app: &'a Arc<App>,
    name: &'a VaultName,
    spec: &'a VaultSpec,
    stop: &'a StopSignal,
    place: Place<'a>,
    /// As it is on the disk; `None` until it is read.
    state: Option<FurtherState>,
    /// `None` until it is opened, and after a failure.
    there: Option<There>,
    /// When the log of each database was last copied by this thread.
    copied_log_at: BTreeMap<AssetName, Instant>,
    /// Snapshots that can't be copied because they are damaged, and when that was found. They hold up nothing else.
    damaged: BTreeMap<SnapshotId, (Instant, String)>,
    /// Databases of which there may be a copy of the log that a newer one replaces.
    new_logs: BTreeSet<AssetName>,
    /// Why old copies there do not go, which holds up nothing else either: a vault may be append-only.
    not_cleared: Option<String>,
    retry: Retry,
    clear_retry: Retry,
}

/// The open vault, and what it holds.
struct There {
    vault: Vault,
    snapshots: BTreeMap<Original, SnapshotId>,
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
            self.not_cleared = cleared.err().map(|failure| failure.message);
        }
        let here: BTreeSet<SnapshotId> = assets.iter().flat_map(|of| of.here.iter().map(|(id, _)| *id)).collect();
        self.damaged.retain(|id, _| here.contains(id));
        self.copy(&mut there, &assets, state)?;
        self.there = Some(there);
        Ok(())
    }

    /// What is here of each asset.
    fn assets(&self, assignment: &Assignment) -> Result<Vec<OfAsset>, Failure> {
        let (spec, copies) = (&assignment.spec, &self.app.copies);
        let of = |asset: &AssetName| {
            let is_database = spec.postgres.contains_key(asset);
            let here = copies.snapshots_with_tag(&self.tag_of(asset, is_database))?;
            Ok(OfAsset { asset: asset.clone(), is_database, here })
        };
        spec.asset_names().map(of).collect()
    }

    fn tag_of(&self, asset: &AssetName, is_database: bool) -> String {
        match is_database {
            true => base::asset_tag(&AssetId::new(self.app.name.clone(), asset.clone())),
            false => tags::files(&self.app.name, asset),
        }
    }

    /// The open vault, looked through anew from time to time; and whether it was.
    fn there(&mut self, state: &mut FurtherState) -> Result<(There, bool), Failure> {
        if let Some(known) = self.there.take().filter(|there| there.looked_at.elapsed() < LOOK_THERE_EVERY) {
            return Ok((known, false));
        }
        let vault = self.place.open(state)?;
        let listed = vault.list_snapshots().map_err(|error| self.place.failure("list what is in", &error))?;
        let snapshots = listed.or_warn().iter().map(|(id, snapshot)| (Original::of(id, snapshot), *id)).collect();
        // What is said of the log there is to be so.
        self.copied_log_at.clear();
        self.new_logs = self.app.assignment().spec.postgres.keys().cloned().collect();
        Ok((There { vault, snapshots, looked_at: Instant::now() }, true))
    }

    /// A point whose copy is not there any more is none.
    fn forget_what_is_gone(&self, assets: &[OfAsset], there: &There, state: &mut FurtherState) -> Result<(), Failure> {
        for of in assets {
            let is_there = match of.is_database {
                true => of.newest_there(there).is_some() && !self.logs(there, &of.asset)?.is_empty(),
                false => of.newest_there(there).is_some(),
            };
            if !is_there {
                state.points.remove(&of.asset);
            }
        }
        let known: BTreeSet<&AssetName> = assets.iter().map(|of| &of.asset).collect();
        state.points.retain(|asset, _| known.contains(asset));
        Ok(())
    }

    /// Copies what is missing there: the newest of each asset first, then the log of databases, then what is older.
    fn copy(&mut self, there: &mut There, assets: &[OfAsset], state: &mut FurtherState) -> Result<(), Failure> {
        let mut older = Vec::new();
        for of in assets {
            let mut missing = of.missing(there);
            if let Some(newest) = missing.pop_if(|(id, _)| of.here.last().is_some_and(|(newest, _)| newest == id)) {
                self.copy_one(there, &newest)?;
            }
            older.extend(missing.into_iter().rev());
            match of.is_database {
                true => self.copy_log(there, of, state)?,
                false => self.tell_files(there, of, state)?,
            }
        }
        older.retain(|(id, _)| !self.is_left_alone(id));
        older.iter().take(OLDER_AT_ONCE).try_for_each(|snapshot| self.copy_one(there, snapshot))
    }

    fn is_left_alone(&self, id: &SnapshotId) -> bool {
        self.damaged.get(id).is_some_and(|(at, _)| at.elapsed() < DAMAGED_AGAIN_AFTER)
    }

    /// Copies one snapshot that this site has opened with its own keys. One that is damaged is noted, and left alone.
    fn copy_one(&mut self, there: &mut There, (id, snapshot): &(SnapshotId, Snapshot)) -> Result<(), Failure> {
        if self.is_left_alone(id) {
            return Ok(());
        }
        let here = self.app.copies.vault()?;
        let copied = match self.app.copies.open_with_own_keys(&here, id) {
            Ok(()) => self.copy_opened(there, id),
            Err(failure) if failure.transient => Err(failure),
            Err(failure) => Ok(Err(Damaged(failure.message))),
        };
        // Retention may remove it at any time.
        let stands = self.app.copies.store().size_bytes(FileType::Snapshot, &id.to_string());
        if let Err(levee_store::Error::NotFound { .. }) = stands {
            return Ok(());
        }
        match copied? {
            Ok(to) => {
                self.damaged.remove(id);
                there.snapshots.insert(Original::of(id, snapshot), to);
            }
            Err(Damaged(reason)) => {
                let said = format!("snapshot {} is not copied to vault {}: {reason}", id.short(), self.name);
                self.damaged.insert(*id, (Instant::now(), said));
            }
        }
        Ok(())
    }

    fn copy_opened(&self, there: &There, id: &SnapshotId) -> Result<Result<SnapshotId, Damaged>, Failure> {
        let master_key = self.app.copies.vault()?.master_key().clone();
        // Opened for itself: it ends at once when it is to, and its index is not kept in memory in between.
        let source = Vault::open_with_master_key(Arc::new(OwnerStore::new(self.app, self.stop)), master_key)
            .map_err(|error| failure(format!("cannot open this site's repository: {}", in_full(&error))))?;
        let options = CopyOptions {
            selection: SnapshotSelection { ids: vec![id.to_string()], ..SnapshotSelection::default() },
            patience: SWAP_PATIENCE,
            // A prune here must not wait for a vault that is slow. What it takes away stays for its time of grace.
            no_lock_source: true,
            ..CopyOptions::default()
        };
        let report = match levee_vault::copy(&source, &there.vault, &options, &()) {
            Ok(report) => report,
            Err(error) if error.is_damage() => return Ok(Err(Damaged(in_full(&error)))),
            Err(error) => return Err(self.place.failure("copy to", &error)),
        };
        if let Some(to) = report.copied.first().and_then(|copied| copied.to) {
            tracing::debug!(app = %self.app.name, vault = %self.name, snapshot = %id.short(), report.bytes,
                report.packed_bytes, "copied to a further vault");
            return Ok(Ok(to));
        }
        // It was there already, since somebody else has copied it.
        let listed = there.vault.list_snapshots().map_err(|error| self.place.failure("list what is in", &error))?;
        let found = listed.or_warn().into_iter().find(|(_, snapshot)| snapshot.original == Some(id.0));
        found.map(|(id, _)| Ok(id)).ok_or_else(|| failure(format!("snapshot {} was not copied", id.short())))
    }

    /// The newest copy of a folder that is there and opens there.
    fn tell_files(&self, there: &There, of: &OfAsset, state: &mut FurtherState) -> Result<(), Failure> {
        let Some((id, snapshot, copy)) = of.newest_there(there) else { return Ok(()) };
        let position = Position::Snapshot { id: id.to_string(), taken_at: snapshot.time };
        let point = AssetPoint { position, as_of: snapshot.time };
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

    /// Copies a database's journal, when it is time or when a base waits for its log.
    fn copy_log(&mut self, there: &There, of: &OfAsset, state: &mut FurtherState) -> Result<(), Failure> {
        let asset = &of.asset;
        let missing: BTreeSet<SnapshotId> = of.missing(there).into_iter().map(|(id, _)| id).collect();
        let mut bases = self.app.copies.bases(asset)?;
        bases.retain(|base| !missing.contains(&base.snapshot));
        let is_time = self.copied_log_at.get(asset).is_none_or(|at| at.elapsed() >= self.spec.log_every.duration());
        let is_due = is_time || !state.points.contains_key(asset);
        if bases.is_empty() || !is_due {
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
        state.points.insert(asset.clone(), point);
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
        let failure = failure.map(|failure| failure.message);
        let damaged = self.damaged.values().next().map(|(_, said)| match self.damaged.len() {
            1 => said.clone(),
            many => format!("{said}; and {} more", many - 1),
        });
        [failure, self.not_cleared.clone(), damaged].into_iter().flatten().collect()
    }

    /// What is wrong with the vault is said at each asset that it is of.
    fn remark(&self, problems: &[String]) {
        let about = format!("vault {}", self.name);
        for asset in self.app.assignment().spec.asset_names() {
            self.app.board.remark(asset, &about, Some(problems.join("; ")).filter(|text| !text.is_empty()));
        }
    }
}

/// Why a snapshot can't be copied: others may be sound.
struct Damaged(String);

impl OfAsset {
    /// What is not there, the oldest first.
    fn missing(&self, there: &There) -> Vec<(SnapshotId, Snapshot)> {
        let is_missing =
            |(id, snapshot): &&(SnapshotId, Snapshot)| !there.snapshots.contains_key(&Original::of(id, snapshot));
        self.here.iter().filter(is_missing).cloned().collect()
    }

    /// The newest that is there too, and its copy.
    fn newest_there(&self, there: &There) -> Option<(SnapshotId, &Snapshot, SnapshotId)> {
        self.here
            .iter()
            .rev()
            .find_map(|(id, snapshot)| Some((*id, snapshot, *there.snapshots.get(&Original::of(id, snapshot))?)))
    }
}
