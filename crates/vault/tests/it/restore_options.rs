//! What a restore into a tree that is there already does, and for whom.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use levee_vault::{
    Error, Event, Holes, Lock, LockMode, Overwrite, OwnerMap, Owners, Progress, RestoreLock, RestoreOptions,
};
use rustix::fs::OFlags;

use crate::support::*;

/// `user::rw-, user:1234:r--, group::r--, mask::r--, other::---`, as the kernel stores it.
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xd2\x04\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
/// `cap_net_bind_service+ep`.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
fn acls_and_capabilities_come_along_and_stray_ones_go() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir_all(source.join("folder")).unwrap();
    for name in ["acl", "capability", "nothing", "folder/nothing"] {
        std::fs::write(source.join(name), name).unwrap();
        std::fs::set_permissions(source.join(name), std::fs::Permissions::from_mode(0o640)).unwrap();
    }
    let fifo = source.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o640), 0)
        .unwrap();
    xattr::set(&fifo, "system.posix_acl_access", ACL).unwrap();
    xattr::set(source.join("acl"), "system.posix_acl_access", ACL).unwrap();
    xattr::set(source.join("folder"), "system.posix_acl_default", ACL).unwrap();
    xattr::set(source.join("capability"), "security.capability", CAPABILITY).unwrap();
    // Made before its directory had a default.
    xattr::remove(source.join("folder/nothing"), "system.posix_acl_access").ok();
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();

    let target = scratch.path("target");
    std::fs::create_dir(&target).unwrap();
    // What is made in it would inherit this.
    xattr::set(&target, "system.posix_acl_default", ACL).unwrap();
    restore(&vault, id, &source, &target);
    assert_same(&source, &target);

    xattr::set(target.join("nothing"), "system.posix_acl_access", ACL).unwrap();
    xattr::set(target.join("nothing"), "security.capability", CAPABILITY).unwrap();
    xattr::remove(target.join("capability"), "security.capability").unwrap();
    restore(&vault, id, &source, &target);
    assert_same(&source, &target);

    let without = scratch.path("without");
    let options = RestoreOptions { exclude_attributes: vec!["security.*".into()], ..Default::default() };
    restore_with(&vault, id, &source, &without, options);
    assert_eq!(xattr::get(without.join("capability"), "security.capability").unwrap(), None);
    assert_eq!(xattr::get(without.join("acl"), "system.posix_acl_access").unwrap().as_deref(), Some(ACL));
}

