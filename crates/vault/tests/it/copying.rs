use levee_vault::repair::{RepairOptions, repair_index};
use levee_vault::{CopyOptions, Replaced, RewriteOptions, SnapshotSelection, TagChange, TagOptions, Vault};

use crate::support::*;

fn copy(from: &Vault, to: &Vault) -> levee_vault::CopyReport {
    levee_vault::copy(from, to, &CopyOptions::default(), &()).unwrap()
}

fn selection(ids: &[&str]) -> SnapshotSelection {
    SnapshotSelection { ids: ids.iter().map(|id| id.to_string()).collect(), ..SnapshotSelection::default() }
}

#[test]
fn a_copy_stands_under_another_key_and_is_complete() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let source = scratch.path("source");
    make_zoo(&source);
    remove_what_restic_loses(&source);
    let from = scratch.init();
    backup(&from, &source);
    std::fs::write(source.join("plain"), b"changed").unwrap();
    scratch.restic(&["backup", source.to_str().unwrap()]);
    let to = other.init();
    assert_ne!(*from.master_key().to_json(), *to.master_key().to_json());

    let report = copy(&from, &to);
    assert_eq!((report.copied.len(), report.skipped.len()), (2, 0), "{report:?}");
    other.restic(&["check", "--read-data"]);
    for (copied, (id, snapshot)) in report.copied.iter().zip(from.snapshots().unwrap()) {
        let new = to.read_snapshot(&copied.to.unwrap()).unwrap();
        assert_eq!((copied.from, new.original, new.tree, new.parent), (id, Some(id.0), snapshot.tree, None));
        assert_eq!((new.time, &new.paths, &new.hostname), (snapshot.time, &snapshot.paths, &snapshot.hostname));
    }
    let newest = report.copied[1].to.unwrap();
    restore(&to, newest, &source, &other.path("restored"));
    assert_same(&source, &other.path("restored"));

    let again = copy(&from, &to);
    assert_eq!((again.copied.len(), again.skipped.len(), again.blobs), (0, 2, 0));
    // A copy of a copy is the same snapshot still.
    let back = copy(&to, &from);
    assert_eq!((back.copied.len(), back.skipped.len(), back.blobs), (0, 2, 0));
    // And stock restic agrees, both as to what is there and when it copies itself.
    let count = |scratch: &Scratch| {
        let json: serde_json::Value = serde_json::from_str(&scratch.restic(&["snapshots", "--json"])).unwrap();
        json.as_array().unwrap().len()
    };
    assert_eq!((count(&scratch), count(&other)), (2, 2));
}

#[test]
fn a_snapshot_stands_for_itself_where_its_writer_is_not_trusted() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let from = scratch.init();
    backup(&from, &source);
    let (first, _) = from.snapshots().unwrap().remove(0);
    // Tagged by its writer, and so one that names the first as its original.
    let add = TagOptions::new(TagChange::Edit { add: vec!["a".into()], remove: Vec::new() });
    levee_vault::tag(&from, &add, drop).unwrap();
    let (claims, snapshot) = from.snapshots().unwrap().remove(0);
    assert_eq!(snapshot.original, Some(first.0));
    let to = other.init();
    let options = CopyOptions { original_is_source: true, ..CopyOptions::default() };
    levee_vault::copy(&from, &to, &options, &()).unwrap();
    assert_eq!(to.snapshots().unwrap()[0].1.original, Some(claims.0));
    let again = levee_vault::copy(&from, &to, &options, &()).unwrap();
    assert_eq!((again.copied.len(), again.skipped), (0, vec![claims]));
}

#[test]
fn what_a_repair_has_taken_out_is_brought_anew() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(100_000, 1)).unwrap();
    let from = scratch.init();
    backup(&from, &source);
    other.init();
    let copied = copy(&from, &other.open()).copied[0].to.unwrap();
    let pack = largest_pack(&other);
    std::fs::remove_file(&pack).unwrap();
    repair_index(&other.open(), false, RepairOptions { apply: true, ..RepairOptions::default() }, &()).unwrap();
    assert!(other.open().open_snapshot(&copied).unwrap_err().is_damage());
    assert_eq!(copy(&from, &other.open()).blobs, 0, "it is there already");
    let options = CopyOptions { complete: true, ..CopyOptions::default() };
    let report = levee_vault::copy(&from, &other.open(), &options, &()).unwrap();
    assert_eq!((report.copied.len(), report.skipped.len()), (0, 1));
    assert!(report.blobs > 0, "{report:?}");
    other.open().open_snapshot(&copied).unwrap();
    other.restic(&["check", "--read-data"]);
}

fn largest_pack(scratch: &Scratch) -> std::path::PathBuf {
    std::fs::read_dir(scratch.path("repository/data"))
        .unwrap()
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap()
}

