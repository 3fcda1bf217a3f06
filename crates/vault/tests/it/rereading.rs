//! Reading single packs again.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use levee_store::FileType;
use levee_vault::reread::Reread;
use levee_vault::{BackupOptions, Id, backup};

use crate::support::Scratch;

#[test]
fn damage_is_named_with_the_snapshots_that_it_hits() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let source = scratch.path("source");
    fs::create_dir_all(source.join("one")).unwrap();
    let take = || {
        let options = BackupOptions { paths: vec![source.clone()], ..BackupOptions::default() };
        backup(&vault, &options, &()).unwrap().snapshot_id.unwrap()
    };
    let packs = || -> HashSet<Id> {
        scratch.store().list(FileType::Data).unwrap().iter().map(|entry| entry.name.parse().unwrap()).collect()
    };
    fs::write(source.join("one/file"), "of the first").unwrap();
    // A file that was changed within the clock's last tick is read again by the next backup, which stores its directory
    // anew.
    std::thread::sleep(Duration::from_millis(200));
    let first = take();
    let of_first = packs();
    fs::write(source.join("two"), "of the second alone").unwrap();
    let second = take();
    let of_second: Vec<Id> = packs().difference(&of_first).copied().collect();
    fs::remove_file(source.join("two")).unwrap();
    let third = take();
    for pack in packs() {
        assert!(matches!(vault.reread(&pack).unwrap(), Reread::Sound { bytes } if bytes > 0));
    }
    assert_eq!(vault.reread(&Id::of(b"no pack")).unwrap(), Reread::Gone);
    let all = [first, second, third];
    assert_eq!(vault.snapshots_hit(&all, &HashSet::new()).unwrap(), []);
    assert_eq!(vault.snapshots_hit(&all, &of_first).unwrap(), all);

    // Of what has come with the second: a pack of its file, and one of its directories.
    let mut damaged = HashSet::new();
    for pack in &of_second {
        let name = pack.to_string();
        let path = scratch.path("repository/data").join(&name[..2]).join(&name);
        let mut content = fs::read(&path).unwrap();
        let middle = content.len() / 3;
        content[middle] ^= 4;
        fs::write(&path, content).unwrap();
        let Reread::Damaged { problems } = vault.reread(pack).unwrap() else { panic!("{pack} is taken for sound") };
        assert!(problems[0].contains("hash"), "{problems:?}");
        damaged.insert(*pack);
    }
    assert_eq!(damaged.len(), 2);
    assert_eq!(scratch.open().snapshots_hit(&all, &damaged).unwrap(), [second]);
}

#[test]
fn a_damaged_snapshot_is_hit_and_hides_nothing_of_the_others() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let source = scratch.path("source");
    fs::create_dir_all(&source).unwrap();
    let take = |content: &str| {
        fs::write(source.join("file"), content).unwrap();
        let options = BackupOptions { paths: vec![source.clone()], ..BackupOptions::default() };
        backup(&vault, &options, &()).unwrap().snapshot_id.unwrap()
    };
    let all = [take("the first"), take("the second one"), take("and another")];
    let path = scratch.path("repository/snapshots").join(all[1].to_string());
    let mut content = fs::read(&path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 4;
    fs::write(&path, content).unwrap();
    let elsewhere = HashSet::from([Id::of(b"no pack of these")]);
    assert_eq!(scratch.open().snapshots_hit(&all, &elsewhere).unwrap(), [all[1]]);
    fs::remove_file(&path).unwrap();
    assert_eq!(scratch.open().snapshots_hit(&all, &elsewhere).unwrap(), []);
}
