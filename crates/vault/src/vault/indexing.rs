//! Keeping what is known of the repository's index files up to date.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use levee_store::FileType;

use super::{FETCHES_AT_ONCE, Vault, locked};
use crate::index::{Index, Location};
use crate::index_file::IndexFile;
use crate::parallel::parallel_map;
use crate::problem::with_sources;
use crate::{BlobKind, Error, Id, Result, index_file};

/// How often index files are listed anew because one of them had gone, and after how long.
const LISTINGS_MAX: usize = 5;
const LIST_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// An index file that was gone for so long is left out of the lists that still have it: before the last of the listings.
const LEFT_OUT_AFTER: Duration = Duration::from_millis(LIST_AGAIN_AFTER.as_millis() as u64 * (LISTINGS_MAX as u64 - 1));
/// A blob is waited for no more often, so that what is really lost holds nobody up.
const WAIT_FOR_BLOBS_EVERY: Duration = Duration::from_secs(60);

/// How long something is waited for that may only be missing in a list.
pub(crate) struct Patience {
    listings_left: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self { listings_left: LISTINGS_MAX - 1 }
    }
}

impl Patience {
    /// Waits a moment before another listing; `false`, at once, when there were enough of them.
    pub fn wait(&mut self) -> bool {
        if self.listings_left == 0 {
            return false;
        }
        self.listings_left -= 1;
        std::thread::sleep(LIST_AGAIN_AFTER);
        true
    }
}

fn is_gone_index_file(error: &Error) -> bool {
    matches!(error, Error::Store(levee_store::Error::NotFound { file_type: FileType::Index, .. }))
}

/// Carries out a look that lists index files and then reads them; anew when one has gone in between. A prune has put
/// others in its place then, and those come into the list in a moment.
///
/// Some lists have a removed name for long. The last look goes on without the files that stay gone, by which no more can be
/// missing than by a list that is late: a reader misses a blob, a writer stores it again, and what a prune takes out of the
/// index for it stands for the time of grace, in which the next prune takes it back.
pub(crate) fn look_while_index_files_go<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let mut patience = Patience::default();
    loop {
        match look() {
            Err(error) if is_gone_index_file(&error) && patience.wait() => {}
            looked => return looked,
        }
    }
}

impl Vault {
    /// Takes in index files that others have written since. Happens by itself after snapshots of others
    /// have been read.
    ///
    /// An index file that can't be read is passed over with a warning: a reader may find everything without it, and a
    /// writer stores again what it does not find. Nothing is ever removed, or taken for lost, by what is known so.
    pub fn refresh_index(&self) -> Result<()> {
        // Before the listing: a snapshot that is read meanwhile asks for another one.
        let was_stale = self.inner.index_is_stale.swap(false, Ordering::SeqCst);
        let refreshed = look_while_index_files_go(|| self.load_new_index_files());
        if refreshed.is_err() && was_stale {
            self.inner.index_is_stale.store(true, Ordering::SeqCst);
        }
        refreshed
    }

    /// The same for whoever takes for lost what no index names: only what they all say together.
    ///
    /// # Errors
    /// Also when an index file can't be read.
    pub(crate) fn refresh_whole_index(&self) -> Result<()> {
        locked(&self.inner.damaged_index_files).make_due();
        self.refresh_index()?;
        match self.damaged_index_files().into_iter().next() {
            None => Ok(()),
            Some((file, reason)) => Err(self.damaged(FileType::Index, &file.to_hex(), reason)),
        }
    }

    /// The index files that could not be read when they were last looked at, each with what is wrong with it.
    pub fn damaged_index_files(&self) -> Vec<(Id, String)> {
        locked(&self.inner.damaged_index_files).list()
    }

