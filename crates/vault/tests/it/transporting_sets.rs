//! Sets of volumes: which files belong to one, who can open it, and what its record says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use jiff::Timestamp;
use levee_vault::transport::{Custody, Exported, VOLUME_BYTES_MIN, export, import, open_volumes, plan_export};
use levee_vault::{CopyOptions, Error, Id, Password, RewriteOptions, SnapshotId, TagChange, TagOptions, Vault};

use crate::support::*;
use crate::transporting::{export_to, import_from, volumes};

fn exported(vault: &Vault, folder: &Path) -> Exported {
    export(vault, folder, VOLUME_BYTES_MIN, &CopyOptions::default(), Timestamp::now(), &()).unwrap()
}

/// A vault with one file, exported to a folder.
fn with_a_set() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), noise(100_000, 1)).unwrap();
    scratch.init();
    backup(&scratch.open(), &source);
    let folder = scratch.path("disk");
    assert_eq!(export_to(&scratch.open(), &folder).copied.len(), 1);
    (scratch, folder)
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn of_a_volume_that_comes_twice_the_sound_copy_is_used() {
    let (scratch, folder) = with_a_set();
    let second = scratch.path("second disk");
    copy_folder(&folder, &second);
    let mut rotten = std::fs::read(&volumes(&second)[0]).unwrap();
    rotten[50_000] ^= 1;
    std::fs::write(&volumes(&second)[0], &rotten).unwrap();
    let folders = [folder.clone(), second.clone()];
    for folders in [folders.clone(), [second, folder.clone()]] {
        let target = Scratch::new();
        assert_eq!(import_from(&folders, &target.init()).unwrap().copied.len(), 1, "{folders:?}");
        target.restic(&["check", "--read-data"]);
    }
    std::fs::write(&volumes(&folder)[0], rotten).unwrap();
    let refused = import_from(&folders, &scratch.open()).unwrap_err().to_string();
    assert!(refused.contains("not the volume"), "{refused}");
}

#[test]
fn volumes_of_two_sets_are_never_mixed() {
    let (scratch, january) = with_a_set();
    std::fs::write(scratch.path("source/file"), b"changed").unwrap();
    backup(&scratch.open(), &scratch.path("source"));
    let february = scratch.path("february");
    assert_eq!(export_to(&scratch.open(), &february).copied.len(), 2);
    let target = Scratch::new();
    let vault = target.init();
    let refused = import_from(&[january.clone(), february.clone()], &vault).unwrap_err();
    assert!(
        matches!(&refused, Error::Custody { path, .. } if *path == february.join("custody.json")),
        "it is not refused for its record: {refused:?}"
    );
    // A volume that the record doesn't name was never verified, and nothing of it comes in.
    std::fs::copy(&volumes(&february)[0], january.join("000002.volume")).unwrap();
    assert_eq!(import_from(from_ref(&january), &vault).unwrap().copied.len(), 1);
    let later = import_from(&[february], &vault).unwrap();
    assert_eq!((later.copied.len(), later.skipped.len()), (1, 1));
}

#[test]
fn a_record_names_no_files_but_volumes() {
    let (scratch, folder) = with_a_set();
    let path = folder.join("custody.json");
    let record = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, record.replace("000001.volume", "../disk/000001.volume")).unwrap();
    let refused = import_from(&[folder], &scratch.open()).unwrap_err().to_string();
    assert!(refused.contains("no name of a volume"), "{refused}");
}

#[test]
fn what_other_computers_leave_beside_volumes_is_passed_over() {
    let (scratch, folder) = with_a_set();
    for stray in ["._000001.volume", "000001 copy.volume"] {
        std::fs::write(folder.join(stray), b"Mac OS X").unwrap();
    }
    assert_eq!(import_from(from_ref(&folder), &Scratch::new().init()).unwrap().copied.len(), 1);
    let foreseen = plan_export(&scratch.open(), &folder, &CopyOptions::default(), &()).unwrap();
    assert_eq!((foreseen.copied.len(), foreseen.skipped.len()), (0, 1));
    let again = exported(&scratch.open(), &folder);
    assert_eq!((again.report.skipped.len(), again.custody.volumes.len()), (1, 1));
}

