//! Files of somebody who knows the repository's key and may only add to it: nothing goes on their word.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use levee_store::{FileType, LocalStore, Store};
use levee_testing::random::noise;

use super::{CHOICES_MAX, MaxUnused, PruneOptions, PruneReport, UndeleteOptions, list_forgotten, prune, undelete};
use crate::blob_table::Flag;
use crate::check::ReadData;
use crate::index_file::{self, Packs};
use crate::pack::{PackedBlob, pack_bytes};
use crate::reach::Reach;
use crate::{
    BlobKind, CheckOptions, Chunking, ForgetOptions, Id, NodeMeta, Password, SnapshotId, SnapshotOptions,
    SnapshotSelection, SnapshotWriter, Vault,
};

const FILE_BYTES: usize = 100_000;

struct Case {
    _folder: tempfile::TempDir,
    store: Arc<LocalStore>,
    vault: Vault,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::new(folder.path()));
        let vault = Vault::init(store.clone(), &Password::new("password")).unwrap();
        Self { _folder: folder, store, vault }
    }

    fn open(&self) -> Vault {
        Vault::open_with_master_key(self.store.clone(), self.vault.master_key().clone()).unwrap()
    }

    fn back_up(&self, seeds: &[u64]) -> SnapshotId {
        let vault = self.open();
        let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default()).unwrap();
        let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
        for seed in seeds {
            let content = noise(*seed, FILE_BYTES);
            writer.file(Path::new(&seed.to_string()), &meta, &mut &content[..], Chunking::Content).unwrap();
        }
        writer.finish().unwrap().snapshot_id.unwrap()
    }

    fn assert_reads(&self, snapshot: &SnapshotId, seeds: &[u64]) {
        for seed in seeds {
            let read = self.open().read_file(snapshot, Path::new(&seed.to_string()));
            assert!(read.is_ok_and(|content| content == noise(*seed, FILE_BYTES)), "{seed}");
        }
    }

    fn names(&self, file_type: FileType) -> HashSet<String> {
        self.store.list(file_type).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    /// As if it were so many hours later.
    fn prune(&self, hours: i64, options: &PruneOptions) -> PruneReport {
        prune(&self.open(), options, Timestamp::now() + SignedDuration::from_hours(hours), &()).unwrap()
    }

    /// What a snapshot refers to, as the index has it.
    fn used_by(&self, snapshot: &SnapshotId) -> Vec<PackedBlob> {
        let vault = self.open();
        let mut reach = Reach::load(&vault, |_, _| ()).unwrap();
        let root = vault.read_snapshot(snapshot).unwrap().tree.unwrap();
        assert!(reach.mark(&[(BlobKind::Tree, root)], |_, _| ()).unwrap().is_empty());
        let mut used: Vec<PackedBlob> = Vec::new();
        vault
            .scan_index(&vault.list_ids(FileType::Index).unwrap(), |_, file| {
                let is_used = |blob: &PackedBlob| {
                    let place = reach.table.find(blob.kind, &blob.id);
                    place.is_some_and(|place| reach.table.is(place, Flag::Used))
                };
                used.extend(file.packs.into_iter().flat_map(|(_, blobs)| blobs).filter(is_used));
                Ok(())
            })
            .unwrap();
        used
    }

    /// Adds a pack of noise, and an index file that says that it holds these blobs.
    fn add_noise(&self, seed: u64, blobs: &[PackedBlob]) -> Id {
        let mut claimed = blobs.to_vec();
        let mut offset = 0;
        for blob in &mut claimed {
            blob.offset = offset;
            offset += blob.length;
        }
        let content = noise(seed, pack_bytes(&claimed) as usize);
        let pack = Id::of(&content);
        self.store.write(FileType::Data, &pack.to_hex(), &content).unwrap();
        self.add_index(&vec![(pack, claimed)]);
        pack
    }

    fn add_index(&self, packs: &Packs) {
        self.add_index_json(&index_file::encode(packs).unwrap());
    }

    fn add_index_json(&self, json: &[u8]) {
        self.vault.write_file_json(FileType::Index, json).unwrap();
    }
}

/// A kept snapshot of one file, half of whose pack is unused; so that a pack with nothing unused would be the one to stay.
fn with_half_a_pack_unused() -> (Case, SnapshotId) {
    let case = Case::new();
    let gone = case.back_up(&[1, 2]);
    let kept = case.back_up(&[1]);
    case.vault.remove_snapshot(&gone).unwrap();
    (case, kept)
}

fn all_that_can_go() -> PruneOptions {
    PruneOptions { max_unused: MaxUnused::Bytes(0), ..PruneOptions::default() }
}

