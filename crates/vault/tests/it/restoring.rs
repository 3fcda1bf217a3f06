use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::PathBuf;

use levee_vault::{Error, Event, Holes, ItemChange, Overwrite, Progress, RestoreOptions};

use crate::support::*;

#[test]
fn everything_comes_back_and_a_second_time_writes_nothing() {
    let Saved { scratch: _scratch, source, vault, id, target } = Saved::zoo();
    let options = || RestoreOptions { durable: true, verify: true, holes: Holes::Never, ..Default::default() };
    let first = restore_with(&vault, id, &source, &target, options());
    assert_same(&source, &target);
    assert!(first.bytes_written > 40 << 20, "{first:?}");
    let again = restore_with(&vault, id, &source, &target, options());
    assert_same(&source, &target);
    assert_eq!((again.bytes_written, again.files_restored), (0, 0), "{again:?}");
}

#[test]
fn only_what_differs_is_written() {
    let Saved { scratch: _scratch, source, vault, id, target } = Saved::zoo();
    restore(&vault, id, &source, &target);
    // A changed byte, a longer and a shorter file, another mode, an attribute, a stray file and directory.
    let large = std::fs::OpenOptions::new().write(true).open(target.join("large")).unwrap();
    large.write_all_at(b"changed", 100).unwrap();
    std::fs::write(target.join("empty"), b"no longer").unwrap();
    std::fs::write(target.join("plain"), b"").unwrap();
    xattr::set(target.join("setgid"), "user.stray", b"x").unwrap();
    std::fs::create_dir_all(target.join("stray/directory")).unwrap();
    std::fs::write(target.join("stray/directory/file"), b"x").unwrap();
    std::fs::remove_file(target.join("link")).unwrap();
    std::fs::create_dir(target.join("link")).unwrap();
    std::fs::remove_dir_all(target.join("deep/er/est")).unwrap();
    std::fs::write(target.join("deep/er/est"), b"a file").unwrap();
    let summary = restore_with(&vault, id, &source, &target, RestoreOptions { delete: true, ..Default::default() });
    assert_same(&source, &target);
    assert_eq!(summary.files_deleted, 3, "{summary:?}");
    assert!(summary.bytes_written < 9 << 20, "{summary:?}");
}

#[test]
fn links_in_the_target_do_not_lead_out_of_it() {
    let Saved { scratch, source, vault, id, target } = Saved::zoo();
    let outside = scratch.path("outside");
    std::fs::create_dir_all(&target).unwrap();
    std::fs::create_dir_all(outside.join("er/est")).unwrap();
    std::fs::write(outside.join("file"), b"mine").unwrap();
    symlink(&outside, target.join("deep")).unwrap();
    symlink(outside.join("file"), target.join("plain")).unwrap();
    std::fs::hard_link(outside.join("file"), target.join("large")).unwrap();
    let before = describe(&outside);
    restore(&vault, id, &source, &target);
    assert_same(&source, &target);
    let mut after = describe(&outside);
    let without_links = |text: &String| text.replace("links 2", "links 1");
    after.values_mut().for_each(|text| *text = without_links(text));
    let before: std::collections::BTreeMap<_, _> =
        before.iter().map(|(path, text)| (path.clone(), without_links(text))).collect();
    assert_eq!(after, before);
}

#[test]
fn existing_files_are_treated_as_asked() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), b"right").unwrap();
    set_times(&source.join("file"), 1000, 0);
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    let check = |overwrite: Overwrite, seconds: i64, content: &[u8], expected: &[u8]| {
        let target = tempfile::tempdir().unwrap();
        let file = target.path().join("file");
        std::fs::write(&file, content).unwrap();
        set_times(&file, seconds, 0);
        restore_with(&vault, id, &source, target.path(), RestoreOptions { overwrite, ..Default::default() });
        assert_eq!(std::fs::read(&file).unwrap(), expected, "{overwrite:?} {seconds}");
    };
    check(Overwrite::Always, 1000, b"wrong", b"right");
    check(Overwrite::IfChanged, 1000, b"wrong", b"wrong");
    check(Overwrite::IfChanged, 1001, b"wrong", b"right");
    check(Overwrite::IfChanged, 1000, b"other size", b"right");
    check(Overwrite::IfNewer, 999, b"wrong", b"right");
    check(Overwrite::IfNewer, 1000, b"wrong", b"wrong");
    check(Overwrite::Never, 1, b"wrong", b"wrong");
}

#[test]
fn patterns_choose_and_owners_are_set() {
    let Saved { scratch, source, vault, id, target } = Saved::zoo();
    let options = RestoreOptions {
        includes: vec!["file".into(), "plain".into()],
        owner: Some((4321, 1234)),
        ..Default::default()
    };
    restore_with(&vault, id, &source, &target, options);
    let names: Vec<_> = describe(&target).into_keys().map(|path| path.display().to_string()).collect();
    assert_eq!(names, ["", "deep", "deep/er", "deep/er/est", "deep/er/est/file", "plain"]);
    for name in ["plain", "deep/er"] {
        let metadata = std::fs::metadata(target.join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (4321, 1234));
    }
    let target = scratch.path("without");
    let excludes = vec!["deep".into(), "large".into(), "sparse".into()];
    restore_with(&vault, id, &source, &target, RestoreOptions { excludes, ..Default::default() });
    assert!(!target.join("deep").exists() && !target.join("large").exists() && target.join("plain").exists());
}

#[test]
fn a_whole_snapshot_is_restored_below_its_paths() {
    let Saved { scratch: _scratch, source, vault, id, target } = Saved::zoo();
    let options = RestoreOptions { target: target.clone(), ..Default::default() };
    let summary = levee_vault::restore(&vault, &id, &options, &()).unwrap();
    assert!(summary.errors.is_empty(), "{summary:?}");
    assert_same(&source, &target.join(source.strip_prefix("/").unwrap()));
    let no_directory = RestoreOptions { target, subfolder: Some(source.join("plain")), ..Default::default() };
    let failed = levee_vault::restore(&vault, &id, &no_directory, &());
    assert!(matches!(failed, Err(Error::WrongNodeKind { .. })));
}

/// Changes a file as soon as it is restored, as a disk does that keeps something else than it was given.
struct BadDisk {
    file: PathBuf,
}

impl Progress for BadDisk {
    fn report(&self, event: Event<'_>) {
        if let Event::Item { path, change: ItemChange::Restored } = event
            && self.file.ends_with(path)
        {
            let file = std::fs::OpenOptions::new().write(true).open(&self.file).unwrap();
            file.write_all_at(b"bad", 5).unwrap();
        }
    }
}

#[test]
fn what_does_not_read_back_is_named() {
    let Saved { scratch: _scratch, source, vault, id, target } = Saved::zoo();
    let restore = |verify: bool| {
        let disk = BadDisk { file: target.join("large") };
        let subfolder = Some(source.clone());
        let options = RestoreOptions { target: target.clone(), subfolder, verify, ..RestoreOptions::default() };
        levee_vault::restore(&vault, &id, &options, &disk).unwrap().errors
    };
    assert!(restore(false).is_empty());
    let errors = restore(true);
    assert_eq!(errors.count, 1, "{errors:?}");
    assert!(errors.first[0].message.contains("do not read back"), "{errors:?}");
    // The next restore mends it.
    restore_with(&vault, id, &source, &target, RestoreOptions { verify: true, ..RestoreOptions::default() });
    assert_same(&source, &target);
}
