//! Reading what is stored again, evenly, so that all of it is read within a stated time.
//!
//! What is new is read first, from the disk and not from memory; then what is due the longest. Damage is named, with
//! the copies that it hits, and nothing is repaired by itself.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_database::StopSignal;
use levee_model::control::{AssetPoint, Failure, VerifiedBackup};
use levee_model::protection::{AppSpec, Upkeep};
use levee_model::{AssetName, LogPosition, Position};
use levee_store::{FileType, LocalStore};
use levee_vault::forget::Arrival;
use levee_vault::reread::PackAge;
use levee_vault::{Error, Id, SnapshotId, Vault};

use super::super::app::{App, failure, in_full};
use super::super::owner_store::OwnerStore;
use super::super::tags;
use super::again::{self, Allowance, Found, Stored};
use super::record::Record;
use super::state::{DamagedPack, UpkeepState, name_packs, note_pack, pack_ids};

/// How long packs are read before something else has its turn.
const TURN_MAX: Duration = Duration::from_secs(20);
/// Listing a large repository takes a while: it is done anew after so many times as long.
const LISTING_SHARE: u32 = 50;
const LIST_AGAIN_MIN: Duration = Duration::from_secs(4);
const NAMED_MAX: usize = 3;
/// From so many damaged packs on that no index names they are said.
const UNINDEXED_MIN: usize = 16;
/// Opening copies takes a while as well: what was hit is opened anew after so many times as long.
const OPENING_SHARE: u32 = 20;
const OPEN_AGAIN_MIN: Duration = Duration::from_secs(10);

pub struct Rereading {
    vault: Vault,
    record: Record,
    listing: Option<Listing>,
    /// When it is looked next whether copies are whole again that were hit.
    open_again_at: Instant,
    /// Something was read or found since the last look at what is verified.
    has_news: bool,
}

struct Listing {
    at: Timestamp,
    next: Instant,
    packs: BTreeMap<Id, PackAge>,
}

/// The packs of this site's repository.
struct Packs<'a> {
    app: &'a App,
    vault: &'a Vault,
    packs: &'a mut BTreeMap<Id, PackAge>,
    state: &'a mut UpkeepState,
    has_news: &'a mut bool,
}

impl Stored for Packs<'_> {
    fn ages(&self) -> Vec<PackAge> {
        self.packs.values().cloned().collect()
    }

    fn read(&mut self, id: &Id) -> Result<Found, Failure> {
        let path = pack_path(&self.app.folder.repository(), id);
        drop_from_memory(&path);
        let read = self.vault.reread(id);
        drop_from_memory(&path);
        match read {
            Ok(read) => Ok(read.into()),
            // The system's own word is about this file.
            Err(Error::Store(error @ levee_store::Error::Io { .. })) if is_of_the_system(&error) => {
                Ok(Found::Unreadable { problem: in_full(&error) })
            }
            Err(error) => Err(failure(format!("cannot read what is stored again: {}", in_full(&error)))),
        }
    }

    fn note(&mut self, id: &Id, at: Timestamp, problem: Option<String>) {
        if let Some(problem) = &problem {
            tracing::error!(app = %self.app.name, pack = %id, problem, "stored data are damaged");
        }
        if let Some(age) = self.packs.get_mut(id) {
            again::note(age, at, problem.as_deref());
        }
        note_pack(&mut self.state.damaged, id, at, problem);
        *self.has_news = true;
    }
}

impl Rereading {
    pub fn begin(app: &Arc<App>, stop: &StopSignal) -> Result<Self, Failure> {
        let record = Record::open(app.folder.rereads())?;
        let master_key = app.copies.vault()?.master_key().clone();
        let vault = Vault::open_with_master_key(Arc::new(OwnerStore::new(app, stop)), master_key)
            .map_err(|error| failure(in_full(&error)))?;
        Ok(Self { vault, record, listing: None, open_again_at: Instant::now(), has_news: true })
    }

