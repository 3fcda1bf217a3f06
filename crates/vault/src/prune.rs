//! Removing data that no snapshot refers to, beside running backups.
//!
//! ```text
//! look     list snapshots, packs and index; walk all snapshots; what is used but in no index, and stands in a
//!          pack that an earlier prune took out of the index, is indexed again
//! plan     which packs stay, which go, and which are rewritten because much of them is unused; of a blob with several
//!          copies, one that stays is read before a pack with another one goes
//! mark     say which packs will go, so that writers of Levee don't rely on them any more
//! repack   used blobs of packs to be rewritten into new packs; then an index of those
//! swap     under an exclusive lock: walk the snapshots that have come meanwhile, keep what they refer to,
//!          take the packs that go out of the index
//! delete   packs that have been in no index for the time of grace
//! ```
//! Only the swap stops others. Every step leaves a sound repository, and what was cut short is done by the
//! next prune. A pack is deleted only when an exclusive lock has shown that it is in no index while nobody
//! else was at work, when a prune saw so a time of grace ago already, and after all snapshots were walked
//! in between.

mod adopt;
mod copies;
#[cfg(test)]
mod forged;
mod index_scan;
#[cfg(test)]
mod lost_lock;
mod marks;
mod plan;
mod recover_space;
mod repack;
mod swap;
mod undelete;

use std::collections::HashSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use levee_store::FileType;
use serde::Serialize;

use crate::blob_table::Flag;
use crate::forgotten::KnownForgotten;
use crate::index_file;
use crate::parallel::parallel_map;
use crate::problem::ProblemLog;
use crate::reach::Reach;
use crate::vault::{Patience, look_while_index_files_go};
use crate::{BlobKind, Error, Id, Lock, LockMode, Problems, Progress, Result, Snapshot, SnapshotId, Vault};
use index_scan::IndexScan;
use marks::KnownMarks;
pub use plan::Figures;
use plan::{PackTable, Plan};
pub use undelete::{ForgottenSnapshot, UndeleteOptions, UndeleteReport, list_forgotten, undelete};

/// A day: longer than any clock is wrong, and than a suspended machine sleeps as a rule.
pub const GRACE_DEFAULT: SignedDuration = SignedDuration::from_hours(24);
const DELETIONS_AT_ONCE: usize = 8;
/// So often it is chosen anew which packs stay, after copies were found damaged in those that were to. Then all of what has
/// no sound copy among what stays is kept: whoever adds one pack of noise after the other must not hold a prune up for ever.
const CHOICES_MAX: usize = 8;

/// How much unused data may stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxUnused {
    Bytes(u64),
    /// Of what is stored after the prune, 0 to 100.
    Percent(f64),
    Unlimited,
}

/// What to remove, and how.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    pub max_unused: MaxUnused,
    /// Rewrite packs only up to so many bytes in all.
    pub max_repack_bytes: Option<u64>,
    /// Rewrite only packs of directories, which restic keeps in its cache.
    pub repack_cacheable_only: bool,
    /// Rewrite packs whose blobs are not compressed.
    pub repack_uncompressed: bool,
    /// Put packs smaller than this together.
    pub repack_smaller_than_bytes: Option<u64>,
    /// How long a pack must have been in no index before it is deleted. With zero it goes at once.
    pub grace: SignedDuration,
    /// Free space in a store that is full, without a grace and under an exclusive lock all the time. Nothing is rewritten,
    /// and nothing that was forgotten can be brought back.
    pub recover_space: bool,
    /// Packs that are known to be damaged: where there is another copy of a blob, never theirs is the one to stay.
    pub damaged_packs: HashSet<Id>,
    /// How long to wait for others' locks.
    pub patience: Duration,
    /// Only say what would be done. Copies are read for it as they are by the prune itself.
    pub dry_run: bool,
    /// In a dry run: snapshots that are taken for removed.
    pub without: Vec<SnapshotId>,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            max_unused: MaxUnused::Percent(5.0),
            max_repack_bytes: None,
            repack_cacheable_only: false,
            repack_uncompressed: false,
            repack_smaller_than_bytes: None,
            grace: GRACE_DEFAULT,
            recover_space: false,
            damaged_packs: HashSet::new(),
            patience: Duration::ZERO,
            dry_run: false,
            without: Vec::new(),
        }
    }
}

/// What a prune has done, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    pub snapshots: u64,
    /// What was found, and what was done about it; in a dry run what would be.
    #[serde(flatten)]
    pub figures: Figures,
    /// Packs that were deleted: their time of grace was over.
    pub packs_deleted: u64,
    pub deleted_bytes: u64,
    /// Packs in no index whose time of grace is not over.
    pub packs_waiting: u64,
    pub waiting_bytes: u64,
    /// When the first of them may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_until: Option<Timestamp>,
    /// Packs that were put back into the index, because a snapshot refers to them after all.
    pub packs_readopted: u64,
    /// Packs that could not be read, and were left as they are.
    pub problems: Problems,
}

/// The packs of the store, by name.
pub(crate) struct StoredPacks(Vec<(Id, u64)>);