    fn load_new_index_files(&self) -> Result<()> {
        let known = self.known_index_files();
        let is_first = known.is_none();
        let known = known.unwrap_or_default();
        let listed = self.list_index_files_beside(&known)?;
        let files_have_gone = !known.iter().all(|file| listed.binary_search(file).is_ok());
        let unknown: Vec<Id> = listed.iter().filter(|id| files_have_gone || !known.contains(id)).copied().collect();
        // Where index files have gone, packs may have gone: the index is made anew, beside the old one. So is the
        // first one, so that nobody takes a part of it for the whole.
        let mut renewed = (files_have_gone || is_first).then(Index::default);
        locked(&self.inner.damaged_index_files).keep_only(|id| listed.binary_search(id).is_ok());
        let scanned = self.scan_readable_index(&unknown, |id, file| match &mut renewed {
            Some(index) => index.load(*id, file),
            None => self.index_mut().get_or_insert_default().load(*id, file),
        });
        match &mut renewed {
            Some(index) => index.settle(),
            None => self.index_mut().get_or_insert_default().settle(),
        }
        scanned?;
        if let Some(cache) = self.cache() {
            cache.retain(FileType::Index, |id| listed.binary_search(id).is_ok());
            if let Some(index) = &renewed {
                cache.retain(FileType::Data, |pack| !index.trees_in(pack).is_empty());
            }
        }
        match renewed {
            Some(index) => self.replace_index(index, &known),
            None => Ok(()),
        }
    }

    /// Puts an index in the place of the one in memory. What was added to that meanwhile may be in no list yet.
    fn replace_index(&self, mut index: Index, known: &HashSet<Id>) -> Result<()> {
        loop {
            let added: Vec<Id> = {
                let mut current = self.index_mut();
                let files = current.as_ref().map(Index::files).into_iter().flatten();
                let is_new = |id: &&Id| !known.contains(id) && !index.files().contains(id);
                let added: Vec<Id> = files.filter(is_new).copied().collect();
                if added.is_empty() {
                    *current = Some(index);
                    return Ok(());
                }
                added
            };
            self.scan_index(&added, |id, file| {
                index.load(*id, &file);
                Ok(())
            })?;
            index.settle();
        }
    }

    /// Reads index files and hands over one after the other, so that a large index is never in memory as JSON. Whoever
    /// has only listed them does so in `look_while_index_files_go`.
    pub(crate) fn scan_index(&self, files: &[Id], mut visit: impl FnMut(&Id, IndexFile) -> Result<()>) -> Result<()> {
        self.scan_each(files, |id, file| visit(id, file?))
    }

    /// As `scan_index`, for readers alone: what is damaged is passed over, and not read again for a minute.
    pub(crate) fn scan_readable_index(&self, files: &[Id], mut visit: impl FnMut(&Id, &IndexFile)) -> Result<()> {
        let (now, mut files) = (Instant::now(), files.to_vec());
        files.retain(|id| !locked(&self.inner.damaged_index_files).is_due_later(id, now));
        self.scan_each(&files, |id, file| {
            match file {
                Ok(file) => {
                    locked(&self.inner.damaged_index_files).forget(id);
                    visit(id, &file);
                }
                Err(error) if error.is_damage() && !is_gone_index_file(&error) => self.pass_over(id, &error),
                Err(error) => return Err(error),
            }
            Ok(())
        })
    }

    fn pass_over(&self, file: &Id, error: &Error) {
        let reason = match error {
            Error::Damaged { reason, .. } => reason.clone(),
            error => with_sources(error),
        };
        if locked(&self.inner.damaged_index_files).note(file, &reason, Instant::now()) {
            tracing::warn!(
                "{}: index file {file} is passed over: {reason}; no prune is possible until `levee vault repair index \
                 --apply` has made the index anew",
                self.location()
            );
        }
    }

    fn scan_each(&self, files: &[Id], mut visit: impl FnMut(&Id, Result<IndexFile>) -> Result<()>) -> Result<()> {
        let load = |id: &Id| {
            let json = self.read_file_json(FileType::Index, id)?;
            index_file::decode(&json).map_err(|reason| self.damaged(FileType::Index, &id.to_hex(), reason))
        };
        for ids in files.chunks(FETCHES_AT_ONCE) {
            for (id, file) in ids.iter().zip(parallel_map(FETCHES_AT_ONCE, ids, load)) {
                if file.as_ref().is_err_and(is_gone_index_file) {
                    self.note_gone(files)?;
                }
                visit(id, file)?;
            }
        }
        Ok(())
    }

