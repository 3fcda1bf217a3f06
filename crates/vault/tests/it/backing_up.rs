use std::path::Path;

use levee_vault::{BackupOptions, Error, NodeKind};

use crate::support::*;

#[test]
fn an_unchanged_tree_is_not_read_again() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    std::thread::sleep(std::time::Duration::from_millis(100));
    let vault = scratch.init();
    let first = backup(&vault, &source);
    assert!(first.files_new >= 11 && first.data_added_bytes > 5 << 20, "{first:?}");
    let second = backup(&scratch.open(), &source);
    assert_eq!((second.files_new, second.files_changed), (0, 0), "{second:?}");
    assert_eq!(second.files_unmodified, first.files_new);
    // The root directory's, at most: others change the times of the scratch folders above.
    assert!(second.data_blobs == 0 && second.tree_blobs <= 1, "{second:?}");
    assert_eq!(second.total_bytes, first.total_bytes);
    assert_eq!(second.parent, first.snapshot_id);
    assert_ne!(second.snapshot_id, first.snapshot_id);

    let id = second.snapshot_id.unwrap();
    assert_eq!(vault.find_node(&id, &source).unwrap(), vault.find_node(&first.snapshot_id.unwrap(), &source).unwrap());

    let forced = BackupOptions { force: true, ..backup_options(&source) };
    let forced = levee_vault::backup(&vault, &forced, &()).unwrap();
    assert_eq!((forced.files_unmodified, forced.data_blobs), (0, 0), "{forced:?}");
}

#[test]
fn a_snapshot_that_would_say_nothing_new_can_be_left_out() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    // Nothing above it that others could change.
    let options = BackupOptions { skip_if_unchanged: true, ..backup_options(Path::new("/proc/sys/kernel/ostype")) };
    let run = || levee_vault::backup(&vault, &options, &()).unwrap();
    let first = run().snapshot_id;
    assert!(first.is_some());
    let again = run();
    assert!(again.snapshot_id.is_none() || vault.snapshots().unwrap().len() == 2, "{again:?}");
}

#[test]
fn a_change_within_the_clock_s_tick_is_noticed() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let vault = scratch.init();
    let file = source.join("file");
    for round in 0..20_u8 {
        std::fs::write(&file, [round; 4]).unwrap();
        // The same size and, as often as not, the same times as what the backup sees.
        let id = backup(&vault, &source).snapshot_id.unwrap();
        assert_eq!(vault.read_file(&id, &file).unwrap(), [round; 4]);
    }
}

#[test]
fn patterns_keep_things_out() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    let options = BackupOptions { excludes: vec!["er".into(), "*link*".into()], ..backup_options(&source) };
    let id = levee_vault::backup(&vault, &options, &()).unwrap().snapshot_id.unwrap();
    let names: Vec<_> =
        vault.list_tree(&id).unwrap().map(|entry| entry.unwrap().0.file_name().unwrap().to_owned()).collect();
    assert!(names.contains(&"plain".into()) && names.contains(&"deep".into()));
    assert!(!names.contains(&"er".into()) && !names.contains(&"file".into()) && !names.contains(&"link".into()));
    let bad = BackupOptions { excludes: vec!["[".into()], ..backup_options(&source) };
    assert!(matches!(levee_vault::backup(&vault, &bad, &()), Err(Error::Pattern { .. })));
}

#[test]
fn sources_that_are_not_there_are_said() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), b"content").unwrap();
    let vault = scratch.init();
    let missing = scratch.path("missing");
    let only_missing = levee_vault::backup(&vault, &backup_options(&missing), &());
    assert!(matches!(only_missing, Err(Error::NoSource { .. })));
    assert!(vault.snapshots().unwrap().is_empty());
    let both = BackupOptions { paths: vec![source.join("file"), missing.clone()], ..Default::default() };
    let summary = levee_vault::backup(&vault, &both, &()).unwrap();
    assert_eq!((summary.errors.count, summary.total_files), (1, 1));
    assert_eq!(summary.errors.first[0].path, missing);
    let tags_of = |id: Option<levee_vault::SnapshotId>| vault.read_snapshot(&id.unwrap()).unwrap().tags;
    assert!(tags_of(summary.snapshot_id).is_empty());
    // It can be seen in the snapshot, by who asks for it.
    let tagged = |paths: Vec<std::path::PathBuf>| {
        let (tags, incomplete_tag) = (vec!["mine".into()], Some("lacks".into()));
        let options = BackupOptions { paths, tags, incomplete_tag, ..Default::default() };
        tags_of(levee_vault::backup(&vault, &options, &()).unwrap().snapshot_id)
    };
    let (file, too) = (source.join("file"), scratch.path("missing too"));
    assert_eq!(tagged(vec![file.clone(), missing.clone(), too]), ["mine", "lacks:2"]);
    assert_eq!(tagged(vec![file]), ["mine"]);
    assert_eq!(vault.read_file(&summary.snapshot_id.unwrap(), &source.join("file")).unwrap(), b"content");
}

#[test]
fn a_dry_run_leaves_nothing() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let vault = scratch.init();
    let before = describe(&scratch.path("repository"));
    let dry = BackupOptions { dry_run: true, ..backup_options(&source) };
    let summary = levee_vault::backup(&vault, &dry, &()).unwrap();
    assert!(summary.snapshot_id.is_none() && summary.data_added_bytes > 0);
    assert_eq!(describe(&scratch.path("repository")), before);
}