    /// Reads for a while what is due, and tells the board.
    pub fn turn(
        &mut self,
        app: &Arc<App>,
        spec: &AppSpec,
        state: &mut UpkeepState,
        stop: &StopSignal,
    ) -> Result<(), Failure> {
        self.list(app, state)?;
        self.read(app, &spec.upkeep, state, stop)?;
        if !stop.is_stopped() && std::mem::take(&mut self.has_news) {
            self.tell(app, spec, state)?;
        }
        Ok(())
    }

    fn list(&mut self, app: &App, state: &mut UpkeepState) -> Result<(), Failure> {
        if self.listing.as_ref().is_some_and(|listing| Instant::now() < listing.next) {
            return Ok(());
        }
        let (begun, at) = (Instant::now(), Timestamp::now());
        let files = LocalStore::new(app.folder.repository())
            .received(FileType::Data)
            .map_err(|error| failure(format!("cannot list what is stored: {}", in_full(&error))))?;
        let mut packs = BTreeMap::new();
        for file in files {
            let Ok(id) = file.name.parse::<Id>() else { continue };
            let damaged_at = state.damaged.iter().find(|damaged| damaged.pack == file.name).map(|damaged| damaged.at);
            let verified_at = self.record.read_at(&id);
            let (bytes, stored_at) = (file.size_bytes, file.received_at);
            packs.insert(id, PackAge { id, bytes, stored_at, verified_at, damaged_at });
        }
        let there: BTreeSet<Id> = packs.keys().copied().collect();
        self.record.retain(&there)?;
        // What a prune or a repair has removed is damage no more.
        let before = state.damaged.len();
        state.damaged.retain(|damaged| damaged.pack.parse().is_ok_and(|id: Id| there.contains(&id)));
        if state.damaged.len() != before {
            state.write(&app.folder)?;
        }
        let next = Instant::now() + (begun.elapsed() * LISTING_SHARE).max(LIST_AGAIN_MIN);
        self.listing = Some(Listing { at, next, packs });
        self.has_news = true;
        Ok(())
    }

    fn read(&mut self, app: &App, upkeep: &Upkeep, state: &mut UpkeepState, stop: &StopSignal) -> Result<(), Failure> {
        let Self { vault, record, listing: Some(listing), has_news, .. } = self else { return Ok(()) };
        let mut packs = Packs { app, vault, packs: &mut listing.packs, state, has_news };
        Allowance::of(upkeep, TURN_MAX).read_due(&mut packs, record, stop)
    }