impl StoredPacks {
    fn list(vault: &Vault) -> Result<Self> {
        let listed = vault.store().list(FileType::Data)?;
        let mut packs: Vec<(Id, u64)> =
            listed.iter().filter_map(|entry| Some((entry.name.parse().ok()?, entry.size_bytes))).collect();
        packs.sort_unstable();
        Ok(Self(packs))
    }

    pub fn size_bytes(&self, pack: &Id) -> Option<u64> {
        let position = self.0.binary_search_by_key(pack, |(id, _)| *id).ok()?;
        Some(self.0[position].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Id, u64)> {
        self.0.iter()
    }
}

type Snapshots = Vec<(SnapshotId, Snapshot)>;

/// A prune under way.
struct Prune<'a> {
    vault: &'a Vault,
    options: &'a PruneOptions,
    now: Timestamp,
    reach: Reach<'a>,
    stored: StoredPacks,
    packs: PackTable,
    marks: KnownMarks,
    forgotten: KnownForgotten,
    /// In a dry run: packs that would be put back into the index.
    adopted_unwritten: index_file::Packs,
    /// At the swap: what snapshots refer to that have come since the first look, and stands in no pack that
    /// stays.
    newly_used: HashSet<(BlobKind, Id)>,
    /// Used blobs of which no copy could be read.
    unsound: HashSet<(BlobKind, Id)>,
    /// Whether any used blob has several copies, as the survey has found.
    has_several: bool,
    /// Snapshots whose trees have been walked.
    walked: HashSet<Id>,
    /// With index files that are in no list yet, before anything counts as missing.
    patience: Patience,
    progress: &'a dyn Progress,
    problems: ProblemLog<'a>,
    report: PruneReport,
}

/// Removes what no snapshot refers to. `now` is compared with the marks of earlier prunes.
pub fn prune(vault: &Vault, options: &PruneOptions, now: Timestamp, progress: &dyn Progress) -> Result<PruneReport> {
    let lock = match options.dry_run {
        true => None,
        false if options.recover_space => Some(Lock::take_within(vault, LockMode::Exclusive, options.patience)?),
        false => Some(Lock::take_within(vault, LockMode::Maintenance, options.patience)?),
    };
    let mut prune = Prune::look(vault, options, now, progress)?;
    let plan = prune.plan()?;
    let Some(lock) = lock else {
        prune.foresee(&plan);
        return Ok(prune.into_report());
    };
    if options.recover_space {
        prune.recover_space(&plan, &lock)?;
        return Ok(prune.into_report());
    }
    if plan.changes_index() {
        prune.mark_leaving()?;
        prune.repack()?;
    }
    let deletions = prune.swap(&lock)?;
    prune.delete(&deletions, &lock)?;
    Ok(prune.into_report())
}

/// Asks for every snapshot that was ever forgotten, as a list may be late about it. One that is still listed, and read from
/// a cache, would lose the record that can bring it back. One that was brought back and is in no list yet would lose its data,
/// whose grace may have been over long before.
fn with_forgotten_as_stored(vault: &Vault, forgotten: &KnownForgotten, mut snapshots: Snapshots) -> Result<Snapshots> {
    let ids: Vec<Id> = forgotten.iter().map(|record| record.id).collect();
    let there = vault.stored_among(FileType::Snapshot, &ids)?;
    snapshots.retain(|(id, _)| !forgotten.knows(&id.0) || there.contains(&id.0));
    let is_listed = |id: &Id| snapshots.iter().any(|(listed, _)| listed.0 == *id);
    let unlisted: Vec<Id> = there.into_iter().filter(|id| !is_listed(id)).collect();
    for id in unlisted {
        snapshots.push(vault.snapshot(&SnapshotId(id))?);
    }
    Ok(snapshots)
}

impl<'a> Prune<'a> {
    fn look(vault: &'a Vault, options: &'a PruneOptions, now: Timestamp, progress: &'a dyn Progress) -> Result<Self> {
        let (mut prune, snapshots) = look_while_index_files_go(|| Self::read(vault, options, now, progress))?;
        let roots = prune.roots(&snapshots)?;
        prune.walk_and_adopt(roots)?;
        Ok(prune)
    }

    /// What snapshots, packs and index files there are.
    fn read(
        vault: &'a Vault,
        options: &'a PruneOptions,
        now: Timestamp,
        progress: &'a dyn Progress,
    ) -> Result<(Self, Snapshots)> {
        // Snapshots, then packs, then the index: what others add meanwhile is then never taken for missing
        // or for unused.
        let snapshots = vault.snapshots()?;
        let stored = StoredPacks::list(vault)?;
        let (mut marks, mut forgotten, mut packs) = (KnownMarks::default(), KnownForgotten::default(), Vec::new());
        let reach = Reach::load(vault, |id, file| {
            marks.take(id, file);
            forgotten.take(id, file);
            packs.extend(file.packs.iter().map(|(pack, _)| *pack));
        })?;
        let mut snapshots = with_forgotten_as_stored(vault, &forgotten, snapshots)?;
        snapshots.retain(|(id, _)| !(options.dry_run && options.without.contains(id)));
        let prune = Self {
            vault,
            options,
            now,
            reach,
            stored,
            packs: PackTable::new(packs),
            marks,
            forgotten,
            adopted_unwritten: Vec::new(),
            newly_used: HashSet::new(),
            unsound: HashSet::new(),
            has_several: false,
            walked: HashSet::new(),
            patience: Patience::default(),
            progress,
            problems: ProblemLog::new(progress),
            report: PruneReport { snapshots: snapshots.len() as u64, ..PruneReport::default() },
        };
        Ok((prune, snapshots))
    }