#[test]
fn a_set_opens_with_the_passwords_that_its_vault_has_now_and_says_that_old_ones_open_it_too() {
    let (scratch, folder) = with_a_set();
    let vault = scratch.open();
    let old = vault.key_id().unwrap();
    let new_password = Password::new("battery staple");
    let new = vault.add_key(&new_password, "host", "user").unwrap();
    let vault = Vault::open_with_key_file(scratch.store(), &new, &new_password).unwrap();
    vault.remove_key(&old).unwrap();
    assert_eq!(exported(&vault, &folder).old_keys, [old]);
    for password in [new_password, password()] {
        let (store, custody) = open_volumes(from_ref(&folder), &()).unwrap();
        let transport = Vault::open(store, &password).unwrap();
        let target = Scratch::new();
        let report = import(&transport, &custody, &target.init(), &CopyOptions::default(), &()).unwrap();
        assert_eq!(report.copied.len(), 1);
    }
    // A key file that is there is not written once more, and in a new set the old one is not.
    let bytes = |folder: &Path| std::fs::metadata(&volumes(folder)[0]).unwrap().len();
    let before = bytes(&folder);
    exported(&vault, &folder);
    assert_eq!(bytes(&folder), before);
    let fresh = scratch.path("fresh disk");
    assert!(exported(&vault, &fresh).old_keys.is_empty());
    let (store, _) = open_volumes(&[fresh], &()).unwrap();
    assert!(matches!(Vault::open(store, &password()), Err(Error::WrongPassword { key_files: 1, .. })));
}

#[test]
fn a_damaged_key_file_is_left_out_of_an_export_and_can_be_removed() {
    let (scratch, _) = with_a_set();
    // One that is no JSON any more, and one that seems sound until it is held against its name.
    let damages: [fn(&str) -> String; 2] = [|_| "\0\0\0\0".into(), |sound| sound.replace("\"host\"", "\"hosT\"")];
    for (number, damage) in damages.into_iter().enumerate() {
        let damaged = scratch.open().add_key(&Password::new("second"), "host", "user").unwrap();
        let path = scratch.path("repository/keys").join(damaged.to_hex());
        let content = damage(&std::fs::read_to_string(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, content).unwrap();
        let vault = scratch.open();
        let folder = scratch.path(&format!("disk {number}"));
        let exported = exported(&vault, &folder);
        assert_eq!((exported.report.copied.len(), exported.old_keys.len()), (1, 0));
        assert_eq!(import_from(&[folder], &Scratch::new().init()).unwrap().copied.len(), 1);
        for digits in [&damaged.to_hex()[..12], &damaged.to_hex()] {
            assert_eq!(vault.find_keys(digits).unwrap(), [damaged]);
        }
        vault.remove_key(&damaged).unwrap();
        assert!(vault.find_keys(&damaged.to_hex()).unwrap().is_empty());
    }
}

#[test]
fn the_record_names_snapshots_as_the_vault_does_and_as_the_volumes_do() {
    let (scratch, folder) = with_a_set();
    let vault = scratch.open();
    let names = |exported: &Exported| -> BTreeSet<(SnapshotId, Option<Id>)> {
        exported.custody.snapshots.iter().map(|snapshot| (snapshot.id, snapshot.original)).collect()
    };
    let (first, _) = vault.snapshots().unwrap().remove(0);
    let add = TagOptions::new(TagChange::Edit { add: vec!["a".into()], remove: Vec::new() });
    levee_vault::tag(&vault, &add, drop).unwrap();
    let (tagged, _) = vault.snapshots().unwrap().remove(0);
    let without_file = RewriteOptions { excludes: vec!["file".into()], ..RewriteOptions::default() };
    let twin = levee_vault::rewrite(&vault, &without_file, &()).unwrap()[0].new.unwrap();
    let derived = [(tagged, Some(first.0)), (twin, Some(tagged.0))];
    // What was exported under a name that the vault has no more keeps that in the record.
    let later = exported(&vault, &folder);
    assert_eq!(names(&later), BTreeSet::from_iter([(first, None)].into_iter().chain(derived)));
    assert_eq!(names(&exported(&vault, &scratch.path("fresh disk"))), BTreeSet::from(derived));

    let (store, custody) = open_volumes(&[folder], &()).unwrap();
    let transport = Vault::open(store, &password()).unwrap();
    let stored: BTreeSet<Option<SnapshotId>> =
        transport.snapshots().unwrap().into_iter().map(|(id, _)| Some(id)).collect();
    assert_eq!(custody.snapshots.iter().map(|snapshot| snapshot.stored_as).collect::<BTreeSet<_>>(), stored);
    import(&transport, &custody, &Scratch::new().init(), &CopyOptions::default(), &()).unwrap();
}

/// The seal of such a record is of its JSON without what version 2 has added.
#[test]
fn a_record_of_version_1_is_read_and_written_as_it_was() {
    let record = r#"{"version":1,"vault":"ID","snapshots":[{"id":"ID","time":"2026-11-20T12:00:00Z","hostname":"h","paths":["/a"]}],"volumes":[{"name":"000001.volume","bytes":59,"sha256":"ID"}],"files":1,"bytes":59,"events":[{"what":"exported","at":"2026-11-20T12:00:00Z","by":"a@b"}],"seal":"eA=="}"#;
    let record = record.replace("ID", &"01".repeat(32));
    let custody: Custody = serde_json::from_str(&record).unwrap();
    assert_eq!(serde_json::to_string(&custody).unwrap(), record);
}