#[test]
fn files_that_look_alike_get_all_else_that_they_lack() {
    let Saved { scratch: _scratch, source, vault, id, target } = Saved::zoo();
    restore(&vault, id, &source, &target);
    let names = ["plain", "empty", "large", "setuid", "unreadable", "deep/er/est/file", "hard link one"];
    // Changes whenever something is set.
    let changed = || {
        let changed = |name: &str| std::fs::metadata(target.join(name)).unwrap();
        names.map(changed).map(|metadata| (metadata.ctime(), metadata.ctime_nsec()))
    };
    let alike = || RestoreOptions { overwrite: Overwrite::IfChanged, ..Default::default() };
    let before = changed();
    restore_with(&vault, id, &source, &target, alike());
    assert_eq!(changed(), before, "what is so already is not set again");

    // As after chmod, chown and setfacl at the source, which leave size and time of change as they are.
    for name in names {
        let path = target.join(name);
        std::os::unix::fs::chown(&path, Some(77), Some(88)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        xattr::set(&path, "system.posix_acl_access", ACL).unwrap();
    }
    xattr::set(target.join("plain"), "user.note", b"another").unwrap();
    let done = restore_with(&vault, id, &source, &target, alike());
    assert_same(&source, &target);
    assert_eq!((done.files_restored, done.bytes_written), (0, 0), "{done:?}");
}

#[test]
fn owners_are_mapped_named_or_left() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    for (name, uid, gid) in [("root's", 0, 0), ("someone's", 4_000_000_000, 3_000_000_001), ("daemon's", 1, 1)] {
        std::fs::write(source.join(name), name).unwrap();
        std::os::unix::fs::chown(source.join(name), Some(uid), Some(gid)).unwrap();
    }
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    let check = |options: RestoreOptions, expected: [(u32, u32); 3]| {
        let target = tempfile::tempdir().unwrap();
        restore_with(&vault, id, &source, target.path(), options.clone());
        let owner = |name: &str| {
            let metadata = std::fs::metadata(target.path().join(name)).unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(["root's", "someone's", "daemon's"].map(owner), expected, "{options:?}");
    };
    let someone = (4_000_000_000, 3_000_000_001);
    check(RestoreOptions::default(), [(0, 0), someone, (1, 1)]);
    check(RestoreOptions { owners: Owners::Names, ..Default::default() }, [(0, 0), someone, (1, 1)]);
    check(RestoreOptions { owners: Owners::Leave, ..Default::default() }, [(0, 0); 3]);
    let owner_map = OwnerMap::parse(&["daemon:7".into(), "4000000000:root".into()], &["1:9".into()]).unwrap();
    check(RestoreOptions { owner_map, ..Default::default() }, [(0, 0), (0, 3_000_000_001), (7, 9)]);
    check(RestoreOptions { owner: Some((5, 6)), ..Default::default() }, [(5, 6); 3]);
}

#[test]
fn a_dry_run_says_what_a_restore_then_does() {
    let Saved { scratch: _scratch, source, vault, id, target } = Saved::zoo();
    let both = |options: RestoreOptions| {
        let before = target.exists().then(|| describe(&target));
        let dry = RestoreOptions { dry_run: true, ..options.clone() };
        let mut said = restore_with(&vault, id, &source, &target, dry);
        assert_eq!(target.exists().then(|| describe(&target)), before);
        let done = restore_with(&vault, id, &source, &target, options);
        said.errors = done.errors.clone();
        assert_eq!(said, done);
    };
    both(RestoreOptions::default());
    assert_same(&source, &target);
    both(RestoreOptions::default());
    std::fs::write(target.join("plain"), b"other").unwrap();
    let large = std::fs::OpenOptions::new().write(true).open(target.join("large")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, b"changed", 100).unwrap();
    std::fs::create_dir_all(target.join("stray/directory")).unwrap();
    std::fs::write(target.join("stray/directory/file"), b"x").unwrap();
    std::fs::remove_file(target.join("empty")).unwrap();
    both(RestoreOptions { delete: true, ..Default::default() });
    assert_same(&source, &target);
}

#[test]
fn special_files_stay_the_ones_they_are() {
    let Saved { scratch: _scratch, source, vault, id, target } = Saved::zoo();
    restore(&vault, id, &source, &target);
    let inodes = || ["fifo", "device", "link"].map(|name| std::fs::symlink_metadata(target.join(name)).unwrap().ino());
    let before = inodes();
    std::fs::set_permissions(target.join("fifo"), std::fs::Permissions::from_mode(0o777)).unwrap();
    restore(&vault, id, &source, &target);
    assert_eq!(inodes(), before);
    assert_same(&source, &target);
    // Something else in their places is replaced, but not when nothing may be.
    std::fs::remove_file(target.join("device")).unwrap();
    std::fs::write(target.join("device"), b"mine").unwrap();
    std::fs::remove_file(target.join("link")).unwrap();
    symlink("elsewhere", target.join("link")).unwrap();
    restore_with(&vault, id, &source, &target, RestoreOptions { overwrite: Overwrite::Never, ..Default::default() });
    assert_eq!(std::fs::read(target.join("device")).unwrap(), b"mine");
    assert_eq!(std::fs::read_link(target.join("link")).unwrap(), Path::new("elsewhere"));
    restore(&vault, id, &source, &target);
    assert_same(&source, &target);
}

#[test]
fn an_interrupted_restore_is_run_again_and_writes_what_is_missing() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("large"), noise(24 << 20, 4)).unwrap();
    for number in 0..50 {
        std::fs::write(source.join(number.to_string()), noise(100_000, number)).unwrap();
    }
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    let target = scratch.path("target");
    // As a restore leaves it that was ended half-way: some files whole, one with a hole, one not begun.
    restore(&vault, id, &source, &target);
    let large = std::fs::OpenOptions::new().write(true).open(target.join("large")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, &vec![0; 4 << 20], 10 << 20).unwrap();
    std::fs::remove_file(target.join("7")).unwrap();
    let again = restore_with(&vault, id, &source, &target, RestoreOptions { verify: true, ..Default::default() });
    assert_same(&source, &target);
    assert!(again.bytes_written < 8 << 20 && again.files_unchanged == 49, "{again:?}");
}