    /// The trees of snapshots that have not been walked yet.
    fn roots(&mut self, snapshots: &[(SnapshotId, Snapshot)]) -> Result<Vec<(BlobKind, Id)>> {
        let mut roots = Vec::new();
        for (id, snapshot) in snapshots {
            let no_tree = || self.vault.damaged(FileType::Snapshot, &id.0.to_hex(), "it names no tree");
            let tree = snapshot.tree.ok_or_else(no_tree)?;
            if self.walked.insert(id.0) {
                roots.push((BlobKind::Tree, tree));
            }
        }
        Ok(roots)
    }

    /// A look through all index files that are known now.
    fn index(&self) -> IndexScan<'a> {
        let mut files: Vec<Id> = self.reach.index_files.iter().copied().collect();
        files.sort();
        let adopted = self.adopted_unwritten.clone();
        IndexScan { vault: self.vault, files, doubled: self.packs.doubled(), adopted }
    }

    fn plan(&mut self) -> Result<Plan> {
        self.packs.note_archived(&self.vault.archived_packs()?);
        let options = self.options;
        options.damaged_packs.iter().for_each(|pack| self.packs.doubt(pack));
        let mut choices_left = CHOICES_MAX;
        loop {
            plan::survey(self)?;
            plan::refuse_missing(self)?;
            Plan::make(&mut self.packs, options, self.vault.config().can_compress());
            choices_left -= 1;
            let has_doubts = self.prove_copies()?;
            if !has_doubts || choices_left == 0 {
                break;
            }
            self.choose_anew();
        }
        self.keep_unproven()?;
        let plan = Plan::of(&self.packs);
        self.report.figures = plan.figures.found_only();
        Ok(plan)
    }

    /// For a dry run: what the plan would come to.
    fn foresee(&mut self, plan: &Plan) {
        self.report.figures = plan.figures;
        let unindexed = self.unindexed();
        let (due, waiting) = match self.options.recover_space {
            true => (unindexed.into_iter().chain(self.stored_and_going()).collect(), Vec::new()),
            false => self.marks.split_due(&unindexed, self.options.grace, self.now),
        };
        self.report.packs_deleted = due.len() as u64;
        self.report.deleted_bytes = due.iter().filter_map(|pack| self.stored.size_bytes(pack)).sum();
        self.count_waiting(&waiting);
    }

    /// Packs of the store that no index names.
    fn unindexed(&self) -> Vec<Id> {
        self.stored.iter().map(|(pack, _)| *pack).filter(|pack| self.packs.find(pack).is_none()).collect()
    }

    /// Packs of the store that leave the index.
    fn stored_and_going(&self) -> Vec<Id> {
        self.packs.going().map(|pack| pack.id).filter(|pack| self.stored.size_bytes(pack).is_some()).collect()
    }

    fn count_waiting(&mut self, waiting: &[(Id, Timestamp)]) {
        self.report.packs_waiting = waiting.len() as u64;
        self.report.waiting_bytes = waiting.iter().filter_map(|(pack, _)| self.stored.size_bytes(pack)).sum();
        let first = waiting.iter().map(|(_, since)| *since).min();
        self.report.waiting_until = first.and_then(|since| since.checked_add(self.options.grace).ok());
    }

    /// Deletes packs that no index names. The lock is looked at all the time: there may be hours of work.
    fn delete(&mut self, packs: &[Id], lock: &Lock) -> Result<()> {
        let remove = |pack: &Id| match self.vault.store().remove(FileType::Data, &pack.to_hex()) {
            Ok(()) => Ok(true),
            // Removed before, and still listed.
            Err(levee_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(Error::from(error)),
        };
        for group in packs.chunks(DELETIONS_AT_ONCE) {
            lock.check()?;
            for (pack, removed) in group.iter().zip(parallel_map(DELETIONS_AT_ONCE, group, remove)) {
                if removed? {
                    self.report.packs_deleted += 1;
                    self.report.deleted_bytes += self.stored.size_bytes(pack).unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    fn is_kept(&self, kind: BlobKind, id: &Id) -> bool {
        self.reach.table.find(kind, id).is_some_and(|place| self.reach.table.is(place, Flag::Kept))
    }

    fn into_report(self) -> PruneReport {
        self.vault.expect_other_index();
        PruneReport { problems: self.problems.into_problems(), ..self.report }
    }
}
