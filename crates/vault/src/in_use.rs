//! Which packs hold something that a snapshot refers to, and renewing object lock on what is in use.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use levee_store::FileType;

use crate::blob_table::Flag;
use crate::parallel::parallel_map;
use crate::problem::with_sources;
use crate::reach::Reach;
use crate::vault::{Patience, look_while_index_files_go};
use crate::{BlobKind, Id, Result, Vault};

/// Files on which a lock is renewed at once; each is a round trip or two and nothing else.
const RENEWALS_AT_ONCE: usize = 8;
/// Failures that are kept. They are mostly one and the same.
const FAILURES_MAX: usize = 20;
/// So many in a row that could not be reached, each tried again for minutes: it is the store, and not these files.
const UNREACHABLE_MAX: usize = RENEWALS_AT_ONCE;

/// What an object lock is to be renewed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToRetain {
    /// Packs come last: an index or a snapshot without a retention is worth less than they are.
    pub files: Vec<(FileType, String)>,
    /// Packs that no snapshot refers to: their retention runs out, and a prune can free them.
    pub packs_left: u64,
    /// What keeps from knowing which packs are in use. Then all of them are among the files: the lock on what is in use must
    /// not run out because somebody has added a file that can't be read. It is to be told once they are renewed.
    pub damage: Option<String>,
    /// Packs in use that are not there, by name: lost, or hidden in a bucket that keeps versions. By their names nothing can be
    /// locked of them, and what lies hidden can be removed for good once its lock has run out.
    pub missing: Vec<String>,
}

/// What came of renewing object lock on many files.
#[derive(Debug, Default)]
pub struct Renewed {
    pub files: u64,
    pub failed: u64,
    pub first_failures: Vec<levee_store::Error>,
    /// Files that were left alone because the store itself, and not one of its files, had failed, or because it was to end.
    pub not_tried: u64,
}

/// A renewal that is under way.
#[derive(Default)]
struct Renewing {
    renewed: Renewed,
    unreachable_in_a_row: usize,
    is_over: bool,
}

impl ToRetain {
    /// Renews the lock on every file by `retain`: some at once, packs last. A file that fails holds no other up.
    pub fn renew(&self, retain: impl Fn(FileType, &str) -> levee_store::Result<()> + Sync) -> Renewed {
        self.renew_while(|| true, retain)
    }

    /// The same as long as `goes_on` says so: it is asked before each file.
    pub fn renew_while(
        &self,
        goes_on: impl Fn() -> bool + Sync,
        retain: impl Fn(FileType, &str) -> levee_store::Result<()> + Sync,
    ) -> Renewed {
        let renewing = Mutex::new(Renewing::default());
        let under_way = || renewing.lock().unwrap_or_else(PoisonError::into_inner);
        parallel_map(RENEWALS_AT_ONCE, &self.files, |(file_type, name)| {
            if under_way().goes_on(&goes_on) {
                let result = retain(*file_type, name);
                under_way().count(result);
            }
        });
        renewing.into_inner().unwrap_or_else(PoisonError::into_inner).renewed
    }
}

impl Renewing {
    /// Whether one more file is to be tried; it counts as left alone if not.
    fn goes_on(&mut self, goes_on: impl Fn() -> bool) -> bool {
        self.is_over |= !goes_on();
        if self.is_over {
            self.renewed.not_tried += 1;
        }
        !self.is_over
    }

    fn count(&mut self, result: levee_store::Result<()>) {
        use levee_store::Error;

        match &result {
            Err(Error::Unreachable { .. }) => {
                self.unreachable_in_a_row += 1;
                self.is_over |= self.unreachable_in_a_row >= UNREACHABLE_MAX;
            }
            // These answers are about one file.
            Ok(())
            | Err(Error::NotFound { .. } | Error::Denied { .. } | Error::Damaged { .. } | Error::Frozen { .. }) => {
                self.unreachable_in_a_row = 0;
            }
            Err(_) => self.is_over = true,
        }
        let error = match result {
            Ok(()) => return self.renewed.files += 1,
            // Removed since the listing, as unlocked versions may be.
            Err(Error::NotFound { .. }) => return,
            Err(error) => error,
        };
        self.renewed.failed += 1;
        if self.renewed.first_failures.len() < FAILURES_MAX {
            self.renewed.first_failures.push(error);
        }
    }
}

