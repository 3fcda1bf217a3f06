use std::path::{Path, PathBuf};

use jiff::Timestamp;
use levee_vault::transport::{VOLUME_BYTES_MIN, export, import, open_volumes};
use levee_vault::{CopyOptions, Error, Vault};

use crate::support::*;

pub fn volumes(folder: &Path) -> Vec<PathBuf> {
    let mut volumes: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    volumes.retain(|path| path.extension().is_some_and(|extension| extension == "volume"));
    volumes.sort();
    volumes
}

pub fn export_to(vault: &Vault, folder: &Path) -> levee_vault::CopyReport {
    let options = CopyOptions::default();
    export(vault, folder, VOLUME_BYTES_MIN, &options, Timestamp::now(), &()).unwrap().report
}

pub fn import_from(folders: &[PathBuf], vault: &Vault) -> levee_vault::Result<levee_vault::CopyReport> {
    let (store, custody) = open_volumes(folders, &())?;
    let transport = Vault::open(store, &password())?;
    import(&transport, &custody, vault, &CopyOptions::default(), &())
}

/// A vault with more than one volume holds, exported to a folder.
fn exported() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    remove_what_restic_loses(&source);
    std::fs::write(source.join("more"), noise(70 << 20, 3)).unwrap();
    let vault = scratch.init();
    backup(&vault, &source);
    let folder = scratch.path("disks");
    assert_eq!(export_to(&vault, &folder).copied.len(), 1);
    (scratch, folder)
}

#[test]
fn what_travels_on_disks_arrives_whole_or_is_refused() {
    let (scratch, folder) = exported();
    let volumes = volumes(&folder);
    assert_eq!(volumes.len(), 2);
    assert!(volumes.iter().all(|volume| std::fs::metadata(volume).unwrap().len() <= VOLUME_BYTES_MIN));
    let custody: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("custody.json")).unwrap()).unwrap();
    assert_eq!(custody["volumes"].as_array().unwrap().len(), 2);
    assert_eq!(custody["snapshots"][0]["paths"][0], scratch.path("source").to_str().unwrap());

    // On two disks, into a vault with another key.
    let second = scratch.path("second disk");
    std::fs::create_dir(&second).unwrap();
    let (away, there) = (&volumes[1], second.join(volumes[1].file_name().unwrap()));
    std::fs::rename(away, &there).unwrap();
    let target = Scratch::new();
    let vault = target.init();
    let alone = import_from(std::slice::from_ref(&folder), &vault).unwrap_err();
    assert!(matches!(&alone, Error::MissingVolume { count: 2, .. }), "{alone:?}");
    let both = [folder.clone(), second];
    let report = import_from(&both, &vault).unwrap();
    assert_eq!((report.copied.len(), report.skipped.len()), (1, 0));
    target.restic(&["check", "--read-data"]);
    restore(&vault, report.copied[0].to.unwrap(), &scratch.path("source"), &target.path("restored"));
    assert_same(&scratch.path("source"), &target.path("restored"));
    let again = import_from(&both, &vault).unwrap();
    assert_eq!((again.copied.len(), again.skipped.len(), again.blobs), (0, 1, 0));

    // A bit that flipped on the way, and a record that somebody has changed.
    let refused = |path: &Path, from: &[u8], to: &[u8]| {
        let content = std::fs::read(path).unwrap();
        let position = content.windows(from.len()).position(|window| window == from).unwrap();
        let mut changed = content.clone();
        changed[position..position + to.len()].copy_from_slice(to);
        std::fs::write(path, changed).unwrap();
        let error = import_from(&both, &vault).unwrap_err();
        std::fs::write(path, content).unwrap();
        error.to_string()
    };
    let middle = std::fs::read(&volumes[0]).unwrap()[1 << 20..(1 << 20) + 16].to_vec();
    let mut flipped = middle.clone();
    flipped[0] ^= 1;
    assert!(refused(&volumes[0], &middle, &flipped).contains("not the volume"));
    assert!(refused(&folder.join("custody.json"), b"exported", b"exportes").contains("seal"));
    import_from(&both, &vault).unwrap();
}

