//! Which packs hold something that a snapshot refers to, and renewing object lock on what is in use.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use levee_store::FileType;

use crate::blob_table::Flag;
use crate::parallel::parallel_map;
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
    /// Every file that this repository needs, lock files aside.
    pub fn files_to_retain(&self) -> Result<ToRetain> {
        let in_use = self.packs_in_use()?;
        let mut to_retain = ToRetain::default();
        for file_type in [FileType::Config, FileType::Key, FileType::Snapshot, FileType::Index, FileType::Data] {
            for entry in self.store().list(file_type)? {
                let is_needed = file_type != FileType::Data || entry.name.parse().is_ok_and(|id| in_use.contains(&id));
                match is_needed {
                    true => to_retain.files.push((file_type, entry.name)),
                    false => to_retain.packs_left += 1,
                }
            }
        }
        Ok(to_retain)
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

    use levee_store::Error;

    use super::*;

    const FILES: u64 = 1000;

    /// Renews on files that are called by their numbers, of which these fail.
    fn renew(failure: impl Fn(u64) -> Option<Error> + Sync) -> Renewed {
        let files = (0..FILES).map(|number| (FileType::Data, number.to_string())).collect();
        ToRetain { files, packs_left: 0 }.renew(|file_type, name| {
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
    fn it_ends_when_it_is_to_end_and_what_was_not_tried_is_counted() {
        const UNTIL: u64 = 100;
        let begun = AtomicU64::new(0);
        let files = (0..FILES).map(|number| (FileType::Data, number.to_string())).collect();
        let renewed = ToRetain { files, packs_left: 0 }.renew_while(
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
