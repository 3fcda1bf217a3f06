//! Disk images in a vault, with `qemu-img` and stock restic as witnesses.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use levee_testing::image::{LoopDevice, assert_same_content, assert_sound_qcow2, empty, ext4_of, partition, qemu_img};
use levee_testing::{leave_out, restic, tools};
use serde_json::Value;

use super::tree::noise;
use super::{Case, PASSWORD, below};

/// Two segments, of which the second is short.
const DISK_BYTES: u64 = (1 << 30) + (64 << 20);

/// A disk of which 5 MB are not holes.
fn sparse_disk(path: &Path) {
    empty(path, DISK_BYTES);
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&noise(1, 3_000_000), 10 << 20).unwrap();
    file.write_all_at(&[0; 900_000], 100 << 20).unwrap();
    file.write_all_at(&b"the same words ".repeat(60_000), (1 << 30) - 300_000).unwrap();
    file.write_all_at(&noise(2, 1000), DISK_BYTES - 1000).unwrap();
}

fn same(a: &Path, b: &Path) -> bool {
    Command::new("cmp").arg("-s").args([a, b]).status().unwrap().success()
}

fn summary(case: &Case, arguments: &[&str]) -> Value {
    let lines = case.json(arguments);
    lines.into_iter().find(|line| line["message_type"] == "summary").expect("a summary")
}

fn stored_bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn an_image_comes_back_and_only_what_differs_is_written() {
    let case = Case::with_vault();
    let disk = case.path("disk.raw");
    sparse_disk(&disk);
    let image = disk.to_str().unwrap();
    let would = case.backup(&["--image", image, "--dry-run"]);
    assert_eq!(case.json(&["snapshots"])[0], serde_json::json!([]));
    let first = case.backup(&["--image", image]);
    assert_eq!((&first["files_new"], &first["total_bytes_processed"]), (&1.into(), &DISK_BYTES.into()));
    assert_eq!(would["data_added"], first["data_added"]);
    assert!(first["data_added"].as_u64().unwrap() < 7_000_000, "{first}");

    // Untouched it is not read again.
    let again = case.backup(&["--image", image]);
    assert_eq!((&again["files_unmodified"], &again["data_blobs"]), (&1.into(), &0.into()));
    // A page in the second segment: one chunk, since chunks of zeros are stored already, and the trees above it.
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&noise(9, 4096), (1 << 30) + (20 << 20)).unwrap();
    let changed = case.backup(&["--image", image]);
    assert_eq!((&changed["files_changed"], &changed["data_blobs"]), (&1.into(), &1.into()), "{changed}");
    assert!(changed["data_added"].as_u64().unwrap() < 1 << 20, "{changed}");

    let target = case.path("restored.img");
    let target_text = target.to_str().unwrap();
    let restore = |more: &[&str]| {
        summary(&case, &[&["restore", "latest", "--image", "disk.raw", "--target", target_text], more].concat())
    };
    assert!(restore(&["--dry-run"])["bytes_restored"].as_u64().unwrap() > 3_000_000);
    assert!(!target.exists());
    let done = restore(&["--verify"]);
    assert_eq!((&done["image_format"], &done["errors"]), (&"raw".into(), &0.into()));
    assert!(same(&disk, &target));
    assert!(stored_bytes(&target) < 10 << 20, "it is sparse");

    // Once more: nothing. With damage, and dirt where there was a hole: exactly that.
    assert_eq!(restore(&["--verify"])["bytes_restored"], 0);
    let damaged = File::options().write(true).open(&target).unwrap();
    damaged.write_all_at(b"damage", 11 << 20).unwrap();
    damaged.write_all_at(b"dirt", 700 << 20).unwrap();
    let would = restore(&["--dry-run"]);
    assert!(!same(&disk, &target));
    let done = restore(&[]);
    assert_eq!(done["bytes_restored"], 65_536 + 524_288);
    assert_eq!(would["bytes_restored"], done["bytes_restored"]);
    assert!(same(&disk, &target));
    assert!(stored_bytes(&target) < 10 << 20, "the hole is back");

    let error = case.levee_fails(1, &["restore", "latest", "--image", "disk", "--target", target_text]);
    assert!(error.contains("it has") && error.contains("disk.raw"), "{error}");
    let small = case.path("small");
    fs::write(&small, b"mine").unwrap();
    let error = case.levee_fails(1, &["restore", "latest", "--image", image, "--target", small.to_str().unwrap()]);
    assert!(error.contains("holds 4 bytes"), "{error}");
    assert_eq!(fs::read(&small).unwrap(), b"mine");
}