impl Vault {
    /// Every file that this repository needs, lock files aside; every file at all when damage hides which ones those are.
    pub fn files_to_retain(&self) -> Result<ToRetain> {
        let (in_use, damage) = match self.packs_in_use() {
            Ok(in_use) => (Some(in_use), None),
            Err(error) if error.is_damage() => (None, Some(with_sources(&error))),
            Err(error) => return Err(error),
        };
        let mut to_retain = ToRetain { damage, ..ToRetain::default() };
        let is_in_use = |name: &str| match &in_use {
            Some(in_use) => name.parse().is_ok_and(|id| in_use.contains(&id)),
            None => true,
        };
        for file_type in [FileType::Config, FileType::Key, FileType::Snapshot, FileType::Index, FileType::Data] {
            for entry in self.store().list(file_type)? {
                match file_type != FileType::Data || is_in_use(&entry.name) {
                    true => to_retain.files.push((file_type, entry.name)),
                    false => to_retain.packs_left += 1,
                }
            }
        }
        if let Some(in_use) = &in_use {
            self.ask_for_unlisted(in_use, &mut to_retain)?;
        }
        Ok(to_retain)
    }

    /// Asks by name for packs in use that no list names: what is hidden behind a marker is in none, and to go by the list
    /// would be to let it go. One that is there was written since, or the list was late; it is retained as the others are.
    fn ask_for_unlisted(&self, in_use: &BTreeSet<Id>, to_retain: &mut ToRetain) -> Result<()> {
        let packs = to_retain.files.iter().filter(|(file_type, _)| *file_type == FileType::Data);
        let listed: BTreeSet<Id> = packs.filter_map(|(_, name)| name.parse().ok()).collect();
        let unlisted: Vec<Id> = in_use.difference(&listed).copied().collect();
        let there: BTreeSet<Id> = self.stored_among(FileType::Data, &unlisted)?.into_iter().collect();
        to_retain.files.extend(there.iter().map(|pack| (FileType::Data, pack.to_hex())));
        let gone: BTreeSet<Id> = unlisted.into_iter().filter(|pack| !there.contains(pack)).collect();
        // A prune may have taken some out of the index since.
        to_retain.missing = self.indexed_among(&gone)?.iter().map(Id::to_hex).collect();
        Ok(())
    }

    /// Those of some packs that an index file names now.
    fn indexed_among(&self, packs: &BTreeSet<Id>) -> Result<BTreeSet<Id>> {
        if packs.is_empty() {
            return Ok(BTreeSet::new());
        }
        look_while_index_files_go(|| {
            let mut found = BTreeSet::new();
            self.scan_index(&self.list_index_files_to_rely_on()?, |_, file| {
                found.extend(file.packs.iter().map(|(pack, _)| *pack).filter(|pack| packs.contains(pack)));
                Ok(())
            })?;
            Ok(found)
        })
    }

    /// The packs that hold a blob which a snapshot refers to; of a blob that stands in several, each of them.
    pub fn packs_in_use(&self) -> Result<BTreeSet<Id>> {
        look_while_index_files_go(|| self.look_for_packs_in_use())
    }