#[test]
fn a_pack_of_noise_never_stands_for_a_sound_copy() {
    for junk_packs in [1, 3] {
        let (case, kept) = with_half_a_pack_unused();
        let used = case.used_by(&kept);
        let junk: Vec<Id> = (0..junk_packs).map(|number| case.add_noise(100 + number, &used)).collect();
        for hours in [0, 48, 96] {
            let foreseen = case.prune(hours, &PruneOptions { dry_run: true, ..all_that_can_go() });
            let report = case.prune(hours, &all_that_can_go());
            assert!(report.problems.is_empty(), "{report:?}");
            assert_eq!(foreseen.figures.packs_removed, report.figures.packs_removed);
            case.assert_reads(&kept, &[1]);
        }
        let left = case.names(FileType::Data);
        assert!(!junk.iter().any(|pack| left.contains(&pack.to_hex())), "the noise is still there");
        let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
        assert!(crate::check(&case.open(), options, &()).unwrap().is_sound());
    }
}

#[test]
fn more_noise_than_is_looked_through_costs_no_sound_copy() {
    let (case, kept) = with_half_a_pack_unused();
    let used = case.used_by(&kept);
    let junk: HashSet<Id> = (0..CHOICES_MAX as u64 + 2).map(|number| case.add_noise(100 + number, &used)).collect();
    let report = case.prune(0, &all_that_can_go());
    assert!(!report.problems.is_empty(), "{report:?}");
    case.assert_reads(&kept, &[1]);
    // Either everything was kept, or what is in use was written anew from the sound copy: by where the noise lay in the index.
    case.prune(48, &all_that_can_go());
    case.assert_reads(&kept, &[1]);
    // As an agent knows after reading what came.
    let known = PruneOptions { damaged_packs: junk.clone(), ..all_that_can_go() };
    for hours in [0, 48] {
        let report = case.prune(hours, &known);
        assert!(report.problems.is_empty(), "{report:?}");
        case.assert_reads(&kept, &[1]);
    }
    let left = case.names(FileType::Data);
    assert!(!junk.iter().any(|pack| left.contains(&pack.to_hex())));
}

#[test]
fn space_is_recovered_of_nothing_whose_other_copy_is_noise() {
    let (case, kept) = with_half_a_pack_unused();
    case.add_noise(100, &case.used_by(&kept));
    case.prune(0, &PruneOptions { recover_space: true, ..all_that_can_go() });
    case.assert_reads(&kept, &[1]);
}

#[test]
fn no_forged_mark_or_record_shortens_the_way_back() {
    let case = Case::new();
    let (gone, _kept) = (case.back_up(&[1]), case.back_up(&[2]));
    let sealed = case.store.read(FileType::Snapshot, &gone.to_string()).unwrap();
    let selection = SnapshotSelection { ids: vec![gone.to_string()], ..SnapshotSelection::default() };
    let options = ForgetOptions { selection: selection.clone(), ..ForgetOptions::default() };
    crate::forget(&case.vault, &options, Timestamp::now()).unwrap();
    let grace = SignedDuration::from_hours(30 * 24);
    let slow = PruneOptions { grace, ..all_that_can_go() };
    assert!(case.prune(0, &slow).figures.packs_removed > 0);

    let packs: Vec<String> = case.names(FileType::Data).into_iter().map(|name| format!("{name:?}")).collect();
    let marks = format!(
        r#""levee_prune":{{"version":1,"unindexed":[{{"since":"1970-01-02T00:00:00Z","packs":[{}]}}]}}"#,
        packs.join(",")
    );
    let record = |id: &str, file: &str| {
        let times = r#""forgotten":"2199-01-01T00:00:00Z","pruned":"2000-01-01T00:00:00Z""#;
        format!(r#""levee_forgotten":{{"version":1,"snapshots":[{{"id":"{id}",{times},"file":"{file}"}}]}}"#)
    };
    let beside = format!(r#"[{{"id":"{}","blobs":[]}}]"#, Id::of(b"nowhere"));
    let forge = || {
        let (gone, none) = (gone.to_string(), Id::of(b"none").to_hex());
        let notes = [
            marks.clone(),
            record(&gone, &STANDARD.encode(&sealed)),
            record(&gone, &STANDARD.encode(b"none")),
            // It has the hash that is its name, and is no snapshot.
            record(&none, &STANDARD.encode(b"none")),
            record(&none, "no base64"),
        ];
        for (packs, notes) in
            ["[]", beside.as_str()].iter().flat_map(|packs| notes.iter().map(move |notes| (packs, notes)))
        {
            case.add_index_json(format!(r#"{{"packs":{packs},{notes}}}"#).as_bytes());
        }
    };
    for hours in [25, 50] {
        forge();
        let listed: Vec<SnapshotId> = list_forgotten(&case.open()).unwrap().iter().map(|entry| entry.id).collect();
        assert_eq!(listed, [gone]);
        assert_eq!(case.prune(hours, &slow).packs_deleted, 0);
    }
    forge();
    let options = UndeleteOptions { selection, ..UndeleteOptions::default() };
    let report = undelete(&case.open(), &options, Timestamp::now(), &()).unwrap();
    assert_eq!(report.snapshots, [gone]);
    case.assert_reads(&gone, &[1]);
}