    /// Says what is verified, and what damage hits.
    fn tell(&mut self, app: &App, spec: &AppSpec, state: &mut UpkeepState) -> Result<(), Failure> {
        let Self { listing: Some(listing), open_again_at, .. } = self else { return Ok(()) };
        let store = LocalStore::new(app.folder.repository());
        let arrivals = app.copies.arrivals().of(&store).map_err(|error| failure(in_full(&error)))?;
        let damaged = pack_ids(&state.damaged);
        let all: Vec<SnapshotId> = arrivals.iter().map(|arrival| arrival.id).collect();
        let hit: HashSet<SnapshotId> = if damaged.is_empty() {
            HashSet::new()
        } else {
            let hit = app.copies.vault()?.snapshots_hit(&all, &damaged);
            hit.map_err(|error| failure(format!("cannot say what the damage hits: {}", in_full(&error))))?
                .into_iter()
                .collect()
        };
        let is_indexed = !damaged.is_empty() && {
            let indexed = app.copies.vault()?.any_indexed(&damaged);
            indexed.map_err(|error| failure(format!("cannot say what the damage hits: {}", in_full(&error))))?
        };
        // What was taken out of the index is not relied on, and goes with the next prune.
        state.clearing.unpruned |= !damaged.is_empty() && hit.is_empty() && !is_indexed;
        let torn = still_torn(app, state, &hit, open_again_at)?;
        let is_whole = |id: &SnapshotId| !hit.contains(id) && !torn.contains(id);
        let through = verified_through(listing, state);
        let (mut verified, mut verified_copies) = (BTreeMap::new(), BTreeMap::new());
        let mut remarks: BTreeMap<&AssetName, String> = BTreeMap::new();
        for asset in spec.asset_names() {
            let points = points_of(app, spec, asset)?;
            let mut of_asset: Vec<&Arrival> =
                arrivals.iter().filter(|arrival| points.contains_key(&arrival.id)).collect();
            of_asset.sort_by_key(|arrival| (arrival.received_at, arrival.id));
            let sound = of_asset.iter().rev().find(|arrival| arrival.received_at < through && is_whole(&arrival.id));
            let known = state.verified_copies.get(asset).copied();
            if let Some(copy) = newest_verified(&of_asset, &all, known, through, is_whole) {
                verified_copies.insert(asset.clone(), copy);
            }
            if let Some(point) = sound.and_then(|arrival| points.get(&arrival.id)) {
                let known = state.verified.get(asset).filter(|known| known.point == *point).cloned();
                let mark = known.unwrap_or_else(|| VerifiedBackup { point: point.clone(), at: Timestamp::now() });
                verified.insert(asset.clone(), mark);
            }
            let hit_here: Vec<&Arrival> =
                of_asset.iter().copied().filter(|arrival| hit.contains(&arrival.id)).collect();
            if !hit_here.is_empty() {
                remarks.insert(asset, damage_text(state, &copies_hit(&hit_here, Some(of_asset.len()))));
            }
        }
        // Damage that hits no copy of these assets is said as well: the next copy may rely on it.
        if let (true, true, Some(first)) = (is_indexed, remarks.is_empty(), spec.asset_names().next()) {
            let mut elsewhere: Vec<&Arrival> = arrivals.iter().filter(|arrival| hit.contains(&arrival.id)).collect();
            elsewhere.sort_by_key(|arrival| (arrival.received_at, arrival.id));
            remarks.insert(first, damage_text(state, &copies_hit(&elsewhere, None)));
        }
        if let (false, true, Some(first)) = (is_indexed, remarks.is_empty(), spec.asset_names().next())
            && let Some(text) = unindexed_text(&state.damaged)
        {
            remarks.insert(first, text);
        }
        for asset in spec.asset_names() {
            app.board.remark(asset, "damage", remarks.remove(asset));
        }
        for asset in spec.asset_names() {
            app.board.update(asset, |entry| entry.verified = verified.get(asset).cloned());
        }
        (state.verified, state.verified_copies) = (verified, verified_copies);
        state.hit = hit.into_iter().chain(torn).collect();
        state.write(&app.folder)
    }

    /// An error when not everything is read within the time that is asked for, or can't be.
    pub fn in_time(&self, upkeep: &Upkeep) -> Result<(), Failure> {
        let ages: Vec<PackAge> = self.listing.iter().flat_map(|listing| listing.packs.values().cloned()).collect();
        self.record.all_readable("packs")?;
        Allowance::of(upkeep, TURN_MAX).in_time("packs", &ages)
    }
}

fn is_of_the_system(error: &levee_store::Error) -> bool {
    matches!(error, levee_store::Error::Io { source, .. } if source.raw_os_error().is_some())
}

/// Copies that were hit, and lack what a repair has taken out of the index since, so that no damaged pack is to blame.
fn still_torn(
    app: &App,
    state: &UpkeepState,
    hit: &HashSet<SnapshotId>,
    open_again_at: &mut Instant,
) -> Result<BTreeSet<SnapshotId>, Failure> {
    let were_hit: BTreeSet<SnapshotId> = state.hit.iter().filter(|id| !hit.contains(id)).copied().collect();
    let begun = Instant::now();
    if were_hit.is_empty() || begun < *open_again_at {
        return Ok(were_hit);
    }
    let vault = app.copies.vault()?;
    let mut torn = BTreeSet::new();
    for id in were_hit {
        match vault.open_snapshot(&id) {
            Ok(()) | Err(Error::SnapshotNotFound { .. }) => {}
            Err(error) if error.is_damage() => {
                app.copies.open_anew(&id);
                torn.insert(id);
            }
            Err(error) => return Err(failure(format!("cannot open what was damaged: {}", in_full(&error)))),
        }
    }
    *open_again_at = Instant::now() + (begun.elapsed() * OPENING_SHARE).max(OPEN_AGAIN_MIN);
    Ok(torn)
}

