//! Which packs are read of an image, found out before one of them is: they may lie in an archive class. Trees and the index
//! say it, and what is in the target is hashed. Nothing here may read a data blob, be it the image's description.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use levee_image::{Change, Target, TargetState};

use super::compare::{self, ZeroBlobs};
use super::layout::{DESCRIPTION_NAME, ImageDirectory, description_file, segment_name};
use super::read::Segment;
use super::restore::{ImageRestoreOptions, find_lacking};
use crate::{BlobKind, Error, Id, Lock, LockMode, NodeKind, Result, SnapshotId, Vault};

impl Vault {
    /// The packs in which the images of a snapshot are described.
    pub fn packs_of_image_descriptions(&self, snapshot: &SnapshotId) -> Result<BTreeSet<Id>> {
        let directories = self.image_directories(snapshot)?;
        self.refresh_index()?;
        let mut packs = BTreeSet::new();
        for directory in directories {
            packs.extend(description_packs(self, &directory)?);
        }
        Ok(packs)
    }

    /// All packs of the image of this name.
    pub fn packs_of_image(&self, snapshot: &SnapshotId, name: &Path) -> Result<BTreeSet<Id>> {
        self.packs_below(&self.find_image_directory(snapshot, name)?.tree)
    }

    /// The packs that `restore_image` would read with these options: those of what the target lacks, and that of the image's
    /// description. The target is only looked at. One that the image would not go into is refused as it would be then.
    pub fn packs_of_image_restore(
        &self,
        snapshot: &SnapshotId,
        name: &Path,
        options: &ImageRestoreOptions,
    ) -> Result<BTreeSet<Id>> {
        let lock = if options.no_lock { None } else { Some(Lock::take(self, LockMode::Shared)?) };
        let directory = self.find_image_directory(snapshot, name)?;
        // Snapshots before the index: what a snapshot names was indexed before it was written.
        self.refresh_index()?;
        let mut packs = description_packs(self, &directory)?;
        let segments = segment_trees(self, &directory)?;
        let size_bytes = size_bytes(self, &directory, &segments)?;
        let target = Target::open(&options.target, options.format, size_bytes, Change::LookOnly)?;
        let failed = |source| Error::Target { action: "read", path: options.target.clone(), source };
        let mut zeros = ZeroBlobs::new();
        let mut start = 0;
        for (number, tree) in (0..).zip(&segments) {
            let segment = Segment::load(self, &directory.path, tree, number)?;
            let pieces = segment.pieces(start);
            start += segment.length();
            zeros.learn(&pieces);
            let lacking = match target.state() {
                TargetState::Fresh => compare::of_fresh(&pieces, &zeros),
                TargetState::Old => find_lacking(&pieces, &zeros, &target).map_err(failed)?,
            };
            for piece in &lacking.blobs {
                packs.insert(self.blob_location(BlobKind::Data, &piece.id)?.pack);
            }
        }
        drop(lock);
        Ok(packs)
    }
}

fn damaged(directory: &ImageDirectory, reason: String) -> Error {
    Error::DamagedImage { path: directory.path.clone(), reason }
}

fn description_packs(vault: &Vault, directory: &ImageDirectory) -> Result<BTreeSet<Id>> {
    let tree = vault.tree(&directory.tree)?;
    let missing = || damaged(directory, format!("{DESCRIPTION_NAME} is missing"));
    let file = description_file(&tree).ok_or_else(missing)?;
    file.blobs().iter().map(|id| Ok(vault.blob_location(BlobKind::Data, id)?.pack)).collect()
}

/// The trees of the segments' directories, in their order.
fn segment_trees(vault: &Vault, directory: &ImageDirectory) -> Result<Vec<Id>> {
    let tree = vault.tree(&directory.tree)?;
    let count = tree.nodes().iter().filter(|node| node.kind == NodeKind::Dir).count();
    let segment = |number: usize| {
        let name = segment_name(number as u64);
        let found = tree.find(OsStr::new(&name)).and_then(|node| node.subtree);
        found.ok_or_else(|| damaged(directory, format!("{name} is missing")))
    };
    (0..count).map(segment).collect()
}