#[test]
fn qcow2_goes_in_and_comes_out_as_either() {
    let case = Case::with_vault();
    let (raw, qcow2) = (case.path("disk.raw"), case.path("disk.qcow2"));
    sparse_disk(&raw);
    qemu_img(&["convert", "-c", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()]);
    let first = case.backup(&["--image", raw.to_str().unwrap()]);
    // The same content in another form: nothing new but the description.
    let second = case.backup(&["--image", qcow2.to_str().unwrap()]);
    assert_eq!(second["data_blobs"], 1, "{second}");
    assert_eq!(second["total_bytes_processed"], first["total_bytes_processed"]);
    for (name, format) in [("out.qcow2", "qcow2"), ("out.img", "raw")] {
        let target = case.path(name);
        let restore = ["restore", "latest", "--image", "disk.qcow2", "--verify", "--target", target.to_str().unwrap()];
        assert_eq!(summary(&case, &restore)["image_format"], format);
        assert_same_content(&raw, &target);
        assert!(stored_bytes(&target) < 10 << 20);
        assert_eq!(summary(&case, &restore)["bytes_restored"], 0);
    }
    let target = case.path("out.qcow2");
    assert_sound_qcow2(&target);
    qemu_img(&["snapshot", "-c", "kept", target.to_str().unwrap()]);
    // An older state into the image that is there.
    let file = File::options().write(true).open(&raw).unwrap();
    file.write_all_at(&noise(5, 100_000), 200 << 20).unwrap();
    file.write_all_at(&[0; 1_000_000], 10 << 20).unwrap();
    case.backup(&["--image", raw.to_str().unwrap()]);
    let arguments = ["restore", "latest", "--image", "disk.raw", "--target", target.to_str().unwrap()];
    let before = fs::read(&target).unwrap();
    let would = summary(&case, &[&arguments[..], &["--dry-run"]].concat());
    assert!(fs::read(&target).unwrap() == before, "a dry run has written to the image");
    let done = summary(&case, &arguments);
    assert!(done["bytes_restored"].as_u64().unwrap() < 2_000_000);
    assert_eq!(would["bytes_restored"], done["bytes_restored"]);
    assert_same_content(&raw, &target);
    assert_sound_qcow2(&target);
}