/// The newest copy of an asset that was read back, now or when it was told last, and is whole. `of_asset` are those
/// that open, the oldest first; `all` are those that are here.
fn newest_verified(
    of_asset: &[&Arrival],
    all: &[SnapshotId],
    known: Option<SnapshotId>,
    through: Timestamp,
    is_whole: impl Fn(&SnapshotId) -> bool,
) -> Option<SnapshotId> {
    let was_read = |arrival: &Arrival| arrival.received_at < through || Some(arrival.id) == known;
    let found = of_asset.iter().rev().find(|arrival| was_read(arrival) && is_whole(&arrival.id));
    // One that does not open just now may do so in a moment.
    found.map(|arrival| arrival.id).or(known.filter(|id| all.contains(id) && is_whole(id)))
}

/// Whatever was received before has been read in full, damaged packs aside.
fn verified_through(listing: &Listing, state: &UpkeepState) -> Timestamp {
    let unread = listing.packs.values().filter(|pack| pack.verified_at.is_none() && pack.damaged_at.is_none());
    // What a prune has written is part of snapshots that are older than it.
    let stands_for = |pack: &PackAge| match state.moved_from {
        Some(from) if pack.stored_at >= from && state.moved_until.is_none_or(|until| pack.stored_at <= until) => {
            Timestamp::MIN
        }
        _ => pack.stored_at,
    };
    unread.map(stands_for).min().unwrap_or(listing.at).min(listing.at)
}

/// The backups of an asset, with the points that they stand for.
fn points_of(app: &App, spec: &AppSpec, asset: &AssetName) -> Result<BTreeMap<SnapshotId, AssetPoint>, Failure> {
    if spec.postgres.contains_key(asset) {
        let point = |base: levee_database::postgres::base::BaseBackup| {
            let facts = base.facts;
            let position =
                LogPosition { system_identifier: facts.system_identifier, timeline: facts.timeline, lsn: facts.stop };
            (base.snapshot, AssetPoint { position: Position::Log(position), as_of: facts.ended_at })
        };
        return Ok(app.copies.bases(asset)?.into_iter().map(point).collect());
    }
    let snapshots = app.copies.snapshots_with_tag(&tags::files(&app.name, asset))?;
    let point = |(id, snapshot): (SnapshotId, levee_vault::Snapshot)| {
        let taken_at = snapshot.time;
        (id, AssetPoint { position: Position::Snapshot { id: id.to_string(), taken_at }, as_of: taken_at })
    };
    Ok(snapshots.into_iter().map(point).collect())
}

/// Which copies can't be restored whole, oldest first: of so many of an asset's, or of those that are no asset's any more
/// and those that are passed over as damaged already.
fn copies_hit(hit: &[&Arrival], of: Option<usize>) -> String {
    let Some(newest) = hit.last() else { return "no copy refers to them".to_string() };
    let ids: Vec<String> = hit.iter().rev().take(NAMED_MAX).map(|arrival| arrival.id.short()).collect();
    let which = match of {
        Some(of) => format!("{} of {of} copies", hit.len()),
        None => format!("{} copies that no asset's recovery relies on any more", hit.len()),
    };
    format!(
        "{which} can't be restored whole, the newest of them received {} ({}{})",
        newest.received_at.strftime("%Y-%m-%d %H:%M:%SZ"),
        ids.join(", "),
        if hit.len() > NAMED_MAX { ", …" } else { "" }
    )
}

fn damage_text(state: &UpkeepState, copies: &str) -> String {
    format!(
        "{} stored pack(s) are DAMAGED: {}; {copies}; nothing is repaired by itself: look at the disk, then `levee vault \
         repair packs` lets the next copy store anew what is lost and still there at the source",
        state.damaged.len(),
        name_packs(&state.damaged)
    )
}

/// What to say of damaged packs that no index names. A few are left by a repair, and go unsaid.
fn unindexed_text(damaged: &[DamagedPack]) -> Option<String> {
    (damaged.len() >= UNINDEXED_MIN).then(|| {
        format!(
            "{} stored packs that no index names are DAMAGED: {}; no copy relies on them, and the next prune takes them away; \
             unless a repair has taken that many out of the index, see what the writers send, and over what link",
            damaged.len(),
            name_packs(damaged)
        )
    })
}

