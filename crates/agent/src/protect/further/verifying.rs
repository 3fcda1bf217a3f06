//! Reading again what lies in a further vault, where the protection file asks for it. A copy that damage hits counts no more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_model::control::Failure;
use levee_model::protection::{Period, Upkeep};
use levee_store::FileType;
use levee_vault::reread::PackAge;
use levee_vault::{Id, SnapshotId, Vault};

use super::super::upkeep::again::{self, Allowance, Found, Stored};
use super::super::upkeep::record::Record;
use super::super::upkeep::state::{DamagedPack, name_packs, note_pack, pack_ids};
use super::place::Place;
use super::state::FurtherState;
use super::{Further, There};

/// How long packs are read before copies have their turn again.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Listing a large repository takes a while: it is done anew after so many times as long.
const LISTING_SHARE: u32 = 50;
const LIST_AGAIN_MIN: Duration = Duration::from_secs(4);
/// Looking for what damage hits reads directories over the network: so too after so many times as long.
const LOOKING_SHARE: u32 = 20;
pub const HIT_AGAIN_MIN: Duration = Duration::from_secs(10);

/// What is known of the packs there.
pub struct Verifying {
    record: Record,
    packs: BTreeMap<Id, PackAge>,
    list_again_at: Instant,
    look_again_at: Instant,
    /// Something was found since the last look at what damage hits.
    has_news: bool,
}

struct Packs<'a> {
    place: &'a Place<'a>,
    vault: &'a Vault,
    packs: &'a mut BTreeMap<Id, PackAge>,
    damaged: &'a mut Vec<DamagedPack>,
    has_news: &'a mut bool,
}

impl Stored for Packs<'_> {
    fn ages(&self) -> Vec<PackAge> {
        self.packs.values().cloned().collect()
    }

    fn read(&mut self, id: &Id) -> Result<Found, Failure> {
        let read = self.vault.reread(id).map_err(|error| self.place.failure("read again what is in", &error))?;
        Ok(read.into())
    }

    fn note(&mut self, id: &Id, at: Timestamp, problem: Option<String>) {
        if let Some(problem) = &problem {
            tracing::error!(app = %self.place.app.name, vault = %self.place.name, pack = %id, problem,
                "data in a further vault are damaged");
        }
        if let Some(age) = self.packs.get_mut(id) {
            again::note(age, at, problem.as_deref());
        }
        let before = self.damaged.len();
        *self.has_news |= problem.is_some();
        note_pack(self.damaged, id, at, problem);
        *self.has_news |= self.damaged.len() != before;
    }
}

impl Verifying {
    /// Has it looked at the next turn what damage hits.
    pub fn look_soon(&mut self) {
        self.has_news = true;
    }

    fn begin(place: &Place<'_>) -> Result<Self, Failure> {
        let record = Record::open(place.app.folder.further(place.name).join("rereads"))?;
        let now = Instant::now();
        Ok(Self { record, packs: BTreeMap::new(), list_again_at: now, look_again_at: now, has_news: true })
    }

    fn list(&mut self, place: &Place<'_>, vault: &Vault, state: &mut FurtherState) -> Result<(), Failure> {
        if Instant::now() < self.list_again_at {
            return Ok(());
        }
        let (begun, now) = (Instant::now(), Timestamp::now());
        let listed = vault.list_packs().map_err(|error| place.failure("list what is in", &error))?;
        let mut before = std::mem::take(&mut self.packs);
        for (id, bytes) in listed {
            // When it was stored, that place need not say.
            let stored_at = before.remove(&id).map_or(now, |known| known.stored_at);
            let name = id.to_string();
            let damaged_at = state.damaged.iter().find(|damaged| damaged.pack == name).map(|damaged| damaged.at);
            let verified_at = self.record.read_at(&id);
            self.packs.insert(id, PackAge { id, bytes, stored_at, verified_at, damaged_at });
        }
        let there: BTreeSet<Id> = self.packs.keys().copied().collect();
        self.record.retain(&there)?;
        let damaged = state.damaged.len();
        state.damaged.retain(|damaged| damaged.pack.parse().is_ok_and(|id: Id| there.contains(&id)));
        self.has_news |= state.damaged.len() != damaged;
        self.list_again_at = Instant::now() + (begun.elapsed() * LISTING_SHARE).max(LIST_AGAIN_MIN);
        Ok(())
    }
}