#[test]
fn stock_restic_alone_brings_an_image_back() {
    let case = Case::with_vault();
    let disk = case.path("disk.raw");
    sparse_disk(&disk);
    case.backup(&["--image", disk.to_str().unwrap()]);
    for restic in restic::versions() {
        let checked = restic.run(&case.vault, PASSWORD, &["check", "--read-data"]);
        assert!(checked.contains("no errors were found"), "{checked}");
        // As docs/formats/image.md says.
        let (folder, whole) = (case.path(restic.version()), case.path("whole.raw"));
        let image = below(&folder, &disk);
        restic.run(&case.vault, PASSWORD, &["restore", "latest", "--target", folder.to_str().unwrap()]);
        let joined = format!("cat '{}'/segment-*/data > '{}'", image.display(), whole.display());
        assert!(Command::new("sh").args(["-c", &joined]).status().unwrap().success());
        assert!(same(&disk, &whole), "restic {}", restic.version());
        fs::remove_dir_all(&folder).unwrap();
    }
    // Without room for the parts, one after the other, and with holes.
    let restic = restic::Restic::distribution();
    let whole = case.path("dumped.raw");
    let script = format!(
        "set -e; for segment in $('{0}' ls latest --no-cache | grep '/segment-[0-9]*/data$' | sort); do \
         '{0}' dump latest --no-cache \"$segment\"; done | dd of='{1}' bs=64k iflag=fullblock conv=sparse status=none; \
         truncate -s {2} '{1}'",
        restic.program().display(),
        whole.display(),
        DISK_BYTES
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("RESTIC_REPOSITORY", &case.vault).env("RESTIC_PASSWORD", PASSWORD);
    assert!(shell.status().unwrap().success());
    assert!(same(&disk, &whole) && stored_bytes(&whole) < 10 << 20);
}

#[test]
fn a_device_is_a_source_and_a_target() {
    let case = Case::with_vault();
    let (file, other) = (case.path("file"), case.path("other"));
    empty(&file, 40 << 20);
    empty(&other, 50 << 20);
    File::options().write(true).open(&file).unwrap().write_all_at(&noise(3, 2_000_000), 1 << 20).unwrap();
    let (source, target) = (LoopDevice::over(&file), LoopDevice::over(&other));
    let path = source.path().to_str().unwrap();
    case.backup(&["--image", path]);
    // Its times say nothing: it is read again, and nothing is new.
    let again = case.backup(&["--image", path]);
    assert_eq!((&again["files_changed"], &again["data_blobs"]), (&1.into(), &0.into()));
    let target_text = target.path().to_str().unwrap();
    let arguments = ["restore", "latest", "--image", path, "--verify", "--target", target_text];
    let would = summary(&case, &[&arguments[..], &["--dry-run"]].concat());
    assert!(fs::read(&other).unwrap().iter().all(|byte| *byte == 0), "a dry run has written to the device");
    let done = summary(&case, &arguments);
    assert!(done["bytes_restored"].as_u64().unwrap() < 3 << 20);
    assert_eq!((&would["bytes_restored"], &would["bytes_skipped"]), (&done["bytes_restored"], &done["bytes_skipped"]));
    assert_eq!(summary(&case, &arguments)["bytes_restored"], 0);
    drop(target);
    assert!(fs::read(&other).unwrap()[..40 << 20] == fs::read(&file).unwrap());
}

#[test]
fn what_is_lost_in_the_vault_is_named_and_the_rest_comes_back() {
    let case = Case::with_vault();
    let disk = case.path("disk.raw");
    fs::write(&disk, noise(4, 40_000_000)).unwrap();
    case.backup(&["--image", disk.to_str().unwrap()]);
    let packs =
        Command::new("find").arg(case.vault.join("data")).args(["-type", "f", "-size", "+10M"]).output().unwrap();
    let pack = String::from_utf8(packs.stdout).unwrap().lines().next().unwrap().to_string();
    fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    File::options().write(true).open(&pack).unwrap().write_all_at(b"damage", 1 << 20).unwrap();
    let target = case.path("target");
    let restore = ["restore", "latest", "--image", "disk.raw", "--verify", "--target", target.to_str().unwrap()];
    let error = case.levee_fails(1, &restore);
    assert!(error.contains("are lost") && error.contains("not whole"), "{error}");
    // The target's disk is not to blame.
    assert!(!error.contains("check the disk"), "{error}");
    let (found, expected) = (fs::read(&target).unwrap(), fs::read(&disk).unwrap());
    let differing = found.chunks(65_536).zip(expected.chunks(65_536)).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 1);
}

#[test]
fn files_are_listed_and_restored_out_of_an_image() {
    let case = Case::with_vault();
    let content = case.path("content");
    fs::create_dir_all(content.join("etc/deep")).unwrap();
    fs::write(content.join("etc/deep/file"), noise(6, 300_000)).unwrap();
    fs::write(content.join("etc/empty"), b"").unwrap();
    std::os::unix::fs::chown(content.join("etc/deep/file"), Some(1234), Some(56)).unwrap();
    std::os::unix::fs::symlink("etc/deep", content.join("link")).unwrap();
    let (part, disk) = (case.path("part"), case.path("disk.raw"));
    ext4_of(&content, &part, 64, &["-L", "root"]);
    empty(&disk, 80 << 20);
    partition(&disk, "label: gpt\nstart=1MiB, size=4MiB\nstart=8MiB, size=64MiB, name=system\n");
    File::options().write(true).open(&disk).unwrap().write_all_at(&fs::read(&part).unwrap(), 8 << 20).unwrap();
    case.backup(&["--image", disk.to_str().unwrap(), part.to_str().unwrap()]);

    let images = case.json(&["image", "ls", "latest"]);
    assert_eq!((images.len(), &images[0]["name"], &images[0]["size"]), (2, &"disk.raw".into(), &(80 << 20).into()));
    let partitions = case.json(&["image", "ls", "latest", "disk.raw"]);
    let of = |field: &str| partitions.iter().map(|line| line[field].clone()).collect::<Vec<_>>();
    assert_eq!(of("number"), [1, 2]);
    assert_eq!(of("contents"), ["unknown", "ext4"]);
    assert_eq!((&partitions[1]["label"], &partitions[1]["name"]), (&"root".into(), &"system".into()));

    let listed = case.json(&["image", "ls", "latest", "disk.raw:2/", "--recursive"]);
    let expected = Command::new("find").arg(&content).args(["-mindepth", "1", "-printf", "x"]).output().unwrap();
    // And lost+found.
    assert_eq!(listed.len(), expected.stdout.len() + 1);
    // The only file system is found without its number.
    assert_eq!(
        case.json(&["image", "ls", "latest", "disk.raw:/"]).len(),
        case.json(&["image", "ls", "latest", "part:/"]).len()
    );

    let some = listed.iter().find(|node| node["type"] == "file" && node["size"].as_u64() > Some(0)).unwrap();
    let inside = some["path"].as_str().unwrap();
    let dumped = case.command(&["image", "dump", "latest", &format!("disk.raw:2{inside}")]).output().unwrap();
    assert!(dumped.status.success());
    assert_eq!(dumped.stdout, fs::read(below(&content, Path::new(inside))).unwrap());
    let target = case.path("out");
    let restore = summary(
        &case,
        &["image", "restore", "latest", &format!("disk.raw:2{inside}"), "--target", target.to_str().unwrap()],
    );
    assert_eq!((&restore["files_restored"], &restore["errors"]), (&1.into(), &0.into()));
    let restored = target.join(Path::new(inside).file_name().unwrap());
    assert_eq!(fs::read(&restored).unwrap(), dumped.stdout);
    let (ours, theirs) = (fs::metadata(&restored).unwrap(), fs::metadata(below(&content, Path::new(inside))).unwrap());
    assert_eq!((ours.mode(), ours.uid(), ours.mtime()), (theirs.mode(), theirs.uid(), theirs.mtime()));

    for (place, expected) in
        [("disk.raw:1/", "no file system"), ("disk.raw:3/", "no partition 3"), ("nothing:1/", "no image nothing")]
    {
        let error = case.levee_fails(1, &["image", "ls", "latest", place]);
        assert!(error.contains(expected), "{place}: {error}");
    }
}