/// How large the image is: all of its segments but the last have one length. That each has it is found when it is restored.
fn size_bytes(vault: &Vault, directory: &ImageDirectory, segments: &[Id]) -> Result<u64> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok(0) };
    let before_last = segments.len() as u64 - 1;
    let length = |tree, number| Segment::load(vault, &directory.path, tree, number).map(|segment| segment.length());
    let last_bytes = length(last, before_last)?;
    if before_last == 0 {
        return Ok(last_bytes);
    }
    Ok(length(first, 0)?.saturating_mul(before_last).saturating_add(last_bytes))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;
    use std::sync::Arc;

    use levee_store::LocalStore;
    use levee_testing::random::noise;

    use super::*;
    use crate::{ImageBackupOptions, MasterKey, Password, backup_images, restore_image};

    const NAME: &str = "disk.raw";
    const SECOND_SEGMENT: u64 = 1 << 30;
    const SIZE_BYTES: u64 = SECOND_SEGMENT + (2 << 20);
    /// What is written to the disk one after the other: a seed, where, and how much.
    const WRITES: [(u64, u64, usize); 4] = [
        (1, 0, 1 << 20),
        (2, SECOND_SEGMENT, 1 << 20),
        (3, 64 << 10, 64 << 10),
        (4, SECOND_SEGMENT + (128 << 10), 64 << 10),
    ];

    /// A sparse disk with the first so many of the writes.
    fn make(path: &Path, writes: usize) {
        let file = File::create(path).unwrap();
        file.set_len(SIZE_BYTES).unwrap();
        for (seed, offset, length) in &WRITES[..writes] {
            file.write_all_at(&noise(*seed, *length), *offset).unwrap();
        }
    }

    /// What stands in the two places that are written to.
    fn content(path: &Path) -> Vec<u8> {
        let file = File::open(path).unwrap();
        let mut content = vec![0; 2 << 20];
        let (first, second) = content.split_at_mut(1 << 20);
        file.read_exact_at(first, 0).unwrap();
        file.read_exact_at(second, SECOND_SEGMENT).unwrap();
        content
    }

    /// A vault with a snapshot of the disk after none, two, three and four writes, each in packs of its own.
    struct Case {
        folder: tempfile::TempDir,
        key: MasterKey,
        snapshots: Vec<SnapshotId>,
        /// The packs that each snapshot has brought.
        packs: Vec<BTreeSet<Id>>,
    }

    impl Case {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let disk = folder.path().join(NAME);
            let store = Arc::new(LocalStore::new(folder.path().join("vault")));
            let vault = Vault::init(store, &Password::new("password")).unwrap();
            let images = vec![disk.clone()];
            let options = ImageBackupOptions { images, force: true, ..ImageBackupOptions::default() };
            let (mut snapshots, mut packs, mut known) = (Vec::new(), Vec::new(), BTreeSet::new());
            for writes in [0, 2, 3, 4] {
                make(&disk, writes);
                let snapshot = backup_images(&vault, &options, &()).unwrap().snapshot_id.unwrap();
                let all = vault.packs_of_image(&snapshot, Path::new(NAME)).unwrap();
                packs.push(all.difference(&known).copied().collect());
                known.extend(all);
                snapshots.push(snapshot);
            }
            Self { folder, key: vault.master_key().clone(), snapshots, packs }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// Opened anew, so that nothing is known that was not read.
        fn vault(&self) -> Vault {
            let store = Arc::new(LocalStore::new(self.path("vault")));
            Vault::open_with_master_key(store, self.key.clone()).unwrap()
        }

        /// All packs of contents are out of reach, but for some.
        fn freeze_all_but(&self, readable: &BTreeSet<Id>) {
            for pack in self.packs.iter().flatten() {
                let hex = pack.to_hex();
                let (there, away) = (self.path("vault/data").join(&hex[..2]).join(&hex), self.path(&hex));
                if away.exists() {
                    std::fs::rename(&away, &there).unwrap();
                }
                if !readable.contains(pack) {
                    std::fs::rename(&there, &away).unwrap();
                }
            }
        }

        /// The packs that these of the snapshots have brought.
        fn brought_by(&self, snapshots: &[usize]) -> BTreeSet<Id> {
            snapshots.iter().flat_map(|number| self.packs[*number].iter().copied()).collect()
        }

        /// Restores the last snapshot. It must need the packs that these snapshots have brought, be able to say so while no pack
        /// can be read, and then need no others.
        #[track_caller]
        fn check(&self, target: &Path, expected: &[usize]) {
            let last = &self.snapshots[3];
            let options = ImageRestoreOptions { target: target.into(), ..ImageRestoreOptions::default() };
            let was_there = target.exists();
            self.freeze_all_but(&BTreeSet::new());
            let needed = self.vault().packs_of_image_restore(last, Path::new(NAME), &options).unwrap();
            assert_eq!(needed, self.brought_by(expected), "{expected:?}");
            assert_eq!(target.exists(), was_there);
            self.freeze_all_but(&needed);
            let restored = restore_image(&self.vault(), last, Path::new(NAME), &options, &()).unwrap();
            assert_eq!(restored.errors.count, 0, "{:?}", restored.errors);
            assert!(content(target) == content(&self.path(NAME)));
        }
    }

    #[test]
    fn only_the_packs_of_what_a_target_lacks_are_needed() {
        let case = Case::new();
        assert!(case.packs.iter().all(|packs| packs.len() == 1), "{:?}", case.packs);
        // The description came with the first snapshot, as did the zeros, which are not read.
        let last = &case.snapshots[3];
        assert_eq!(case.vault().packs_of_image_descriptions(last).unwrap(), case.brought_by(&[0]));
        assert_eq!(case.vault().packs_of_image(last, Path::new(NAME)).unwrap(), case.brought_by(&[0, 1, 2, 3]));
        case.check(&case.path("absent"), &[0, 1, 2, 3]);
        for (writes, expected) in [(4, &[0][..]), (3, &[0, 3][..]), (2, &[0, 2, 3][..]), (0, &[0, 1, 2, 3][..])] {
            let target = case.path("target");
            make(&target, writes);
            case.check(&target, expected);
        }
        // Dirt where the image has nothing becomes zeros, which no pack is needed for.
        let target = case.path("dirty");
        make(&target, 4);
        let dirty = File::options().write(true).open(&target).unwrap();
        dirty.write_all_at(b"dirt", 512 << 20).unwrap();
        case.check(&target, &[0]);
        let mut there = [1; 4];
        File::open(&target).unwrap().read_exact_at(&mut there, 512 << 20).unwrap();
        assert_eq!(there, [0; 4]);
    }

    #[test]
    fn a_target_of_another_size_is_refused_before_anything_is_asked_for() {
        let case = Case::new();
        case.freeze_all_but(&BTreeSet::new());
        let target = case.path("small");
        std::fs::write(&target, b"mine").unwrap();
        let options = ImageRestoreOptions { target, ..ImageRestoreOptions::default() };
        let needed = case.vault().packs_of_image_restore(&case.snapshots[3], Path::new(NAME), &options);
        let refused = needed.unwrap_err().to_string();
        assert!(refused.contains(&format!("the image {SIZE_BYTES}")), "{refused}");
        let other = case.vault().packs_of_image_restore(&case.snapshots[3], Path::new("none"), &options);
        assert!(matches!(other, Err(Error::ImageNotFound { .. })), "{other:?}");
    }
}
