//! Which packs stay, which go, and which are rewritten.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use levee_store::FileType;
use serde::Serialize;

use super::{MaxUnused, Prune, PruneOptions, StoredPacks};
use crate::blob_table::{BlobTable, Flag, TOUCHED_AT_ONCE};
use crate::pack::{PackedBlob, pack_bytes};
use crate::reach::Reach;
use crate::{BlobKind, Id, Result};

/// What becomes of a pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    #[default]
    Keep,
    /// Its used blobs are written to new packs; then it goes.
    Repack,
    /// Nothing in it is used.
    Remove,
}

/// What is known of one pack that an index names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackFacts {
    pub id: Id,
    pub bytes: u64,
    pub used_bytes: u64,
    pub unused_bytes: u64,
    pub used_blobs: u32,
    pub unused_blobs: u32,
    has_trees: bool,
    has_uncompressed: bool,
    is_surveyed: bool,
    /// It lies in an archive class: reading it takes hours and money, rewriting it frees a few cents.
    is_archived: bool,
    /// Something in it was found damaged, or could not be read: what has a copy elsewhere is never left to this one.
    pub is_doubted: bool,
    pub fate: Fate,
}

impl PackFacts {
    fn new(id: Id) -> Self {
        Self {
            id,
            bytes: 0,
            used_bytes: 0,
            unused_bytes: 0,
            used_blobs: 0,
            unused_blobs: 0,
            has_trees: false,
            has_uncompressed: false,
            is_surveyed: false,
            is_archived: false,
            is_doubted: false,
            fate: Fate::Keep,
        }
    }

    /// As before the survey, but for what is known of the pack as a whole.
    fn forget_survey(&mut self) {
        let Self { id, is_archived, is_doubted, .. } = *self;
        *self = Self { is_archived, is_doubted, ..Self::new(id) };
    }

    /// Counts a blob as used when a snapshot refers to it and no other copy of it was chosen.
    fn count(&mut self, blob: &PackedBlob, table: &mut BlobTable) {
        self.has_trees |= blob.kind == BlobKind::Tree;
        self.has_uncompressed |= blob.uncompressed_length == 0;
        let place = table.find(blob.kind, &blob.id).filter(|place| table.is(*place, Flag::Used));
        if place.is_some_and(|place| table.set(place, Flag::Claimed)) {
            self.used_blobs += 1;
            self.used_bytes += blob.bytes_in_pack();
        } else {
            self.unused_blobs += 1;
            self.unused_bytes += blob.bytes_in_pack();
        }
    }

    /// Bytes that are freed for each that is written again, as something to sort by.
    fn value(&self) -> u64 {
        const SCALE: u64 = 1 << 10;
        self.unused_bytes.saturating_mul(SCALE) / self.used_bytes.max(1)
    }
}

/// All packs that an index names, sorted by id.
#[derive(Default)]
pub(super) struct PackTable {
    packs: Vec<PackFacts>,
    /// Those that stand in more than one index file.
    doubled: Arc<HashSet<Id>>,
}

impl PackTable {
    pub fn new(mut ids: Vec<Id>) -> Self {
        ids.sort_unstable();
        let doubled = ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        ids.dedup();
        Self { packs: ids.into_iter().map(PackFacts::new).collect(), doubled: Arc::new(doubled) }
    }

    pub fn doubled(&self) -> Arc<HashSet<Id>> {
        self.doubled.clone()
    }

    fn position(&self, id: &Id) -> Result<usize, usize> {
        self.packs.binary_search_by_key(id, |pack| pack.id)
    }

    pub fn find(&self, id: &Id) -> Option<&PackFacts> {
        self.position(id).ok().map(|position| &self.packs[position])
    }

    pub fn find_mut(&mut self, id: &Id) -> Option<&mut PackFacts> {
        self.position(id).ok().map(|position| &mut self.packs[position])
    }

    pub fn fate(&self, id: &Id) -> Fate {
        self.find(id).map(|pack| pack.fate).unwrap_or_default()
    }

    /// A pack that an index file names which has come later. A new one stays; one that is known stands in two files now.
    pub fn add(&mut self, id: Id) {
        match self.position(&id) {
            Err(position) => self.packs.insert(position, PackFacts::new(id)),
            Ok(_) => {
                Arc::make_mut(&mut self.doubled).insert(id);
            }
        }
    }