/// Writes `share` percent of the 4 KiB pages, at random places.
fn scatter(path: &Path, bytes: u64, share: u64) {
    let file = File::options().write(true).open(path).unwrap();
    let pages = bytes / 4096;
    let choices = noise(77, (pages * share / 100 * 8) as usize);
    for (number, choice) in (1_u64..).zip(choices.chunks_exact(8)) {
        let page = u64::from_le_bytes(choice.try_into().unwrap()) % pages;
        file.write_all_at(&noise(number, 4096), page * 4096).unwrap();
    }
}

#[test]
fn scattered_changes_cost_their_chunks_alone() {
    // LEVEE_IMAGE_MIB makes it larger, for docs/performance.md.
    let mebibytes = std::env::var("LEVEE_IMAGE_MIB").ok().and_then(|size| size.parse().ok()).unwrap_or(48);
    let bytes: u64 = mebibytes << 20;
    let case = Case::with_vault();
    let (disk, theirs) = (case.path("disk.raw"), case.path("theirs"));
    let image = disk.to_str().unwrap();
    let file = File::create(&disk).unwrap();
    for mebibyte in 0..mebibytes {
        file.write_all_at(&noise(1000 + mebibyte, 1 << 20), mebibyte << 20).unwrap();
    }
    let restic = restic::Restic::newest().unwrap_or_else(restic::Restic::distribution);
    restic.run(&theirs, PASSWORD, &["init"]);
    let stored_by_restic = || {
        let printed = restic.run(&theirs, PASSWORD, &["backup", image, "--json"]);
        let summary: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
        summary["data_added"].as_u64().unwrap()
    };
    case.backup(&["--image", image]);
    stored_by_restic();
    scatter(&disk, bytes, 1);
    let ours = case.backup(&["--image", image])["data_added"].as_u64().unwrap();
    let restics = stored_by_restic();
    println!("1 % of the pages of {mebibytes} MiB at random: levee adds {ours} bytes, restic {restics}");
    assert!(ours < bytes / 5, "{ours} of {bytes}");
    assert!(ours < restics / 3, "{ours} against {restics}");
}