    /// The index files that are listed and there, for those who read each of them and tell a damaged one from one that was
    /// removed. Where one was removed, the one in its place is waited for.
    pub(crate) fn list_index_files(&self) -> Result<Vec<Id>> {
        let mut patience = Patience::default();
        loop {
            let listed = self.list_ids(FileType::Index)?;
            let there = self.stored_among(FileType::Index, &listed)?;
            if there.len() == listed.len() || !patience.wait() {
                return Ok(there);
            }
        }
    }

    /// The index files for whoever decides by them what is removed or adopted: a removed one that is still listed must not
    /// be read from the cache then.
    pub(crate) fn list_index_files_to_rely_on(&self) -> Result<Vec<Id>> {
        match self.cache() {
            Some(_) => self.list_index_files(),
            // Reading it will say that it is gone.
            None => self.list_ids(FileType::Index),
        }
    }

    /// Removes an index file that others replace; one that is gone is removed. It goes from the cache too, in which it would
    /// seem to be there as long as it is listed: a backup would rely on packs that are in no index any more.
    pub(crate) fn remove_index_file(&self, id: &Id) -> Result<()> {
        match self.store().remove(FileType::Index, &id.to_hex()) {
            Ok(()) | Err(levee_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        locked(&self.inner.asked_index_files).forget(id);
        // Not before: another process would put it back from the store.
        if let Some(cache) = self.cache() {
            cache.remove(FileType::Index, id);
        }
        if let Some(long_ago) = Instant::now().checked_sub(LEFT_OUT_AFTER) {
            locked(&self.inner.gone_index_files).insert(*id, long_ago);
        }
        Ok(())
    }

    /// The index files that are in memory; `None` before the first look.
    fn known_index_files(&self) -> Option<HashSet<Id>> {
        let guard = self.inner.index.read().unwrap_or_else(PoisonError::into_inner);
        guard.as_ref().map(|index| index.files().iter().copied().collect())
    }

    /// The index files of a list, with those that are known and there and in no list yet, such as those that were written
    /// through this vault: by a late list nothing that was known is forgotten.
    ///
    /// Where there is one that neither the memory nor the cache has, others may have put it in the place of what those have:
    /// then each is asked for, if it was not within the last minute. A backup must not rely on packs that are in no index any
    /// more: under a new lock each is asked for anew.
    fn list_index_files_beside(&self, known: &HashSet<Id>) -> Result<Vec<Id>> {
        let listed = self.list_ids(FileType::Index)?;
        let is_passed_over = |id: &Id| locked(&self.inner.damaged_index_files).knows(id);
        let is_cached = |id: &Id| self.cache().is_some_and(|cache| cache.has(FileType::Index, id));
        let is_had = |id: &Id| known.contains(id) || is_passed_over(id) || is_cached(id);
        let (had, new): (Vec<Id>, Vec<Id>) = listed.iter().partition(|id| is_had(id));
        let unlisted = known.iter().filter(|id| listed.binary_search(id).is_err()).copied();
        let now = Instant::now();
        let (due, asked_lately) = locked(&self.inner.asked_index_files).due(had, !new.is_empty(), now);
        let there = self.stored_among(FileType::Index, &due)?;
        locked(&self.inner.asked_index_files).note(&due, &there, now, |id| listed.binary_search(id).is_ok());
        // What is not even listed is always asked for.
        let unlisted = self.stored_among(FileType::Index, &unlisted.collect::<Vec<Id>>())?;
        let mut files = [new, asked_lately, there, unlisted].concat();
        files.sort();
        Ok(files)
    }

    /// Others may have put index files in the place of those that are known here, up to now.
    pub(crate) fn ask_for_index_files_anew(&self) {
        locked(&self.inner.asked_index_files).forget_all();
    }

    /// Notes which of these index files are gone, one of which was found so: there may be many, as after a prune.
    fn note_gone(&self, files: &[Id]) -> Result<()> {
        let there = self.stored_among(FileType::Index, files)?;
        let mut gone = locked(&self.inner.gone_index_files);
        for file in files.iter().filter(|file| !there.contains(file)) {
            locked(&self.inner.asked_index_files).forget(file);
            gone.entry(*file).or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Leaves out of a sorted list what was found gone some time ago and is so still. It is asked for each time: what was
    /// removed from a bucket may be brought back under its name.
    pub(super) fn leave_out_gone(&self, listed: &mut Vec<Id>) -> Result<()> {
        let suspects: Vec<Id> = {
            let mut gone = locked(&self.inner.gone_index_files);
            gone.retain(|id, _| listed.binary_search(id).is_ok());
            gone.iter().filter(|(_, since)| since.elapsed() >= LEFT_OUT_AFTER).map(|(id, _)| *id).collect()
        };
        if suspects.is_empty() {
            return Ok(());
        }
        let there = self.stored_among(FileType::Index, &suspects)?;
        locked(&self.inner.gone_index_files).retain(|id, _| !there.contains(id));
        listed.retain(|id| !suspects.contains(id) || there.contains(id));
        Ok(())
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Option<Index>> {
        self.inner.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index, loaded when it isn't yet.
    fn index(&self) -> Result<RwLockReadGuard<'_, Option<Index>>> {
        let read = || self.inner.index.read().unwrap_or_else(PoisonError::into_inner);
        if self.inner.index_is_stale.load(Ordering::SeqCst) || read().is_none() {
            self.refresh_index()?;
        }
        Ok(read())
    }

    pub(crate) fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> Result<T> {
        match self.index()?.as_ref() {
            Some(index) => Ok(look(index)),
            None => Ok(look(&Index::default())),
        }
    }

    pub(crate) fn add_to_index(&self, file: Id, packs: &index_file::Packs) {
        self.index_mut().get_or_insert_default().add(file, packs);
    }

    /// What is known of the index may no longer be so.
    pub(crate) fn expect_other_index(&self) {
        self.inner.index_is_stale.store(true, Ordering::SeqCst);
    }

    /// Whether a blob need not be stored again: it is there, and not only in packs that a prune is about to
    /// remove.
    pub(crate) fn has_blob_to_stay(&self, kind: BlobKind, id: &Id) -> Result<bool> {
        self.with_index(|index| index.contains_to_stay(kind, id))
    }

    pub(crate) fn blob_location(&self, kind: BlobKind, id: &Id) -> Result<Location> {
        let found = match self.with_index(|index| index.location(kind, id))? {
            None => self.wait_for_blob(kind, id)?,
            found => found,
        };
        found.ok_or_else(|| self.missing_blob(kind, id))
    }

    /// The error of a blob that no index names, with an index file that may name it and can't be read.
    pub(crate) fn missing_blob(&self, kind: BlobKind, id: &Id) -> Error {
        let unread = self.damaged_index_files().into_iter().next();
        let unread_index = unread.map(|(file, reason)| format!("{}/{file} ({reason})", FileType::Index));
        Error::MissingBlob { location: self.location(), kind, id: *id, unread_index }
    }

    /// A blob that a snapshot refers to was indexed before that: an index file that names it may be in no list yet, also one
    /// that a prune has just put in the place of others. Only then is it missing.
    fn wait_for_blob(&self, kind: BlobKind, id: &Id) -> Result<Option<Location>> {
        let mut waited = locked(&self.inner.waited_for_blob);
        let find = || self.with_index(|index| index.location(kind, id));
        // Another thread may have waited for it.
        if let Some(location) = find()? {
            return Ok(Some(location));
        }
        if waited.is_some_and(|at| at.elapsed() < WAIT_FOR_BLOBS_EVERY) {
            return Ok(None);
        }
        let mut patience = Patience::default();
        while patience.wait() {
            self.refresh_index()?;
            if let Some(location) = find()? {
                return Ok(Some(location));
            }
        }
        *waited = Some(Instant::now());
        Ok(None)
    }
}