#[test]
fn one_damaged_copy_of_a_blob_does_not_stop_a_copy_and_a_lost_one_is_named() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(100_000, 1)).unwrap();
    let from = scratch.init();
    backup(&from, &source);
    let data: Vec<_> = std::fs::read_dir(scratch.path("repository/data"))
        .unwrap()
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|path| std::fs::metadata(path).unwrap().len() > 50_000)
        .collect();
    assert_eq!(data.len(), 1);
    let mut content = std::fs::read(&data[0]).unwrap();
    content[1000] ^= 1;
    std::fs::remove_file(&data[0]).unwrap();
    std::fs::write(&data[0], content).unwrap();
    let failed = levee_vault::copy(&scratch.open(), &other.init(), &CopyOptions::default(), &()).unwrap_err();
    assert!(failed.to_string().contains("does not open"), "{failed}");
    assert!(other.open().snapshots().unwrap().is_empty());
    other.restic(&["check", "--read-data"]);
}

#[test]
fn tags_change_and_the_snapshot_says_what_it_was() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let vault = scratch.init();
    backup(&vault, &source);
    let (first, before) = vault.snapshots().unwrap().remove(0);
    let add = TagOptions::new(TagChange::Edit { add: vec!["a".into(), "b".into()], remove: Vec::new() });
    let mut seen = Vec::new();
    let dry_run = TagOptions { dry_run: true, ..add.clone() };
    let count = levee_vault::tag(&vault, &dry_run, |changed| seen.push(changed)).unwrap();
    assert_eq!((count, seen.remove(0)), (1, Replaced { old: first, new: None }));
    assert_eq!(vault.snapshots().unwrap()[0].0, first);
    let count = levee_vault::tag(&vault, &add, |changed| seen.push(changed)).unwrap();
    assert_eq!((count, seen.len(), seen[0].old), (1, 1, first));
    assert_eq!(levee_vault::tag(&vault, &add, |_| ()).unwrap(), 0, "nothing to change");
    let tagged = vault.read_snapshot(&seen[0].new.unwrap()).unwrap();
    assert_eq!((tagged.summary, tagged.tree), (before.summary, before.tree));
    // And stock restic goes on from there.
    scratch.restic(&["tag", "--add", "c", "--remove", "a"]);
    let snapshots = scratch.open().snapshots().unwrap();
    assert_eq!(snapshots.len(), 1);
    let mut after = snapshots[0].1.clone();
    after.tags.sort();
    assert_eq!((after.original, &after.tags[..]), (Some(first.0), &["b".to_string(), "c".to_string()][..]));
    assert_eq!((after.time, after.tree), (before.time, before.tree));
}

#[test]
fn a_rewritten_snapshot_lacks_what_was_excluded() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    let old = backup(&vault, &source).snapshot_id.unwrap();
    let options = RewriteOptions { excludes: vec!["large".into(), "est".into()], ..RewriteOptions::default() };
    let foreseen = levee_vault::rewrite(&vault, &RewriteOptions { dry_run: true, ..options.clone() }, &()).unwrap();
    assert_eq!((foreseen[0].is_changed, foreseen[0].new), (true, None));
    assert_eq!(vault.snapshots().unwrap().len(), 1);

    let new = levee_vault::rewrite(&vault, &options, &()).unwrap()[0].new.unwrap();
    let snapshot = vault.read_snapshot(&new).unwrap();
    assert_eq!((snapshot.original, &snapshot.tags[..]), (Some(old.0), &["rewrite".to_string()][..]));
    scratch.restic(&["check", "--read-data"]);
    restore(&vault, new, &source, &scratch.path("restored"));
    let root_time = std::fs::metadata(&source).unwrap().modified().unwrap();
    std::fs::remove_file(source.join("large")).unwrap();
    std::fs::File::open(&source).unwrap().set_modified(root_time).unwrap();
    let parent_time = std::fs::metadata(source.join("deep/er")).unwrap().modified().unwrap();
    std::fs::remove_dir_all(source.join("deep/er/est")).unwrap();
    std::fs::File::open(source.join("deep/er")).unwrap().set_modified(parent_time).unwrap();
    assert_same(&source, &scratch.path("restored"));

    // With nothing to leave out nothing is made; forgetting replaces.
    let nothing = RewriteOptions { excludes: vec!["nowhere".into()], forget: true, ..RewriteOptions::default() };
    assert!(levee_vault::rewrite(&vault, &nothing, &()).unwrap().iter().all(|snapshot| snapshot.new.is_none()));
    let only = RewriteOptions {
        includes: vec!["er/est".into()],
        selection: selection(&[&old.to_string()]),
        forget: true,
        new_host: Some("elsewhere".into()),
        ..RewriteOptions::default()
    };
    let only = levee_vault::rewrite(&vault, &only, &()).unwrap()[0].new.unwrap();
    let kept: Vec<_> = vault.list_tree(&only).unwrap().map(|entry| entry.unwrap().0).collect();
    let inside = source.strip_prefix("/").unwrap();
    assert!(kept.contains(&inside.join("deep/er/est/file")) && !kept.contains(&inside.join("plain")), "{kept:?}");
    assert!(kept.iter().all(|path| inside.starts_with(path) || path.starts_with(inside.join("deep"))), "{kept:?}");
    assert_eq!(vault.read_snapshot(&only).unwrap().hostname, "elsewhere");
    assert!(vault.find_snapshot(&old.to_string(), &Default::default()).is_err());
    scratch.restic(&["check", "--read-data"]);
}