    fn look_for_packs_in_use(&self) -> Result<BTreeSet<Id>> {
        // Snapshots before the index: what a snapshot names was indexed before it was written.
        let roots = self.snapshots()?.into_iter().map(|(id, snapshot)| {
            let tree = snapshot.tree;
            tree.ok_or_else(|| self.damaged(FileType::Snapshot, &id.0.to_hex(), "it names no tree"))
        });
        let roots: Vec<(BlobKind, Id)> = roots.map(|tree| Ok((BlobKind::Tree, tree?))).collect::<Result<_>>()?;
        let mut reach = Reach::load(self, |_, _| ())?;
        let missing = reach.mark_patiently(&roots, &mut Patience::default(), |_, _| (), |_, _| ())?;
        if let Some(error) = missing.first(self) {
            return Err(error);
        }
        let mut in_use = BTreeSet::new();
        let files: Vec<Id> = reach.index_files.iter().copied().collect();
        self.scan_index(&files, |_, file| {
            for (pack, blobs) in &file.packs {
                let is_used = |place| reach.table.is(place, Flag::Used);
                if blobs.iter().any(|blob| reach.table.find(blob.kind, &blob.id).is_some_and(is_used)) {
                    in_use.insert(*pack);
                }
            }
            Ok(())
        })?;
        Ok(in_use)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use std::path::Path;
    use std::sync::Arc;

    use jiff::Timestamp;
    use levee_store::{Error, LocalStore, Store, content_name};

    use super::*;
    use crate::{Chunking, NodeMeta, Password, SnapshotOptions, SnapshotWriter};

    const FILES: u64 = 1000;

    /// Renews on files that are called by their numbers, of which these fail.
    fn renew(failure: impl Fn(u64) -> Option<Error> + Sync) -> Renewed {
        let files = (0..FILES).map(|number| (FileType::Data, number.to_string())).collect();
        ToRetain { files, ..ToRetain::default() }.renew(|file_type, name| {
            assert_eq!(file_type, FileType::Data);
            failure(name.parse().unwrap()).map_or(Ok(()), Err)
        })
    }

    fn denied() -> Error {
        let (location, name, reason) = (String::new(), String::new(), "AccessDenied".to_string());
        Error::Denied { location, action: "retain", file_type: FileType::Data, name, reason }
    }

    fn unreachable() -> Error {
        let (location, name, reason) = (String::new(), String::new(), "timed out".to_string());
        Error::Unreachable { location, action: "retain", file_type: FileType::Data, name, reason }
    }

    fn counts(renewed: &Renewed) -> (u64, u64, usize, u64) {
        (renewed.files, renewed.failed, renewed.first_failures.len(), renewed.not_tried)
    }

    #[test]
    fn a_file_that_fails_holds_no_other_up() {
        assert_eq!(counts(&renew(|_| None)), (FILES, 0, 0, 0));
        assert_eq!(counts(&renew(|number| (number % 100 == 7).then(denied))), (FILES - 10, 10, 10, 0));
        // Where each is refused each is asked for, and some of the answers are kept.
        assert_eq!(counts(&renew(|_| Some(denied()))), (0, FILES, FAILURES_MAX, 0));
        // What was removed meanwhile is neither renewed nor a failure.
        let removed = || Error::NotFound { location: String::new(), file_type: FileType::Data, name: String::new() };
        assert_eq!(counts(&renew(|number| (number == 3).then(removed))), (FILES - 1, 0, 0, 0));
        // A slow part of the service: no more than seven can be in a row.
        assert_eq!(counts(&renew(|number| (number < 7).then(unreachable))), (FILES - 7, 7, 7, 0));
    }

    #[test]
    fn a_store_that_is_out_of_reach_or_refuses_the_credentials_is_not_asked_for_each_file() {
        let refused = || Error::Unauthorized { location: String::new(), reason: "expired".into() };
        let ended = [renew(|_| Some(unreachable())), renew(|_| Some(refused()))];
        for (renewed, failed_least) in ended.iter().zip([UNREACHABLE_MAX as u64, 1]) {
            assert_eq!(renewed.failed + renewed.not_tried, FILES, "{renewed:?}");
            // Those that were under way come on top.
            let failed_most = failed_least + RENEWALS_AT_ONCE as u64;
            assert!((failed_least..failed_most).contains(&renewed.failed), "{renewed:?}");
        }
    }

    #[test]
    fn damage_has_all_packs_renewed_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::new(folder.path()));
        let vault = Vault::init(store.clone(), &Password::new("password")).unwrap();
        let back_up = |content: &[u8]| {
            let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default()).unwrap();
            let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
            writer.file(Path::new("file"), &meta, &mut &content[..], Chunking::Content).unwrap();
            writer.finish().unwrap().snapshot_id.unwrap()
        };
        let gone = back_up(b"one");
        back_up(b"two");
        vault.remove_snapshot(&gone).unwrap();
        let sound = vault.files_to_retain().unwrap();
        assert_eq!((sound.packs_left, &sound.damage), (2, &None));
        // Whoever may only add to the repository can add such files.
        for file_type in [FileType::Snapshot, FileType::Index] {
            let name = content_name(b"junk");
            store.write(file_type, &name, b"junk").unwrap();
            let all = vault.files_to_retain().unwrap();
            assert_eq!(all.packs_left, 0);
            assert!(sound.files.iter().all(|file| all.files.contains(file)));
            // The two packs that were left, and the junk itself.
            assert_eq!(all.files.len(), sound.files.len() + 3);
            assert!(all.damage.is_some_and(|damage| damage.contains(&name)));
            store.remove(file_type, &name).unwrap();
        }
        // An index entry of a snapshot in use is gone altogether.
        for entry in store.list(FileType::Index).unwrap() {
            store.remove(FileType::Index, &entry.name).unwrap();
        }
        let vault = Vault::open_with_master_key(store, vault.master_key().clone()).unwrap();
        let all = vault.files_to_retain().unwrap();
        assert!(all.packs_left == 0 && all.damage.is_some_and(|damage| damage.contains("is not in the index")));
    }

    #[test]
    fn a_pack_in_use_that_no_list_names_is_asked_for_and_named() {
        /// Whose listings lack packs.
        struct Listing {
            store: LocalStore,
            late: Mutex<BTreeSet<String>>,
        }

        impl Store for Listing {
            levee_store::forward!(store: create, write, read, read_range, size_bytes, remove, location);

            fn list(&self, file_type: FileType) -> levee_store::Result<Vec<levee_store::Entry>> {
                let mut listed = self.store.list(file_type)?;
                listed.retain(|entry| !self.late.lock().unwrap().contains(&entry.name));
                Ok(listed)
            }
        }

        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Listing { store: LocalStore::new(folder.path()), late: Mutex::default() });
        let vault = Vault::init(store.clone(), &Password::new("password")).unwrap();
        let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default()).unwrap();
        let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
        writer.file(Path::new("file"), &meta, &mut &b"content"[..], Chunking::Content).unwrap();
        let snapshot = writer.finish().unwrap().snapshot_id.unwrap();
        let before = vault.files_to_retain().unwrap();
        assert!(before.missing.is_empty());
        let content = Id::of(b"content");
        let pack = vault.blob_location(BlobKind::Data, &content).unwrap().pack.to_hex();
        // The list is late.
        store.late.lock().unwrap().insert(pack.clone());
        let late = vault.files_to_retain().unwrap();
        assert!(late.missing.is_empty() && late.files.len() == before.files.len());
        assert!(late.files.contains(&(FileType::Data, pack.clone())));
        // Somebody has hidden it: nothing else lacks its renewal for that.
        store.remove(FileType::Data, &pack).unwrap();
        let hidden = vault.files_to_retain().unwrap();
        assert_eq!((hidden.missing, hidden.damage), (vec![pack], None));
        assert_eq!(hidden.files.len(), before.files.len() - 1);
        // Nothing refers to it.
        vault.remove_snapshot(&snapshot).unwrap();
        assert_eq!(vault.files_to_retain().unwrap().missing, [] as [&str; 0]);
    }

    #[test]
    fn it_ends_when_it_is_to_end_and_what_was_not_tried_is_counted() {
        const UNTIL: u64 = 100;
        let begun = AtomicU64::new(0);
        let files = (0..FILES).map(|number| (FileType::Data, number.to_string())).collect();
        let renewed = ToRetain { files, ..ToRetain::default() }.renew_while(
            || begun.load(Ordering::SeqCst) < UNTIL,
            |_, _| {
                begun.fetch_add(1, Ordering::SeqCst);
                Ok(())
            },
        );
        assert_eq!((renewed.files + renewed.not_tried, renewed.failed), (FILES, 0), "{renewed:?}");
        // Those that were under way are finished.
        assert!((UNTIL..UNTIL + RENEWALS_AT_ONCE as u64).contains(&renewed.files), "{renewed:?}");
    }
}