fn pack_path(repository: &Path, pack: &Id) -> PathBuf {
    let name = pack.to_string();
    repository.join("data").join(&name[..2]).join(&name)
}

/// What was just written lies in memory, and reading it from there says nothing about the disk.
pub fn drop_from_memory(path: &Path) {
    if let Ok(file) = File::open(path) {
        // It helps nobody to hear that it can't be done here.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn pack(stored_at: i64, verified: bool, damaged: bool) -> PackAge {
        PackAge {
            id: Id::of(&stored_at.to_le_bytes()),
            bytes: 1,
            stored_at: at(stored_at),
            verified_at: verified.then(|| at(500)),
            damaged_at: damaged.then(|| at(500)),
        }
    }

    #[test]
    fn what_is_verified_ends_before_the_first_pack_that_was_never_read() {
        let check = |packs: Vec<PackAge>, moved: Option<(i64, Option<i64>)>, expected: Timestamp| {
            let packs = packs.into_iter().map(|pack| (pack.id, pack)).collect();
            let listing = Listing { at: at(1000), next: Instant::now(), packs };
            let state = UpkeepState {
                moved_from: moved.map(|(from, _)| at(from)),
                moved_until: moved.and_then(|(_, until)| until.map(at)),
                ..UpkeepState::default()
            };
            assert_eq!(verified_through(&listing, &state), expected);
        };
        check(vec![], None, at(1000));
        check(vec![pack(10, true, false), pack(20, true, false)], None, at(1000));
        check(vec![pack(10, true, false), pack(20, false, false), pack(30, false, false)], None, at(20));
        check(vec![pack(10, false, true), pack(20, true, false)], None, at(1000));
        // A prune that has moved old data, or one that a crash has ended.
        check(vec![pack(20, false, false)], Some((15, Some(25))), Timestamp::MIN);
        check(vec![pack(20, false, false)], Some((15, None)), Timestamp::MIN);
        check(vec![pack(30, false, false)], Some((15, Some(25))), at(30));
    }

    #[test]
    fn much_damage_that_no_index_names_is_said() {
        let damaged = |count: usize| -> Vec<DamagedPack> {
            let pack =
                |number: usize| DamagedPack { pack: number.to_string(), at: at(0), problem: "it is junk".into() };
            (0..count).map(pack).collect()
        };
        assert_eq!(unindexed_text(&damaged(UNINDEXED_MIN - 1)), None);
        let said = unindexed_text(&damaged(UNINDEXED_MIN)).unwrap();
        assert!(said.starts_with("16 stored packs that no index names") && said.contains("it is junk"), "{said}");
    }

    #[test]
    fn the_newest_verified_copy_is_known_until_there_is_a_newer_one_or_it_is_damaged() {
        let arrival = |number: i64| {
            let id = SnapshotId(Id::of(&number.to_le_bytes()));
            Arrival { id, received_at: at(number), writer: "e1".into() }
        };
        let arrivals = [10, 20, 30].map(arrival);
        let id = |number: i64| arrival(number).id;
        let check = |known: Option<i64>, through: i64, hit: &[i64], expected: Option<i64>| {
            let (of_asset, all): (Vec<&Arrival>, Vec<SnapshotId>) =
                arrivals.iter().map(|arrival| (arrival, arrival.id)).unzip();
            let is_whole = |copy: &SnapshotId| !hit.iter().any(|number| id(*number) == *copy);
            let found = newest_verified(&of_asset, &all, known.map(id), at(through), is_whole);
            assert_eq!(found, expected.map(id), "{known:?} {through} {hit:?}");
        };
        check(None, 5, &[], None);
        check(None, 25, &[], Some(20));
        check(Some(20), 35, &[], Some(30));
        // Its data were moved, and are not read again yet.
        check(Some(20), 5, &[], Some(20));
        check(Some(20), 15, &[], Some(20));
        check(Some(30), 35, &[20, 30], Some(10));
        check(Some(20), 5, &[20], None);
        check(Some(40), 5, &[], None);
    }
}