#[test]
fn an_export_that_was_cut_short_goes_on() {
    let (scratch, folder) = exported();
    let whole = volumes(&folder);
    // Cut off in the middle of a pack, as a pulled disk leaves it; the record is not there yet.
    let (first, second) = (&whole[0], &whole[1]);
    std::fs::remove_file(second).unwrap();
    std::fs::remove_file(folder.join("custody.json")).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(first).unwrap();
    file.set_len(40 << 20).unwrap();
    assert!(matches!(import_from(std::slice::from_ref(&folder), &scratch.open()), Err(Error::NoCustody { .. })));
    assert_eq!(export_to(&scratch.open(), &folder).copied.len(), 1);
    // And a later one adds what is new.
    std::fs::write(scratch.path("source/new"), b"new").unwrap();
    backup(&scratch.open(), &scratch.path("source"));
    let later = export_to(&scratch.open(), &folder);
    assert_eq!((later.copied.len(), later.skipped.len()), (1, 1));
    let target = Scratch::new();
    let report = import_from(&[folder], &target.init()).unwrap();
    assert_eq!(report.copied.len(), 2);
    target.restic(&["check", "--read-data"]);
    // Into the vault that it comes from nothing needs to go.
    let back = import_from(&[scratch.path("disks")], &scratch.open()).unwrap();
    assert_eq!((back.copied.len(), back.skipped.len(), back.blobs), (0, 2, 0));
}

#[test]
fn an_export_never_vouches_for_what_has_changed_since_the_last_one() {
    let (scratch, folder) = exported();
    let again = || export(&scratch.open(), &folder, VOLUME_BYTES_MIN, &CopyOptions::default(), Timestamp::now(), &());
    let volumes = volumes(&folder);
    let custody = std::fs::read(folder.join("custody.json")).unwrap();
    let refused = |volume: &Path, damage: &dyn Fn(&mut Vec<u8>), said: &str| {
        let content = std::fs::read(volume).unwrap();
        let mut damaged = content.clone();
        damage(&mut damaged);
        std::fs::write(volume, &damaged).unwrap();
        let error = again().unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let message = format!("{error} {source}");
        let name = volume.file_name().unwrap().to_str().unwrap();
        assert!(message.contains(name) && message.contains(said), "{message}");
        // Nothing of it was cut off, and the old record stands.
        assert_eq!(std::fs::metadata(volume).unwrap().len(), damaged.len() as u64, "{message}");
        assert!(std::fs::read(folder.join("custody.json")).unwrap() == custody, "{message}");
        std::fs::write(volume, content).unwrap();
    };
    for volume in &volumes {
        // Bit rot in a pack, the header of a record, and an end that is gone.
        refused(volume, &|content| content[1 << 20] ^= 1, "the earlier custody record");
        refused(volume, &|content| content[18] = 9, "damaged at byte 18");
        refused(volume, &|content| content.truncate(content.len() - 1), "is damaged at byte");
    }
    refused(&volumes[0], &|content| content.extend([0; 100]), "is damaged at byte");
    // One that has been begun behind what is vouched for goes, as before.
    let last = std::fs::read(&volumes[1]).unwrap();
    std::fs::write(&volumes[1], [&last[..], &[0; 100]].concat()).unwrap();
    again().unwrap();
    assert!(std::fs::read(&volumes[1]).unwrap() == last);
    std::fs::rename(&volumes[1], scratch.path("elsewhere")).unwrap();
    let missing = again().unwrap_err();
    assert!(matches!(missing, Error::MissingVolume { count: 2, .. }), "{missing:?}");
}

#[test]
fn two_exports_never_write_into_one_folder_at_once() {
    let (scratch, folder) = exported();
    let other = std::fs::File::open(&folder).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let again = || export(&scratch.open(), &folder, VOLUME_BYTES_MIN, &CopyOptions::default(), Timestamp::now(), &());
    let refused = again().unwrap_err().to_string();
    assert!(refused.contains("another export into this folder"), "{refused}");
    drop(other);
    again().unwrap();
}