#[test]
fn holes_are_made_in_files_that_are_there_too() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let file = std::fs::File::create(source.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(1 << 20, 7), 10 << 20).unwrap();
    file.set_len(32 << 20).unwrap();
    std::fs::File::create(source.join("one hole")).unwrap().set_len(300_000).unwrap();
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    let target = scratch.path("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("sparse"), noise(32 << 20, 8)).unwrap();
    let options = || RestoreOptions { holes: Holes::Everywhere, verify: true, ..Default::default() };
    restore_with(&vault, id, &source, &target, options());
    assert_same(&source, &target);
    let allocated = |name: &str| std::fs::metadata(target.join(name)).unwrap().blocks() * 512;
    assert!(allocated("sparse") < 4 << 20 && allocated("one hole") < 100_000, "{}", allocated("sparse"));
}

#[test]
fn new_files_get_holes_unless_none_are_wished_and_those_that_are_there_keep_their_blocks() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let file = std::fs::File::create(source.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(1 << 20, 7), 10 << 20).unwrap();
    file.set_len(32 << 20).unwrap();
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    let allocated_bytes = |target: &str, holes: Holes| {
        let target = scratch.path(target);
        restore_with(&vault, id, &source, &target, RestoreOptions { holes, verify: true, ..Default::default() });
        assert_same(&source, &target);
        std::fs::metadata(target.join("sparse")).unwrap().blocks() * 512
    };
    assert!(allocated_bytes("new", Holes::default()) < 4 << 20);
    assert!(allocated_bytes("full", Holes::Never) >= 32 << 20);
    // What is there and differs is written, not given back.
    std::fs::create_dir(scratch.path("there")).unwrap();
    std::fs::write(scratch.path("there").join("sparse"), noise(32 << 20, 8)).unwrap();
    assert!(allocated_bytes("there", Holes::default()) >= 32 << 20);
}

#[test]
fn what_brings_an_app_back_goes_on_without_a_lock() {
    let Saved { scratch: _scratch, source, vault, id, target } = Saved::zoo();
    // As a long check has it.
    let check = Lock::take(&vault, LockMode::Exclusive).unwrap();
    let restore = |lock: RestoreLock| {
        let (target, subfolder) = (target.clone(), Some(source.clone()));
        let options = RestoreOptions { target, subfolder, lock, ..RestoreOptions::default() };
        levee_vault::restore(&vault, &id, &options, &())
    };
    let refused = restore(RestoreLock::Needed).unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }), "{refused:?}");
    assert!(restore(RestoreLock::IfPossible).unwrap().errors.is_empty());
    assert_same(&source, &target);
    drop(check);
    restore(RestoreLock::Needed).unwrap();
}

#[test]
fn further_names_are_not_linked_to_what_was_kept() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a"), b"of the snapshot").unwrap();
    std::fs::hard_link(source.join("a"), source.join("b")).unwrap();
    std::fs::hard_link(source.join("a"), source.join("c")).unwrap();
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    let check = |overwrite: Overwrite, there: &[(&str, &[u8])], expected: [&[u8]; 3], linked: [bool; 3]| {
        let target = tempfile::tempdir().unwrap();
        for (name, content) in there {
            std::fs::write(target.path().join(name), content).unwrap();
        }
        let options = RestoreOptions { overwrite, ..Default::default() };
        let dry = RestoreOptions { dry_run: true, ..options.clone() };
        let foreseen = restore_with(&vault, id, &source, target.path(), dry);
        let done = restore_with(&vault, id, &source, target.path(), options);
        let read = |name: &str| std::fs::read(target.path().join(name)).unwrap();
        let inode = |name: &str| std::fs::metadata(target.path().join(name)).unwrap().ino();
        assert_eq!(["a", "b", "c"].map(read), expected, "{overwrite:?} {there:?}");
        let same = [("a", "b"), ("a", "c"), ("b", "c")].map(|(one, other)| inode(one) == inode(other));
        assert_eq!(same, linked, "{overwrite:?} {there:?}");
        assert_eq!((foreseen.files_restored, foreseen.others), (done.files_restored, done.others), "{there:?}");
        (done.files_restored, done.others)
    };
    let (old, new): (&[u8], &[u8]) = (b"kept", b"of the snapshot");
    for overwrite in [Overwrite::Never, Overwrite::IfNewer] {
        assert_eq!(check(overwrite, &[], [new; 3], [true; 3]), (1, 2));
        assert_eq!(check(overwrite, &[("a", old)], [old, new, new], [false, false, true]), (1, 1));
        assert_eq!(check(overwrite, &[("b", old)], [new, old, new], [false, true, false]), (1, 1));
        assert_eq!(check(overwrite, &[("a", old), ("b", old)], [old, old, new], [false; 3]), (1, 0));
    }
    assert_eq!(check(Overwrite::Always, &[("a", old)], [new; 3], [true; 3]), (1, 2));
}