    /// Notes which packs lie in an archive class.
    pub fn note_archived(&mut self, archived: &HashMap<Id, u64>) {
        for pack in self.packs.iter_mut().filter(|pack| archived.contains_key(&pack.id)) {
            pack.is_archived = true;
        }
    }

    /// Notes that a copy in a pack is not to be relied on.
    pub fn doubt(&mut self, pack: &Id) {
        if let Some(facts) = self.find_mut(pack) {
            facts.is_doubted = true;
        }
    }

    /// Makes them ready for another survey.
    pub fn forget_survey(&mut self) {
        self.packs.iter_mut().for_each(PackFacts::forget_survey);
    }

    pub fn iter(&self) -> impl Iterator<Item = &PackFacts> {
        self.packs.iter()
    }

    pub fn going(&self) -> impl Iterator<Item = &PackFacts> {
        self.packs.iter().filter(|pack| pack.fate != Fate::Keep)
    }
}

/// Looks into every pack. Of a blob with several copies one is chosen to count as used, in a pack that has
/// nothing unused if there is one: then what an interrupted prune has written anew counts, and not what it
/// was written from. Packs that are not as long as the index says come late: a copy in them may be none. Those that are
/// known to be damaged come last. What is chosen here is read before another copy goes: see `copies`.
pub(super) fn survey(prune: &mut Prune<'_>) -> Result<()> {
    prune.has_several = prune.reach.table.any(&[Flag::Used, Flag::Several]);
    // (only packs with nothing unused, only packs of the right size, only packs that nothing speaks against)
    let rounds: &[(bool, bool, bool)] = match prune.has_several {
        true => &[(true, true, true), (false, true, true), (false, false, true), (false, false, false)],
        false => &[(false, false, false)],
    };
    for (only_whole, only_sized, only_trusted) in rounds {
        if prune.packs.iter().all(|pack| pack.is_surveyed) {
            break;
        }
        let stored = &prune.stored;
        let index = prune.index();
        let (packs, table) = (&mut prune.packs, &mut prune.reach.table);
        index.run(|file| {
            for (id, blobs) in file {
                let Some(facts) = packs.find_mut(id).filter(|facts| !facts.is_surveyed) else { continue };
                let is_used = |blob: &PackedBlob| {
                    let place = table.find(blob.kind, &blob.id);
                    place.filter(|place| table.is(*place, Flag::Used))
                };
                if *only_trusted && facts.is_doubted {
                    continue;
                }
                if *only_sized && stored.size_bytes(id) != Some(pack_bytes(blobs)) {
                    continue;
                }
                if *only_whole && !blobs.iter().all(|blob| is_used(blob).is_some()) {
                    continue;
                }
                facts.is_surveyed = true;
                facts.bytes = pack_bytes(blobs);
                for group in blobs.chunks(TOUCHED_AT_ONCE) {
                    table.touch(group.iter().map(|blob| &blob.id));
                    group.iter().for_each(|blob| facts.count(blob, table));
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A pack that is named and not there may hold what a snapshot needs: then nothing is removed.
pub(super) fn refuse_missing(prune: &Prune<'_>) -> Result<()> {
    for pack in prune.packs.iter().filter(|pack| pack.used_blobs > 0) {
        if prune.stored.size_bytes(&pack.id).is_none() {
            // It may have come after the packs were listed.
            prune.vault.store().size_bytes(FileType::Data, &pack.id.to_hex())?;
        }
    }
    Ok(())
}

/// What a prune finds, and what it does about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    pub used_blobs: u64,
    pub used_bytes: u64,
    /// Blobs that no snapshot refers to, and second copies.
    pub unused_blobs: u64,
    pub unused_bytes: u64,
    /// Unused bytes that stay, because they lie between used ones and rewriting is not worth it.
    pub unused_bytes_left: u64,
    pub packs_kept: u64,
    /// Packs whose used blobs are written to new ones.
    pub packs_repacked: u64,
    pub repacked_bytes: u64,
    /// Packs that are taken out of the index, the repacked ones included.
    pub packs_removed: u64,
    pub removed_bytes: u64,
}

impl Figures {
    /// What was found, with nothing done about it yet.
    pub(super) fn found_only(self) -> Self {
        Self { packs_kept: 0, packs_repacked: 0, repacked_bytes: 0, packs_removed: 0, removed_bytes: 0, ..self }
    }
}

/// What a prune will do. The packs' fates stand in their table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub figures: Figures,
}

impl Plan {
    pub fn changes_index(&self) -> bool {
        self.figures.packs_removed > 0
    }

    /// Decides every pack's fate, as far as nothing was read for it.
    pub fn make(packs: &mut PackTable, options: &PruneOptions, can_compress: bool) -> Self {
        for pack in &mut packs.packs {
            pack.fate = if pack.used_blobs == 0 { Fate::Remove } else { Fate::Keep };
        }
        if !options.recover_space {
            choose_repacks(packs, options, can_compress);
        }
        Self::of(packs)
    }

    /// What the packs' fates come to.
    pub fn of(packs: &PackTable) -> Self {
        let mut figures = Figures::default();
        for pack in packs.iter() {
            figures.used_blobs += u64::from(pack.used_blobs);
            figures.used_bytes += pack.used_bytes;
            figures.unused_blobs += u64::from(pack.unused_blobs);
            figures.unused_bytes += pack.unused_bytes;
            match pack.fate {
                Fate::Keep => {
                    figures.packs_kept += 1;
                    figures.unused_bytes_left += pack.unused_bytes;
                }
                Fate::Repack => {
                    figures.packs_repacked += 1;
                    figures.repacked_bytes += pack.used_bytes;
                }
                Fate::Remove => {}
            }
            if pack.fate != Fate::Keep {
                figures.packs_removed += 1;
                figures.removed_bytes += pack.bytes;
            }
        }
        Self { figures }
    }
}

fn choose_repacks(packs: &mut PackTable, options: &PruneOptions, can_compress: bool) {
    let used_bytes: u64 = packs.iter().map(|pack| pack.used_bytes).sum();
    let allowed_bytes = match options.max_unused {
        MaxUnused::Bytes(bytes) => bytes,
        MaxUnused::Percent(percent) if percent < 100.0 => (used_bytes as f64 * percent / (100.0 - percent)) as u64,
        MaxUnused::Percent(_) | MaxUnused::Unlimited => u64::MAX,
    };
    let is_small = |pack: &PackFacts| options.repack_smaller_than_bytes.is_some_and(|limit| pack.bytes < limit);
    // One small pack alone is no better rewritten.
    let count_small = |trees| packs.iter().filter(|pack| pack.has_trees == trees && is_small(pack)).count();
    let small_count = [count_small(false), count_small(true)];
    let mut candidates: Vec<usize> = Vec::new();
    for (position, pack) in packs.packs.iter().enumerate() {
        let allowed =
            pack.fate == Fate::Keep && !pack.is_archived && (pack.has_trees || !options.repack_cacheable_only);
        if allowed && (pack.unused_blobs > 0 || is_small(pack) || pack.has_uncompressed) {
            candidates.push(position);
        }
    }
    candidates
        .sort_by_key(|position| std::cmp::Reverse((packs.packs[*position].value(), packs.packs[*position].has_trees)));
    let mut unused_left: u64 = packs.iter().filter(|pack| pack.fate == Fate::Keep).map(|pack| pack.unused_bytes).sum();
    let mut rewritten = 0_u64;
    for position in candidates {
        let pack = &mut packs.packs[position];
        let frees = pack.unused_blobs > 0 && unused_left > allowed_bytes;
        let joins = is_small(pack) && small_count[usize::from(pack.has_trees)] > 1;
        let compresses = options.repack_uncompressed && can_compress && pack.has_uncompressed;
        let fits = options.max_repack_bytes.is_none_or(|limit| rewritten.saturating_add(pack.used_bytes) <= limit);
        if fits && (frees || joins || compresses) {
            pack.fate = Fate::Repack;
            rewritten += pack.used_bytes;
            unused_left -= pack.unused_bytes;
        }
    }
}

/// Notes which blobs stay where they are, because their pack does. One that is too short may not have what it should. Of a
/// blob with several copies an index never decides that: it is noted when a copy that stays was read (`copies`).
pub(super) fn mark_kept(
    reach: &mut Reach<'_>,
    packs: &PackTable,
    stored: &StoredPacks,
    file: &[(Id, Vec<PackedBlob>)],
) {
    let is_short =
        |pack: &Id, blobs: &[PackedBlob]| stored.size_bytes(pack).is_some_and(|size| size < pack_bytes(blobs));
    let stays = |(pack, blobs): &&(Id, Vec<PackedBlob>)| packs.fate(pack) == Fate::Keep && !is_short(pack, blobs);
    for (_, blobs) in file.iter().filter(stays) {
        for blob in blobs {
            let place = reach.table.find(blob.kind, &blob.id);
            if let Some(place) = place.filter(|place| !reach.table.is(*place, Flag::Several)) {
                reach.table.set(place, Flag::Kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(number: u8, used: u64, unused: u64) -> PackFacts {
        let mut facts = PackFacts::new(Id::from_bytes([number; 32]));
        facts.bytes = used + unused;
        facts.used_bytes = used;
        facts.unused_bytes = unused;
        facts.used_blobs = used.min(1) as u32;
        facts.unused_blobs = unused.min(1) as u32;
        facts
    }

    fn fates(options: PruneOptions, packs: &[(u64, u64)]) -> Vec<Fate> {
        let packs = packs.iter().enumerate().map(|(number, (used, unused))| facts(number as u8, *used, *unused));
        let mut table = PackTable { packs: packs.collect(), ..PackTable::default() };
        let plan = Plan::make(&mut table, &options, true);
        assert_eq!(
            plan.figures.used_bytes + plan.figures.unused_bytes,
            table.iter().map(|pack| pack.bytes).sum::<u64>()
        );
        table.iter().map(|pack| pack.fate).collect()
    }

    #[test]
    fn the_most_is_freed_for_the_least_rewritten() {
        use Fate::{Keep, Remove, Repack};
        let packs = [(100, 0), (0, 100), (90, 10), (10, 90), (50, 50)];
        let with = |max_unused, max_repack_bytes| PruneOptions { max_unused, max_repack_bytes, ..Default::default() };
        let check = |options, expected: [Fate; 5]| assert_eq!(fates(options, &packs), expected);
        check(with(MaxUnused::Unlimited, None), [Keep, Remove, Keep, Keep, Keep]);
        check(with(MaxUnused::Bytes(0), None), [Keep, Remove, Repack, Repack, Repack]);
        check(with(MaxUnused::Bytes(60), None), [Keep, Remove, Keep, Repack, Keep]);
        check(with(MaxUnused::Bytes(59), None), [Keep, Remove, Keep, Repack, Repack]);
        check(with(MaxUnused::Bytes(0), Some(60)), [Keep, Remove, Keep, Repack, Repack]);
        check(with(MaxUnused::Bytes(0), Some(0)), [Keep, Remove, Keep, Keep, Keep]);
        // 250 bytes are used: 10 unused ones would be 3.8 per cent, 60 are 19.4 per cent.
        check(with(MaxUnused::Percent(5.0), None), [Keep, Remove, Keep, Repack, Repack]);
        check(with(MaxUnused::Percent(20.0), None), [Keep, Remove, Keep, Repack, Keep]);
        check(with(MaxUnused::Percent(100.0), None), [Keep, Remove, Keep, Keep, Keep]);
    }

    #[test]
    fn packs_in_an_archive_are_not_rewritten() {
        let packs = [facts(0, 10, 90), facts(1, 10, 90), facts(2, 0, 90)];
        let archived = [(packs[0].id, 100), (packs[2].id, 90)].into();
        let mut table = PackTable { packs: packs.to_vec(), ..PackTable::default() };
        table.note_archived(&archived);
        Plan::make(&mut table, &PruneOptions { max_unused: MaxUnused::Bytes(0), ..Default::default() }, true);
        let fates: Vec<Fate> = table.iter().map(|pack| pack.fate).collect();
        assert_eq!(fates, [Fate::Keep, Fate::Repack, Fate::Remove]);
    }

    #[test]
    fn small_packs_are_put_together_when_there_are_several() {
        use Fate::{Keep, Repack};
        let options = PruneOptions {
            repack_smaller_than_bytes: Some(50),
            max_unused: MaxUnused::Unlimited,
            ..Default::default()
        };
        assert_eq!(fates(options.clone(), &[(40, 0), (100, 0)]), [Keep, Keep]);
        assert_eq!(fates(options, &[(40, 0), (100, 0), (30, 0)]), [Repack, Keep, Repack]);
    }
}