#[test]
fn an_image_that_was_encrypted_from_within_is_warned_of() {
    let case = Case::with_vault();
    let disk = case.path("disk.raw");
    let image = disk.to_str().unwrap();
    empty(&disk, 64 << 20);
    let file = File::options().write(true).open(&disk).unwrap();
    let words = |number: u64| format!("{number}: words and more words\n").repeat(80_000).into_bytes();
    for mebibyte in 0..32 {
        file.write_all_at(&words(mebibyte)[..1 << 20], mebibyte << 20).unwrap();
    }
    let signs = |summary: &Value| summary["ransomware_signs"].clone();
    assert_eq!(signs(&case.backup(&["--image", image])), Value::Null, "the first");
    file.write_all_at(&noise(50, 1 << 20), 40 << 20).unwrap();
    file.write_all_at(&words(99)[..1 << 20], 3 << 20).unwrap();
    let sound = case.backup(&["--image", image]);
    assert_eq!(signs(&sound), Value::Null, "an ordinary day");
    file.write_all_at(&noise(51, 16 << 20), 8 << 20).unwrap();
    // The exit code is that of any other backup: it is stored, and whoever sees the warning decides.
    let encrypted = case.backup(&["--image", image]);
    let expected = serde_json::json!([{"sign": "image_scrambled", "image": image, "bytes": 16 << 20, "of": 33 << 20}]);
    assert_eq!(signs(&encrypted), expected, "{encrypted}");
    file.write_all_at(&noise(52, 16 << 20), 8 << 20).unwrap();
    assert_eq!(signs(&case.backup(&["--image", image])), Value::Null, "noise in the place of noise");
    file.write_all_at(&noise(53, 16 << 20), 8 << 20).unwrap();
    let text = case.levee(&["backup", "--image", image, "--parent", sound["snapshot_id"].as_str().unwrap()]);
    assert!(text.contains("WARNING: this looks like ransomware at work: 16 of 33 MiB of image"), "{text}");
}

/// Where a backup reads an image, as strace sees it: each offset, and how many bytes.
fn reads_of_backup(case: &Case, strace: &Path, image: &Path) -> Vec<(u64, u64)> {
    let traces = case.path("traces");
    fs::create_dir(&traces).unwrap();
    let backup = case.command(&["backup", "--image", image.to_str().unwrap()]);
    let mut traced = Command::new(strace);
    // A file for each thread, so that no line is torn by another one's.
    traced.args(["-ff", "-y", "-s", "0", "-e", "trace=read,pread64,readv,preadv,preadv2,mmap", "-o"]);
    traced.arg(traces.join("trace")).arg("--").arg(backup.get_program()).args(backup.get_args());
    for (name, value) in backup.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    let output = traced.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let of_image = format!("<{}>", image.display());
    let mut reads = Vec::new();
    for entry in fs::read_dir(&traces).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines().filter(|line| line.contains(&of_image)) {
            // pread64(9</disk.raw>, ""..., 524288, 10485760) = 524288
            let parsed = line.rsplit_once(" = ").and_then(|(call, count)| {
                let call = call.trim_end().strip_suffix(')')?.strip_prefix("pread64(")?;
                Some((call.rsplit_once(", ")?.1.parse().ok()?, count.parse().ok()?))
            });
            reads.push(parsed.unwrap_or_else(|| panic!("the image is read in another way: {line}")));
        }
    }
    reads
}

#[test]
fn a_backup_reads_no_block_in_which_an_image_has_nothing() {
    // What is looked at and read at once.
    const BLOCK_BYTES: u64 = 512 << 10;
    let Some(strace) = tools::find("strace") else { return leave_out("strace is not installed") };
    let case = Case::with_vault();
    let disk = case.path("disk.raw");
    sparse_disk(&disk);
    let has_data =
        [(10 << 20, 3_000_000), (100 << 20, 900_000), ((1 << 30) - 300_000, 900_000), (DISK_BYTES - 1000, 1000)];
    let reads = reads_of_backup(&case, &strace, &disk);
    let first_bytes = |(offset, count): &&(u64, u64)| *offset == 0 && *count <= 4;
    let read: u64 = reads.iter().filter(|read| !first_bytes(read)).map(|(_, count)| count).sum();
    for (offset, count) in reads.iter().filter(|read| !first_bytes(read)) {
        let (from, to) = (offset / BLOCK_BYTES * BLOCK_BYTES, (offset + count).next_multiple_of(BLOCK_BYTES));
        let is_needed = has_data.iter().any(|(start, length): &(u64, u64)| *start < to && start + length > from);
        assert!(is_needed, "{count} bytes at {offset} were read, where there is nothing");
    }
    let most = (3_000_000 + 900_000 * 2 + 1000) + 2 * BLOCK_BYTES * has_data.len() as u64;
    assert!((4_800_000..most).contains(&read), "{read} of {DISK_BYTES} bytes were read");
}
