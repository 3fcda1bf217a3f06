//! Directories as other programs have written them.

use std::error::Error as _;
use std::sync::Arc;

use levee_store::LocalStore;

use super::*;
use crate::repair::{RepairOptions, SnapshotRepairOptions, repair_snapshots};
use crate::{BlobKind, Password};

const ATTRIBUTES: &str = r#","generic_attributes":{"windows.creation_time":"AQ==","windows.file_attributes":32}"#;

/// A file, with what stands before its content and at its end.
fn file(name: &str, before: &str, content: &str, last: &str) -> String {
    let time = "2026-11-20T12:00:00.5Z";
    format!(
        r#"{{"name":"{name}","type":"file","mode":420,"mtime":"{time}","atime":"{time}","ctime":"{time}","uid":0,"gid":0{before},"content":[{content}]{last}}}"#
    )
}

fn tree(nodes: &[&str]) -> String {
    format!("{{\"nodes\":[{}]}}\n", nodes.join(","))
}

/// A vault with a snapshot of one directory.
struct Written {
    vault: Vault,
    snapshot: SnapshotId,
    _folder: tempfile::TempDir,
}

impl Written {
    fn new(json: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::init(Arc::new(LocalStore::new(folder.path())), &Password::new("password")).unwrap();
        let session = Session::begin(&vault, SessionOptions::default(), &[]).unwrap();
        let root = Id::of(json.as_bytes());
        session.add_blob(BlobKind::Tree, root, json.as_bytes().to_vec()).unwrap();
        session.finish().unwrap();
        let mut fields = Fields::new();
        fields.insert("time".into(), "2026-11-20T12:00:00Z".into());
        fields.insert("paths".into(), vec!["/"].into());
        set_id(&mut fields, "tree", root);
        let snapshot = vault.write_snapshot_fields(&fields).unwrap();
        Self { vault, snapshot, _folder: folder }
    }

    fn rewrite(&self, change: impl FnOnce(&mut RewriteOptions)) -> Result<Option<SnapshotId>> {
        let mut options = RewriteOptions { forget: true, ..RewriteOptions::default() };
        change(&mut options);
        Ok(rewrite(&self.vault, &options, &())?[0].new)
    }

    fn json(&self, snapshot: &SnapshotId) -> String {
        let root = self.vault.root_of(snapshot).unwrap();
        String::from_utf8(self.vault.read_blob(BlobKind::Tree, &root).unwrap()).unwrap()
    }
}

fn without_gone(options: &mut RewriteOptions) {
    options.excludes = vec!["gone".into()];
}

#[test]
fn what_stays_keeps_the_fields_that_levee_does_not_know() {
    let gone = file("gone", ATTRIBUTES, "", "");
    let kept = file("kept", ATTRIBUTES, "", r#","error":"it could not be read","of_tomorrow":[1.50, null]"#);
    let plain = file("plain", "", "", "");
    let written = Written::new(&tree(&[&gone, &kept, &plain]));
    let new = written.rewrite(without_gone).unwrap().unwrap();
    assert_eq!(written.json(&new), tree(&[&kept, &plain]));
    assert!(!written.vault.is_stored(FileType::Snapshot, &written.snapshot.0).unwrap());
}

#[test]
fn a_directory_that_would_lose_something_is_refused() {
    let (gone, door) = (file("gone", "", "", ""), file("kept", "", "", "").replace("\"file\"", "\"door\""));
    let (both, kept) = (tree(&[&gone, &door]), tree(&[&gone]));
    for (json, lost) in [(both, "of \"kept\""), (kept.replace("]}\n", "],\"version\":3}\n"), "\"version\"")] {
        let written = Written::new(&json);
        for dry_run in [true, false] {
            let refused = written.rewrite(|options| {
                without_gone(options);
                options.dry_run = dry_run;
            });
            let refused = refused.unwrap_err();
            let reason = refused.source().map(ToString::to_string).unwrap_or_default();
            assert!(refused.to_string().contains("cannot rewrite /") && reason.contains(lost), "{refused}: {reason}");
        }
        assert!(written.vault.is_stored(FileType::Snapshot, &written.snapshot.0).unwrap());
        // What leaves the directory as it is does no harm.
        let renamed = written.rewrite(|options| options.new_host = Some("other".into())).unwrap().unwrap();
        assert_eq!(written.json(&renamed), json);
    }
}

/// Restic outside of UTC writes its directories so.
#[test]
fn times_that_are_written_another_way_are_nothing_that_would_be_lost() {
    let local = |json: String| json.replace("12:00:00.5Z", "14:00:00.5+02:00");
    let (gone, kept) = (file("gone", "", "", ""), file("kept", ATTRIBUTES, "", ""));
    let written = Written::new(&local(tree(&[&gone, &kept])));
    let new = written.rewrite(without_gone).unwrap().unwrap();
    assert_eq!(written.json(&new), tree(&[&kept]));
}

/// It saves what there is to save, and what it changes keeps what else is said of it.
#[test]
fn a_repair_keeps_the_fields_that_levee_does_not_know_and_goes_on_without_others() {
    let before = format!(",\"size\":5{ATTRIBUTES}");
    let lost = format!("\"{}\"", Id::of(b"lost"));
    let damaged = file("damaged", &before, &lost, r#","of_tomorrow":1"#);
    let written = Written::new(&tree(&[&damaged]).replace("]}\n", "],\"version\":3}\n"));
    let repair = RepairOptions { apply: true, patience: Duration::ZERO };
    let options = SnapshotRepairOptions { repair, forget: true, ..SnapshotRepairOptions::default() };
    let repaired = repair_snapshots(&written.vault, &options, &()).unwrap();
    let new = repaired.snapshots[0].new.unwrap();
    assert_eq!(written.json(&new), tree(&[&file("damaged", ATTRIBUTES, "", r#","of_tomorrow":1"#)]));
}