#[test]
fn equal_data_are_stored_once_also_within_a_run() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let content = noise(3 << 20, 3);
    for number in 0..10 {
        std::fs::write(source.join(number.to_string()), &content).unwrap();
    }
    let summary = backup(&scratch.init(), &source);
    assert_eq!(summary.total_bytes, 30 << 20);
    assert!(summary.data_added_bytes < (3 << 20) + 100_000, "{summary:?}");
}

#[test]
fn backups_at_once_do_not_disturb_each_other() {
    let scratch = Scratch::new();
    let shared = scratch.init();
    let source = |number: usize| scratch.path(&format!("source {number}"));
    for number in 0..4 {
        make_zoo(&source(number));
        std::fs::write(source(number).join("own"), noise(2 << 20, number as u64 + 10)).unwrap();
    }
    std::thread::scope(|scope| {
        for number in 0..4 {
            // Two in one vault, as in an agent, and two in vaults of their own.
            let vault = if number < 2 { shared.clone() } else { scratch.open() };
            let source = source(number);
            scope.spawn(move || backup(&vault, &source));
        }
    });
    scratch.restic(&["check", "--read-data"]);
    let vault = scratch.open();
    assert_eq!(vault.snapshots().unwrap().len(), 4);
    for (id, snapshot) in vault.snapshots().unwrap() {
        let source = Path::new(&snapshot.paths[0]);
        let target = scratch.path(&format!("target {}", id.short()));
        restore(&vault, id, source, &target);
        assert_same(source, &target);
    }
}

#[test]
fn files_that_vanish_and_change_while_they_are_read_do_no_harm() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let vault = scratch.init();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                round += 1;
                let file = source.join((round % 50).to_string());
                if round.is_multiple_of(3) {
                    let _ = std::fs::remove_file(&file);
                } else {
                    std::fs::write(&file, noise((round % 7) as usize * 100_000, round)).unwrap();
                }
            }
        });
        for _ in 0..10 {
            backup(&vault, &source);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let report = levee_vault::check(&vault, READ_ALL, &()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    scratch.restic(&["check", "--read-data"]);
    backup(&vault, &source);
    let (id, _) = vault.find_snapshot("latest", &Default::default()).unwrap();
    restore(&vault, id, &source, &scratch.path("target"));
    assert_same(&source, &scratch.path("target"));
}

#[test]
fn a_source_may_be_one_file_and_a_mount_point_stays_empty() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    let options = BackupOptions {
        paths: vec!["/proc/sys/kernel/ostype".into(), "/dev".into()],
        one_file_system: true,
        ..Default::default()
    };
    let id = levee_vault::backup(&vault, &options, &()).unwrap().snapshot_id.unwrap();
    // Its size is said to be 0; what was read counts.
    let node = vault.find_node(&id, Path::new("/proc/sys/kernel/ostype")).unwrap().unwrap();
    assert_eq!((node.size, node.kind), (6, NodeKind::File));
    assert_eq!(vault.read_file(&id, Path::new("proc/sys/kernel/ostype")).unwrap(), b"Linux\n");
    let null = vault.find_node(&id, Path::new("/dev/null")).unwrap().unwrap();
    assert_eq!((null.kind, null.device), (NodeKind::CharDev, rustix::fs::makedev(1, 3)));
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_is_stored() {
    let scratch = Scratch::new();
    let vault = scratch.init();
    // Opens, and fails when it is read.
    let unreadable = Path::new("/proc/self/mem");
    let paths = vec![unreadable.to_path_buf(), "/proc/sys/kernel/ostype".into()];
    let options = BackupOptions { paths, ..Default::default() };
    let summary = levee_vault::backup(&vault, &options, &()).unwrap();
    assert_eq!((summary.errors.count, summary.total_files), (1, 1), "{summary:?}");
    assert_eq!(summary.errors.first[0].path, unreadable);
    assert!(summary.errors.first[0].message.starts_with("cannot read it: "), "{summary:?}");
    assert!(matches!(vault.find_node(&summary.snapshot_id.unwrap(), unreadable), Err(Error::PathNotFound { .. })));
}

#[test]
fn a_damaged_snapshot_does_not_keep_new_ones_from_being_made() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    let first = backup(&scratch.init(), &source).snapshot_id.unwrap();
    let file = scratch.path("repository/snapshots").join(first.to_string());
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, b"nonsense").unwrap();
    let vault = scratch.open();
    let second = backup(&vault, &source);
    assert_eq!((second.parent, second.data_blobs), (None, 0));
    let named = vault.snapshots();
    assert!(matches!(&named, Err(Error::Damaged { file, .. }) if file.contains(&first.to_string())), "{named:?}");
}

#[test]
fn a_source_is_found_behind_links_and_a_link_is_stored_as_one() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir_all(source.join("inner")).unwrap();
    std::fs::write(source.join("inner/file"), b"content").unwrap();
    std::os::unix::fs::symlink(&source, scratch.path("link")).unwrap();
    let vault = scratch.init();
    let paths = vec![scratch.path("link/inner"), scratch.path("source")];
    let options = BackupOptions { paths, ..Default::default() };
    let id = levee_vault::backup(&vault, &options, &()).unwrap().snapshot_id.unwrap();
    for path in ["link/inner/file", "source/inner/file"] {
        assert_eq!(vault.read_file(&id, &scratch.path(path)).unwrap(), b"content");
    }
    let id = backup(&vault, &scratch.path("link")).snapshot_id.unwrap();
    let node = vault.find_node(&id, &scratch.path("link")).unwrap().unwrap();
    assert_eq!((node.kind, Path::new(&node.link_target)), (NodeKind::Symlink, source.as_path()));
    scratch.restic(&["check", "--read-data"]);
}
