use std::path::Path;
use std::process::Command;

use levee_vault::RestoreOptions;

use crate::support::*;

/// Where stock restic puts what it restored of an absolute path.
fn below(target: &Path, source: &Path) -> std::path::PathBuf {
    target.join(source.strip_prefix("/").unwrap())
}

#[test]
fn restic_checks_and_restores_what_levee_wrote() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    remove_what_restic_loses(&source);
    let vault = scratch.init();
    backup(&vault, &source);
    scratch.restic(&["check", "--read-data"]);
    let target = scratch.path("target");
    scratch.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    assert_same(&source, &below(&target, &source));

    // And its own backup on top finds everything known.
    let json = scratch.restic(&["backup", "--json", source.to_str().unwrap()]);
    let summary = json.lines().last().unwrap();
    assert!(summary.contains("\"data_blobs\":0") && summary.contains("\"files_changed\":0"), "{summary}");
}

#[test]
fn levee_checks_and_restores_what_restic_wrote() {
    for (version, compression) in [("1", "auto"), ("2", "auto"), ("2", "off"), ("2", "max")] {
        let scratch = Scratch::new();
        let source = scratch.path("source");
        make_zoo(&source);
        remove_what_restic_loses(&source);
        scratch.restic(&["init", "--repository-version", version]);
        scratch.restic(&["backup", "--compression", compression, source.to_str().unwrap()]);
        let vault = scratch.open();
        let (snapshot, _) = vault.find_snapshot("latest", &Default::default()).unwrap();
        let target = scratch.path("target");
        restore(&vault, snapshot, &source, &target);
        assert_same(&source, &target);
        let report = levee_vault::check(&vault, READ_ALL, &()).unwrap();
        assert!(report.is_sound() && report.hints.is_empty(), "{report:?}");

        // A backup of our own into the same repository, of changed data, and restic reads both.
        std::fs::write(source.join("plain"), b"changed").unwrap();
        let summary = backup(&vault, &source);
        assert_eq!((summary.files_changed, summary.files_new), (1, 0), "{summary:?}");
        scratch.restic(&["check", "--read-data"]);
        let target = scratch.path("target of restic");
        scratch.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
        assert_same(&source, &below(&target, &source));
    }
}

#[test]
fn directories_are_written_byte_for_byte_as_restic_writes_them() {
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    remove_what_restic_loses(&source);
    set_times(&source.join("empty"), 10_413_792_000, 0);
    // Files of several chunks are cut elsewhere, and just changed ones carry another change time.
    std::fs::remove_file(source.join("large")).unwrap();
    std::fs::remove_file(source.join("sparse")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let vault = scratch.init();
    backup(&vault, &source);
    scratch.restic(&["backup", "--force", source.to_str().unwrap()]);
    let tree_of = |id| vault.find_node(&id, &source).unwrap().unwrap().subtree.unwrap();
    let trees: Vec<_> = vault.snapshots().unwrap().into_iter().map(|(id, _)| tree_of(id)).collect();
    assert_eq!(trees.len(), 2);
    let blob = |id: &levee_vault::Id| scratch.restic(&["cat", "blob", &id.to_hex()]);
    assert_eq!(blob(&trees[0]), blob(&trees[1]));
    assert_eq!(trees[0], trees[1]);
}

#[test]
fn holes_stay_holes_with_either_program() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new();
    let source = scratch.path("source");
    std::fs::create_dir(&source).unwrap();
    let file = std::fs::File::create(source.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(3 << 20, 7), 30 << 20).unwrap();
    file.set_len(64 << 20).unwrap();
    let vault = scratch.init();
    let summary = backup(&vault, &source);
    assert!(summary.data_added_bytes < 8 << 20, "{summary:?}");
    let ours = scratch.path("ours");
    let options = RestoreOptions { verify: true, ..Default::default() };
    restore_with(&vault, summary.snapshot_id.unwrap(), &source, &ours, options);
    assert_same(&source, &ours);
    let mut targets = vec![ours];
    if restic_knows("restore", "--sparse") {
        let theirs = scratch.path("theirs");
        scratch.restic(&["restore", "latest", "--sparse", "--target", theirs.to_str().unwrap()]);
        targets.push(below(&theirs, &source));
    }
    for root in targets {
        let blocks = std::fs::metadata(root.join("sparse")).unwrap().blocks() * 512;
        assert!(blocks < 8 << 20, "{root:?}: {blocks}");
    }
}

/// The commands of docs/formats/vault.md, as they stand there.
#[test]
fn the_documented_commands_of_stock_restic_restore_a_vault() {
    let page = include_str!("../../../../docs/formats/vault.md");
    let section = page.split("## Restoring with stock restic alone").nth(1).unwrap();
    let commands = section.split("```sh").nth(1).unwrap().split("```").next().unwrap();
    let scratch = Scratch::new();
    let source = scratch.path("source");
    make_zoo(&source);
    remove_what_restic_loses(&source);
    backup(&scratch.init(), &source);
    let (password, target) = (scratch.path("password"), scratch.path("restored"));
    std::fs::write(&password, PASSWORD).unwrap();
    let places = [
        ("/srv/vault", scratch.path("repository")),
        ("/root/vault-password", password),
        ("/srv/restored", target.clone()),
        ("restic ", restic_program().into()),
    ];
    let mut script = commands.to_string();
    for (written, place) in places {
        assert!(script.contains(written), "{written} is not in {commands}");
        let end = if written.ends_with(' ') { " " } else { "" };
        script = script.replace(written, &format!("{}{end}", place.display()));
    }
    let ran = Command::new("bash").args(["-e", "-c", &script]).env("RESTIC_CACHE_DIR", scratch.path("cache")).output();
    let ran = ran.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_same(&source, &below(&target, &source));
}