impl Further<'_> {
    /// Reads for a while what is due there, and looks what damage hits.
    pub fn verify(
        &mut self,
        there: &There,
        upkeep: &Upkeep,
        within: Period,
        state: &mut FurtherState,
    ) -> Result<(), Failure> {
        let verifying = match &mut self.verifying {
            Some(verifying) => verifying,
            None => self.verifying.insert(Verifying::begin(&self.place)?),
        };
        verifying.list(&self.place, &there.vault, state)?;
        let Verifying { record, packs, has_news, .. } = verifying;
        let (place, vault, damaged) = (&self.place, &there.vault, &mut state.damaged);
        let mut packs = Packs { place, vault, packs, damaged, has_news };
        allowance(upkeep, within).read_due(&mut packs, record, self.stop)?;
        // New copies may rely on what is damaged as well.
        let has_damage = !state.damaged.is_empty() || !state.hit.is_empty();
        let looks_again = has_damage && Instant::now() >= verifying.look_again_at;
        if !self.stop.is_stopped() && (std::mem::take(&mut verifying.has_news) || looks_again) {
            let begun = Instant::now();
            self.look_at_damage(there, state)?;
            let pause = (begun.elapsed() * LOOKING_SHARE).max(HIT_AGAIN_MIN);
            self.verifying.iter_mut().for_each(|verifying| verifying.look_again_at = Instant::now() + pause);
        }
        Ok(())
    }

    /// An error when not everything there is read within the time that is asked for, or can't be.
    pub fn verified_in_time(&self, upkeep: &Upkeep, within: Period) -> Result<(), Failure> {
        let ages: Vec<PackAge> =
            self.verifying.iter().flat_map(|verifying| verifying.packs.values().cloned()).collect();
        allowance(upkeep, within).in_time(&format!("packs in vault {}", self.name), &ages)
    }

    /// Which copies can't be restored whole. What a repair there has taken out of the index is to be brought anew from here:
    /// that is a copy as any other, with its turn and the operator's commands around it.
    fn look_at_damage(&mut self, there: &There, state: &mut FurtherState) -> Result<(), Failure> {
        let cannot = |error: levee_vault::Error| self.place.failure("say what the damage hits in", &error);
        let damaged = pack_ids(&state.damaged);
        let listed = there.vault.list_snapshots().map_err(cannot)?;
        let all: Vec<SnapshotId> = listed.or_warn().into_iter().map(|(id, _)| id).collect();
        let mut hit: BTreeSet<SnapshotId> = match damaged.is_empty() {
            true => BTreeSet::new(),
            false => there.vault.snapshots_hit(&all, &damaged).map_err(cannot)?.into_iter().collect(),
        };
        // Also what is hit now: once a repair has taken its blobs out of the index, the damaged pack itself may stand there for
        // a day and more until a prune deletes it.
        let may_lack = all.into_iter().filter(|copy| state.hit.contains(copy) || hit.contains(copy));
        let mut to_mend = BTreeSet::new();
        for copy in may_lack.collect::<Vec<_>>() {
            if !self.is_whole(there, &copy)? {
                to_mend.extend(self.kept_here(there, &copy));
                hit.insert(copy);
            }
        }
        let is_indexed = !damaged.is_empty() && there.vault.any_indexed(&damaged).map_err(cannot)?;
        // What was taken out of the index is not relied on, and goes with the next prune.
        state.clearing.unpruned |= !damaged.is_empty() && !is_indexed;
        self.damage = match is_indexed {
            true => Some(self.damage_text(&state.damaged, hit.len())),
            false => self.lack_text(to_mend.len(), hit.len() - to_mend.len()),
        };
        self.not_mended.look(&damaged, &to_mend);
        self.to_mend = to_mend;
        if state.hit != hit {
            // What is said of databases there is found out anew; of folders it is at each turn.
            self.copied_log_at.keys().for_each(|asset| drop(state.points.remove(asset)));
            self.copied_log_at.clear();
            state.hit = hit;
        }
        Ok(())
    }

    /// Whether a copy that was hit can be restored whole.
    fn is_whole(&self, there: &There, copy: &SnapshotId) -> Result<bool, Failure> {
        match there.vault.open_snapshot(copy) {
            Ok(()) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(self.place.failure("open what lies in", &error)),
        }
    }

    /// What this site has of which that is a copy.
    fn kept_here(&self, there: &There, copy: &SnapshotId) -> Option<SnapshotId> {
        let (id, _) = there.snapshots.iter().find(|(_, known)| *known == copy)?;
        let kept = self.app.copies.store().size_bytes(FileType::Snapshot, &id.to_string());
        kept.is_ok().then_some(*id)
    }

    /// What copies lack that no damaged pack is to blame for any more: of so many this site has it, of so many it has not.
    fn lack_text(&self, to_mend: usize, lost: usize) -> Option<String> {
        let name = self.name;
        let waits = (to_mend > 0).then(|| {
            format!(
                "{to_mend} copies in vault {name} lack what was damaged there, and count again once this site has brought it anew"
            )
        });
        let lost = (lost > 0).then(|| {
            format!(
                "{lost} copies in vault {name} lack what was damaged there, and what this site has no more; they count no more, \
                 and go with their time"
            )
        });
        waits.into_iter().chain(lost).reduce(|first, second| format!("{first}; {second}"))
    }

    fn damage_text(&self, damaged: &[DamagedPack], hit: usize) -> String {
        let address = self.spec.address.as_str().trim_end_matches('/');
        let (app, site) = (&self.app.name, &self.app.context.site);
        format!(
            "{} pack(s) in vault {} are DAMAGED: {}; {hit} copies there can't be restored whole, and count no more; nothing is \
             repaired by itself: `levee vault --vault {address}/{app}/{site} repair packs` takes what is lost out of the index, and \
             what this site still has is brought anew",
            damaged.len(),
            self.name,
            name_packs(damaged),
        )
    }

    /// Whether damage hits a copy that was just stored.
    pub fn is_hit(&self, there: &There, copy: &SnapshotId, state: &mut FurtherState) -> Result<bool, Failure> {
        if state.damaged.is_empty() {
            return Ok(false);
        }
        let damaged = pack_ids(&state.damaged);
        let hit = there.vault.snapshots_hit(&[*copy], &damaged);
        let hit = hit.map_err(|error| self.place.failure("say what the damage hits in", &error))?;
        state.hit.extend(hit.iter().copied());
        Ok(!hit.is_empty())
    }
}

fn allowance(upkeep: &Upkeep, within: Period) -> Allowance {
    Allowance { within, bytes_per_second: upkeep.verify_bytes_per_second(), turn_max: TURN_MAX }
}