/// Which files of a folder this process had open with O_DIRECT while they were written.
struct DirectlyOpen {
    folder: PathBuf,
    seen: Mutex<BTreeSet<PathBuf>>,
}

impl Progress for DirectlyOpen {
    fn report(&self, event: Event<'_>) {
        if !matches!(event, Event::Bytes(_)) {
            return;
        }
        for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
            // Other threads close theirs at any time.
            let Ok(path) = std::fs::read_link(entry.path()) else { continue };
            let about = Path::new("/proc/self/fdinfo").join(entry.file_name());
            let about = std::fs::read_to_string(about).unwrap_or_default();
            let flags = about.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("0").trim();
            let flags = OFlags::from_bits_retain(u32::from_str_radix(flags, 8).unwrap());
            if path.starts_with(&self.folder) && flags.contains(OFlags::DIRECT) {
                self.seen.lock().unwrap().insert(path);
            }
        }
    }
}

#[test]
fn large_files_are_written_past_the_page_cache() {
    // On a disk, where the folder for temporary files may be none.
    let scratch = Scratch { dir: tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap() };
    let (source, target) = (scratch.path("source"), scratch.path("target"));
    std::fs::create_dir(&source).unwrap();
    std::fs::create_dir(&target).unwrap();
    std::fs::write(source.join("large"), noise(24 << 20, 1)).unwrap();
    let flags = OFlags::DIRECT.bits() as i32;
    let direct = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(source.join("large"));
    assert!(direct.is_ok(), "this test needs a file system with O_DIRECT: {direct:?}");
    drop(direct);
    let vault = scratch.init();
    let id = backup(&vault, &source).snapshot_id.unwrap();
    let (folder, subfolder) = (target.canonicalize().unwrap(), Some(source.clone()));
    let open = DirectlyOpen { folder: folder.clone(), seen: Mutex::default() };
    let options = RestoreOptions { target: target.clone(), subfolder, ..RestoreOptions::default() };
    let summary = levee_vault::restore(&vault, &id, &options, &open).unwrap();
    assert!(summary.errors.is_empty(), "{:?}", summary.errors);
    let seen = open.seen.into_inner().unwrap();
    assert!(seen.contains(&folder.join("large")), "{seen:?}");
    assert_same(&source, &target);
}

#[test]
fn a_file_that_is_kept_gives_way_to_no_directory() {
    let Saved { scratch, source, vault, id, .. } = Saved::zoo();
    let check = |overwrite: Overwrite, seconds: i64, is_kept: bool| {
        let target = scratch.path(&format!("{overwrite:?} {seconds}"));
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("deep"), b"mine").unwrap();
        set_times(&target.join("deep"), seconds, 0);
        let subfolder = Some(source.clone());
        let options = RestoreOptions { target: target.clone(), subfolder, overwrite, ..RestoreOptions::default() };
        let dry = RestoreOptions { dry_run: true, ..options.clone() };
        let foreseen = levee_vault::restore(&vault, &id, &dry, &()).unwrap().errors;
        let errors = levee_vault::restore(&vault, &id, &options, &()).unwrap().errors;
        assert_eq!(foreseen.first, errors.first, "{overwrite:?} {seconds}");
        if is_kept {
            assert_eq!(std::fs::read(target.join("deep")).unwrap(), b"mine");
            // One problem, and not one for each that lies below.
            assert_eq!((errors.count, errors.first[0].path.as_path()), (1, Path::new("deep")), "{errors:?}");
            assert!(errors.first[0].message.contains("kept"), "{errors:?}");
            assert!(target.join("plain").exists(), "the others are restored");
        } else {
            assert!(errors.is_empty(), "{errors:?}");
            assert_same(&source, &target);
        }
    };
    check(Overwrite::Never, 1, true);
    check(Overwrite::IfNewer, 10_000_000_000, true);
    check(Overwrite::IfNewer, 1, false);
    check(Overwrite::IfChanged, 10_000_000_000, false);
    check(Overwrite::Always, 10_000_000_000, false);
}
