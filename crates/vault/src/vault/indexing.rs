//! Keeping what is known of the repository's index files up to date.

use std::sync::atomic::Ordering;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use levee_store::FileType;

use super::{FETCHES_AT_ONCE, Vault};
use crate::index::{Index, Location};
use crate::index_file::IndexFile;
use crate::parallel::parallel_map;
use crate::{BlobKind, Error, Id, Result, index_file};

/// How often index files are listed anew because one of them had gone, and after how long.
const LISTINGS_MAX: usize = 5;
const LIST_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Carries out a look that lists index files and then reads them; anew when one has gone in between. A prune has put
/// others in its place then, and those come into the list in a moment.
pub(crate) fn look_while_index_files_go<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let mut listings = 1;
    loop {
        match look() {
            Err(Error::Store(levee_store::Error::NotFound { file_type: FileType::Index, .. }))
                if listings < LISTINGS_MAX =>
            {
                std::thread::sleep(LIST_AGAIN_AFTER);
                listings += 1;
            }
            looked => return looked,
        }
    }
}

impl Vault {
    /// Takes in index files that others have written since. Happens by itself after snapshots of others
    /// have been read.
    pub fn refresh_index(&self) -> Result<()> {
        // Before the listing: a snapshot that is read meanwhile asks for another one.
        let was_stale = self.inner.index_is_stale.swap(false, Ordering::SeqCst);
        let refreshed = look_while_index_files_go(|| self.load_new_index_files());
        if refreshed.is_err() && was_stale {
            self.inner.index_is_stale.store(true, Ordering::SeqCst);
        }
        refreshed
    }

    fn load_new_index_files(&self) -> Result<()> {
        let listed = self.list_ids(FileType::Index)?;
        let (unknown, files_have_gone, is_first) = {
            let guard = self.inner.index.read().unwrap_or_else(PoisonError::into_inner);
            let known = guard.as_ref().map(Index::files);
            let is_listed = |file: &Id| listed.binary_search(file).is_ok();
            let files_have_gone = known.is_some_and(|known| !known.iter().all(is_listed));
            let is_unknown = |id: &Id| files_have_gone || known.is_none_or(|known| !known.contains(id));
            let unknown: Vec<Id> = listed.iter().filter(|id| is_unknown(id)).copied().collect();
            (unknown, files_have_gone, known.is_none())
        };
        // Where index files have gone, packs may have gone: the index is made anew, beside the old one. So is the
        // first one, so that nobody takes a part of it for the whole.
        let mut renewed = (files_have_gone || is_first).then(Index::default);
        let scanned = self.scan_index(&unknown, |id, file| {
            match &mut renewed {
                Some(index) => index.load(*id, &file),
                None => self.index_mut().get_or_insert_default().load(*id, &file),
            }
            Ok(())
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
        if let Some(index) = renewed
            && self.index_mut().replace(index).is_some()
        {
            // What was added meanwhile is not in it.
            self.inner.index_is_stale.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Reads index files and hands over one after the other, so that a large index is never in memory as JSON. Whoever
    /// has only listed them does so in `look_while_index_files_go`.
    pub(crate) fn scan_index(&self, files: &[Id], mut visit: impl FnMut(&Id, IndexFile) -> Result<()>) -> Result<()> {
        let load = |id: &Id| {
            let json = self.read_file_json(FileType::Index, id)?;
            index_file::decode(&json).map_err(|reason| self.damaged(FileType::Index, &id.to_hex(), reason))
        };
        for ids in files.chunks(FETCHES_AT_ONCE) {
            for (id, file) in ids.iter().zip(parallel_map(FETCHES_AT_ONCE, ids, load)) {
                visit(id, file?)?;
            }
        }
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
        self.with_index(|index| index.location(kind, id))?.ok_or_else(|| Error::MissingBlob {
            location: self.location(),
            kind,
            id: *id,
        })
    }
}
