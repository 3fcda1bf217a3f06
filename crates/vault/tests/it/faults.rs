use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use levee_store::rest_server::{Access, Request, handle};
use levee_store::{Entry, Error as StoreError, FileType, Result as StoreResult, Store};
use levee_testing::wait::wait_until;
use levee_vault::{Chunking, NodeMeta, SnapshotOptions, SnapshotWriter, Vault};

use crate::breaking::{Break, Breaking, OPERATIONS_MAX, REASON};
use crate::support::*;

/// Runs an operation with a store that breaks at the first, the second, … operation, until it succeeds.
fn break_everywhere(scratch: &Scratch, run: impl Fn(&Vault) -> levee_vault::Result<()>) {
    let vault = scratch.init();
    backup(&vault, &scratch.path("earlier"));
    let before = vault.snapshots().unwrap().len();
    for operations in 0.. {
        assert!(operations < OPERATIONS_MAX, "it never succeeds");
        let result = run(&Breaking::vault(scratch, vault.master_key(), operations, Break::Before));
        levee_vault::unlock(&vault, true).unwrap();
        let snapshots = vault.snapshots().unwrap().len();
        let report = levee_vault::check(&vault, Default::default(), &()).unwrap();
        assert!(report.is_sound(), "after {operations}: {report:?}");
        match result {
            Ok(()) => {
                assert!(operations > 5 && snapshots == before + 1, "{operations} {snapshots}");
                break;
            }
            Err(error) => {
                // Also when only the answer to the snapshot's writing was lost, nothing is wrong.
                let text = format!("{error:?}");
                assert!(text.contains(REASON), "after {operations}: {text}");
                assert_eq!(snapshots, before, "after {operations}");
                if operations % 4 == 0 {
                    scratch.restic(&["check", "--read-data"]);
                }
            }
        }
    }
    scratch.restic(&["check", "--read-data"]);
}

fn small_source(scratch: &Scratch) {
    for (folder, seed) in [("earlier", 1), ("source", 2)] {
        let path = scratch.path(folder);
        std::fs::create_dir_all(path.join("below")).unwrap();
        std::fs::write(path.join("file"), noise(100_000, seed)).unwrap();
        std::fs::write(path.join("below/other"), noise(20 << 20, seed + 2)).unwrap();
        std::fs::write(path.join("same"), b"the same everywhere").unwrap();
    }
}

#[test]
fn a_backup_that_breaks_anywhere_leaves_a_sound_repository() {
    let scratch = Scratch::new();
    small_source(&scratch);
    let source = scratch.path("source");
    break_everywhere(&scratch, |vault| {
        levee_vault::backup(vault, &backup_options(&source), &()).map(|summary| assert!(summary.snapshot_id.is_some()))
    });
}

#[test]
fn a_stream_that_breaks_anywhere_leaves_a_sound_repository() {
    let scratch = Scratch::new();
    small_source(&scratch);
    let content = noise(40 << 20, 9);
    break_everywhere(&scratch, |vault| {
        let mut writer = SnapshotWriter::begin(vault, SnapshotOptions::default())?;
        let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
        writer.file(Path::new("table"), &meta, &mut &content[..], Chunking::Pages { chunk_bytes: 131_072 })?;
        writer.finish().map(drop)
    });
}

#[test]
fn a_creation_that_breaks_anywhere_can_be_repeated() {
    for operations in 0.. {
        let scratch = Scratch::new();
        let store = Breaking::new(scratch.store(), operations, Break::Before);
        let result = Vault::init(Arc::new(store), &password());
        if result.is_err() {
            Vault::init(scratch.store(), &password()).unwrap();
        }
        scratch.open();
        scratch.restic(&["check"]);
        if result.is_ok() {
            assert!(operations >= 3);
            break;
        }
    }
}

#[test]
fn giving_up_a_writer_half_way_ends_its_threads() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let threads = || {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter(|task| {
                let name = task.as_ref().unwrap().path().join("comm");
                std::fs::read_to_string(name).is_ok_and(|name| name.starts_with("vault-sealer"))
            })
            .count()
    };
    let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions::default()).unwrap();
    let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
    writer.file(Path::new("a"), &meta, &mut &noise(30 << 20, 1)[..], Chunking::Content).unwrap();
    assert!(threads() >= 1);
    drop(writer);
    // A thread that has ended is still listed for a moment.
    wait_until("its threads have ended", Duration::from_secs(10), || threads() == 0);
    assert!(vault.snapshots().unwrap().is_empty());
    assert!(std::fs::read_dir(scratch.path("repository/locks")).unwrap().next().is_none());
}

/// A repository as its owner serves it to a writer that may only add.
struct AppendOnly(Arc<dyn Store>);

impl AppendOnly {
    fn ask(&self, method: &str, file_type: FileType, name: &str, body: &[u8]) -> StoreResult<()> {
        let path = format!("/{}/{name}", file_type.folder());
        let request =
            Request { method, path: path.trim_end_matches('/'), query: None, range: None, accept: None, body };
        let response = handle(&*self.0, Access::Append, request);
        let (location, name) = (self.location(), name.to_string());
        match response.status {
            200..300 => Ok(()),
            404 => Err(StoreError::NotFound { location, file_type, name }),
            status => {
                let reason = format!("{status} {}", String::from_utf8_lossy(&response.body));
                Err(StoreError::Denied { location, action: "change", file_type, name, reason })
            }
        }
    }
}

impl Store for AppendOnly {
    fn create(&self) -> StoreResult<()> {
        Ok(())
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> StoreResult<()> {
        self.ask("POST", file_type, name, content)
    }

    fn read(&self, file_type: FileType, name: &str) -> StoreResult<Vec<u8>> {
        self.0.read(file_type, name)
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> StoreResult<Vec<u8>> {
        self.0.read_range(file_type, name, offset, length)
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> StoreResult<u64> {
        self.0.size_bytes(file_type, name)
    }

    fn list(&self, file_type: FileType) -> StoreResult<Vec<Entry>> {
        self.0.list(file_type)
    }

    fn remove(&self, file_type: FileType, name: &str) -> StoreResult<()> {
        self.ask("DELETE", file_type, name, &[])
    }

    fn location(&self) -> String {
        self.0.location()
    }
}

#[test]
fn a_writer_that_may_only_add_can_back_up_and_not_destroy() {
    let scratch = Scratch::new();
    small_source(&scratch);
    let owner = scratch.init();
    let writer =
        Vault::open_with_master_key(Arc::new(AppendOnly(scratch.store())), owner.master_key().clone()).unwrap();
    let first = backup(&writer, &scratch.path("earlier")).snapshot_id.unwrap();
    backup(&writer, &scratch.path("source"));
    let denied = |result: levee_vault::Result<()>| {
        assert!(matches!(&result, Err(levee_vault::Error::Store(StoreError::Denied { .. }))), "{result:?}");
    };
    denied(writer.remove_snapshot(&first));
    denied(writer.add_key(&password(), "h", "u").map(drop));
    denied(writer.remove_key(&owner.keys().unwrap()[0].id));
    assert_eq!(owner.snapshots().unwrap().len(), 2);
    scratch.restic(&["check", "--read-data"]);
}
