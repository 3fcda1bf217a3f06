//! Files out of an image: asked first, and read back.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use levee_testing::image::{ext4_of, xfs};
use serde_json::{Value, json};

use super::Case;
use super::tree::noise;

/// The summary of `levee vault image restore` of the whole image.
#[track_caller]
fn restore(case: &Case, target: &Path, more: &[&str]) -> Value {
    let arguments = ["image", "restore", "latest", "disk.raw:/", "--target", target.to_str().unwrap()];
    let lines = case.json(&[&arguments[..], more].concat());
    lines.into_iter().find(|line| line["message_type"] == "summary").expect("a summary")
}

/// With a snapshot of an image that holds two files, 200,005 bytes.
fn with_image() -> Case {
    let case = Case::with_vault();
    let (content, image) = (case.path("content"), case.path("disk.raw"));
    fs::create_dir_all(content.join("etc")).unwrap();
    fs::write(content.join("etc/large"), noise(8, 200_000)).unwrap();
    fs::write(content.join("small"), b"small").unwrap();
    ext4_of(&content, &image, 64, &[]);
    case.backup(&["--image", image.to_str().unwrap()]);
    case
}

#[test]
fn it_can_be_asked_what_would_be_restored() {
    let case = with_image();
    let target = case.path("out");
    let same = |line: &Value| (line["files_unchanged"].clone(), line["bytes_unchanged"].clone());
    let would = restore(&case, &target, &["--dry-run"]);
    assert_eq!((&would["dry_run"], same(&would)), (&json!(true), (json!(0), json!(0))), "{would}");
    assert!(!target.exists());
    let done = restore(&case, &target, &[]);
    for field in ["files_restored", "directories", "others", "bytes_restored", "errors"] {
        assert_eq!(would[field], done[field], "{field}");
    }
    assert_eq!((&done["files_restored"], &done["bytes_restored"]), (&json!(2), &json!(200_005)));

    // What stands there is told from what is another content of the same length.
    assert_eq!(same(&restore(&case, &target, &["--dry-run"])), (json!(2), json!(200_005)));
    fs::write(target.join("small"), b"other").unwrap();
    assert_eq!(same(&restore(&case, &target, &["--dry-run"])), (json!(1), json!(200_000)));
    assert_eq!(fs::read(target.join("small")).unwrap(), b"other");
    let text = case.levee(&["image", "restore", "latest", "disk.raw:/", "-n", "--target", target.to_str().unwrap()]);
    assert!(text.contains("would restore 2 files"), "{text}");
}

#[test]
fn what_was_restored_is_read_back() {
    let case = with_image();
    let target = case.path("out");
    assert_eq!(restore(&case, &target, &["--verify"])["errors"], 0);
    let text = case.levee(&["image", "restore", "latest", "disk.raw:/", "--verify", "-t", target.to_str().unwrap()]);
    assert!(text.contains("found right"), "{text}");
    assert_eq!(fs::read(target.join("etc/large")).unwrap(), noise(8, 200_000));
    // What could not be written is named once: a folder cannot give way to a file.
    fs::remove_file(target.join("small")).unwrap();
    fs::create_dir_all(target.join("small/inside")).unwrap();
    let arguments = ["image", "restore", "latest", "disk.raw:/", "--verify", "-t", target.to_str().unwrap()];
    let error = case.levee_fails(1, &arguments);
    assert_eq!(error.matches("/small: ").count(), 1, "{error}");
    assert!(error.contains("1 entries could not be restored"), "{error}");
}

#[test]
fn a_file_comes_out_of_xfs() {
    let case = Case::with_vault();
    let (file, protofile, image) = (case.path("file"), case.path("protofile"), case.path("disk.raw"));
    fs::write(&file, noise(9, 200_000)).unwrap();
    // mkfs.xfs(8): the root, a folder, and a file in it with its mode and owners.
    let content = format!("/boot\n0 0\nd--755 0 0\netc d--755 0 0\nlarge ---640 1234 56 {}\n$\n$\n", file.display());
    fs::write(&protofile, content).unwrap();
    let options = ["-L", "system", "-p"].map(OsStr::new);
    xfs(&image, 330, &[&options[..], &[protofile.as_os_str()]].concat());
    case.backup(&["--image", image.to_str().unwrap()]);

    let parts = case.json(&["image", "ls", "latest", "disk.raw"]);
    assert_eq!((&parts[0]["contents"], &parts[0]["label"]), (&json!("xfs"), &json!("system")), "{parts:?}");
    let listed = case.json(&["image", "ls", "latest", "disk.raw:/etc"]);
    let of = |field: &str| listed.iter().map(|line| line[field].clone()).collect::<Vec<_>>();
    assert_eq!((of("path"), of("size")), (vec![json!("/etc/large")], vec![json!(200_000)]));
    assert_eq!((of("mode"), of("uid"), of("gid")), (vec![json!(0o640)], vec![json!(1234)], vec![json!(56)]));

    let target = case.path("out");
    let arguments =
        ["image", "restore", "latest", "disk.raw:/etc/large", "--verify", "--target", target.to_str().unwrap()];
    let lines = case.json(&arguments);
    let summary = lines.iter().find(|line| line["message_type"] == "summary").expect("a summary");
    assert_eq!((&summary["files_restored"], &summary["errors"]), (&json!(1), &json!(0)), "{summary}");
    let restored = target.join("large");
    assert_eq!(fs::read(&restored).unwrap(), noise(9, 200_000));
    let metadata = fs::metadata(&restored).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 1234, 56));
}

/// Also where nothing has to be thawed, and where the image is not there.
#[test]
fn asking_for_what_is_frozen_writes_no_image() {
    let case = with_image();
    let target = case.path("out.raw");
    let restore = |image: &'static str| {
        ["restore", "latest", "--thaw-only", "--target", target.to_str().unwrap(), "--image", image]
    };
    let said = case.json(&restore("disk.raw")).pop().unwrap();
    assert_eq!((&said["packs_frozen"], &said["packs_thawing"]), (&json!(0), &json!(0)), "{said}");
    assert!(case.levee(&restore("disk.raw")).contains("can be read"));
    assert!(case.levee_fails(1, &restore("none.raw")).contains("none.raw"));
    assert!(!target.exists());
    // Without it the whole image comes.
    case.levee(&["restore", "latest", "--target", target.to_str().unwrap(), "--image", "disk.raw"]);
    assert!(fs::read(&target).unwrap() == fs::read(case.path("disk.raw")).unwrap());
}
