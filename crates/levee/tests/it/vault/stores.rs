//! Vaults on stores of every kind, with stock restic on the same store as the witness.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use levee_store::object_store::{KeyPair, S3Options, Service, TransportOptions};
use levee_store::{BucketAddress, Entry, FileType, ObjectStore, Store, content_name};
use levee_testing::ceph::{ACCESS_KEY, Ceph, SECRET_KEY};
use levee_testing::glacier::{ARCHIVE_CLASS, Glacier};
use levee_testing::image::{empty, ext4_of};
use levee_testing::process::run;
use levee_testing::restic;
use levee_testing::sshd::Sshd;
use levee_testing::webdav::{self, WebDav};

use super::tree::{self, assert_same_to_restic, noise};
use super::{Case, PASSWORD, below, command, fail, succeed};

/// With every restic.
fn work_together(case: &Case, levee: &dyn Fn() -> Command, restic: &dyn Fn(&restic::Restic) -> Command) {
    work_together_with(&restic::versions(), case, levee, restic);
}

/// Levee and each restic back up to the same vault, check it, and restore what the others wrote.
pub fn work_together_with(
    versions: &[restic::Restic],
    case: &Case,
    levee: &dyn Fn() -> Command,
    restic: &dyn Fn(&restic::Restic) -> Command,
) {
    let source = case.path("source");
    tree::make(&source);
    let path = |path: &Path| path.to_str().unwrap().to_string();
    succeed(levee().arg("init"));
    succeed(levee().args(["backup", &path(&source)]));
    // The old one last: what it writes lacks a link that it cannot keep.
    for version in versions.iter().rev() {
        let target = |name: &str| case.path(&format!("{name}-{}", version.version()));
        let restored = target("levees-by-restic");
        succeed(restic(version).args(["check", "--read-data"]));
        succeed(restic(version).args(["restore", "latest", "--target", &path(&restored)]));
        assert_same_to_restic(version, &source, &below(&restored, &source));
        std::fs::write(source.join("new"), version.version()).unwrap();
        succeed(restic(version).args(["backup", &path(&source)]));
        let restored = target("restics-by-levee");
        succeed(levee().args(["restore", "latest", "--target", &path(&restored)]));
        assert_same_to_restic(version, &source, &below(&restored, &source));
    }
    succeed(levee().args(["check", "--read-data"]));
}

#[test]
fn sftp() {
    let (case, sshd) = (Case::new(), Sshd::start());
    let vault = format!("sftp://127.0.0.1:{}/{}/vault", sshd.port(), sshd.folder().display());
    let arguments = sshd.client_arguments().join(" ");
    let levee = || {
        let mut command = command(&vault);
        command.env("LEVEE_PASSWORD", PASSWORD).args(["--sftp-args", &arguments]);
        command
    };
    let ssh = format!("sftp.command=ssh {arguments} -p {} 127.0.0.1 -s sftp", sshd.port());
    work_together(&case, &levee, &|restic| {
        let mut command = restic.command(&vault, PASSWORD);
        command.args(["-o", &ssh]);
        command
    });
}

#[test]
fn s3_on_ceph() {
    let (case, ceph) = (Case::new(), Ceph::start());
    let vault = format!("s3:{}/vaults/of/mine", ceph.endpoint());
    let with_keys = |mut command: Command| {
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command
    };
    let levee = || {
        let mut command = with_keys(command(&vault));
        command.env("LEVEE_PASSWORD", PASSWORD);
        command
    };
    work_together(&case, &levee, &|restic| with_keys(restic.command(&vault, PASSWORD)));
    only_what_is_referred_to_is_retained(&case, &ceph);
    what_a_thief_hides_or_overwrites_comes_back(&case, &ceph);
    what_a_thief_hides_or_overwrites_is_no_renewal(&case, &ceph);
    a_bucket_without_versions_brings_nothing_back(&ceph);
    files_that_cannot_be_locked_are_counted(&ceph);
    a_restore_thaws_what_it_needs(&case, &ceph);
}

/// `levee vault` on a vault at an endpoint.
fn on_s3(endpoint: &str, path: &str, arguments: &[&str]) -> Command {
    let mut command = command(format!("s3:{endpoint}/{path}"));
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    command.env("LEVEE_PASSWORD", PASSWORD).args(arguments);
    command
}

pub fn last_line(text: &str) -> serde_json::Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn only_what_is_referred_to_is_retained(case: &Case, ceph: &Ceph) {
    let levee = |arguments: &[&str]| {
        let locking = ["--s3-object-lock", "1"];
        succeed(&mut on_s3(&ceph.endpoint(), "locked/vault", &[&locking, arguments].concat()))
    };
    levee(&["init"]);
    let file = case.path("file");
    for content in ["one", "two"] {
        std::fs::write(&file, content).unwrap();
        levee(&["backup", file.to_str().unwrap()]);
    }
    // Config, key, two snapshots, two index files; a pack of contents and one of trees for each.
    let foreseen = last_line(&levee(&["retain", "--days", "3", "--dry-run", "--json"]));
    assert_eq!((&foreseen["files"], &foreseen["packs_left"]), (&10.into(), &0.into()));
    assert_eq!(days_locked(ceph).round(), 1.0, "a dry run has changed something");
    let retained = last_line(&levee(&["retain", "--days", "3", "--json"]));
    assert_eq!((&retained["files"], &retained["packs_left"]), (&10.into(), &0.into()));
    assert_eq!(days_locked(ceph).round(), 3.0);
    levee(&["forget", "--keep-last", "1"]);
    let retained = last_line(&levee(&["retain", "--days", "3", "--json"]));
    // One snapshot fewer, and one index file more, which remembers it.
    assert_eq!((&retained["files"], &retained["packs_left"]), (&8.into(), &2.into()));
}

/// A vault's files, for whoever has the keys of the bucket and not Levee.
fn files_of(ceph: &Ceph, bucket: &str) -> ObjectStore {
    let address = BucketAddress { endpoint: ceph.endpoint(), bucket: bucket.into(), path: "vault".into() };
    let keys = KeyPair { id: ACCESS_KEY.into(), secret: SECRET_KEY.into(), session_token: None };
    let options =
        S3Options { address, region: None, keys: Some(keys), profile: None, data_class: None, locked_for_days: None };
    ObjectStore::new(Service::S3(options), TransportOptions::default()).unwrap()
}

/// For how long the configuration of the locked vault cannot be removed.
fn days_locked(ceph: &Ceph) -> f64 {
    let store = files_of(ceph, "locked");
    let state = store.state(FileType::Config, "").unwrap().unwrap();
    state.locked_until.unwrap().duration_since(jiff::Timestamp::now()).as_hours() as f64 / 24.0
}

/// Every file but the locks.
fn all_files(store: &ObjectStore) -> Vec<(FileType, Entry)> {
    let types = FileType::ALL.into_iter().filter(|file_type| *file_type != FileType::Lock);
    let listed = |file_type| store.list(file_type).unwrap().into_iter().map(move |entry| (file_type, entry));
    let mut files: Vec<_> = types.flat_map(listed).collect();
    files.sort();
    files
}

/// Writes over a file of a vault in a bucket, as Levee never does.
fn overwrite(ceph: &Ceph, bucket: &str, path: &str, content: &str) {
    overwrite_with(ceph, bucket, path, content, &[]);
}

/// The same with headers, as options of `curl`.
fn overwrite_with(ceph: &Ceph, bucket: &str, path: &str, content: &str, headers: &[&str]) {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-S", "--fail", "-X", "PUT", "--aws-sigv4", "aws:amz:us-east-1:s3", "-u"]);
    curl.arg(format!("{ACCESS_KEY}:{SECRET_KEY}"));
    curl.args(["-H", &format!("x-amz-content-sha256: {}", content_name(content.as_bytes()))]).args(headers);
    run(curl.args(["--data-binary", content]).arg(format!("{}/{bucket}/vault/{path}", ceph.endpoint())));
}

fn what_a_thief_hides_or_overwrites_comes_back(case: &Case, ceph: &Ceph) {
    let levee = |arguments: &[&str]| {
        let locking = ["--s3-object-lock", "1"];
        on_s3(&ceph.endpoint(), "robbed/vault", &[&locking, arguments].concat())
    };
    succeed(&mut levee(&["init"]));
    let file = case.path("robbed");
    for content in ["one", "two", "three"] {
        std::fs::write(&file, content).unwrap();
        succeed(&mut levee(&["backup", file.to_str().unwrap()]));
    }
    let store = files_of(ceph, "robbed");
    let with_forgotten = store.list(FileType::Snapshot).unwrap();
    succeed(&mut levee(&["forget", "--keep-last", "2"]));
    let before = all_files(&store);
    assert_eq!((with_forgotten.len(), store.list(FileType::Snapshot).unwrap().len()), (3, 2));

    // The service gives whole seconds, by a clock of its own.
    std::thread::sleep(Duration::from_secs(2));
    let since = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_secs(1));
    let packs: Vec<_> = store.list(FileType::Data).unwrap().into_iter().map(|entry| entry.name).collect();
    for pack in &packs[..2] {
        overwrite(ceph, "robbed", &path_of(pack), "garbage");
        assert_eq!(store.read(FileType::Data, pack).unwrap(), b"garbage");
    }
    // Of these two, one cannot be removed either.
    let tomorrow = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let locked_until = format!("x-amz-object-lock-retain-until-date: {}", tomorrow.strftime("%Y-%m-%dT%H:%M:%SZ"));
    let locked = ["-H", "x-amz-object-lock-mode: COMPLIANCE", "-H", &locked_until];
    overwrite_with(ceph, "robbed", &path_of(&packs[0]), "garbage", &locked);
    overwrite(ceph, "robbed", "config", "garbage");
    let foreign = content_name(b"an index");
    overwrite(ceph, "robbed", &format!("index/{foreign}"), "garbage");
    let overwritten = [packs[0].as_str(), packs[1].as_str(), "", &foreign];
    let mut hidden: u64 = 0;
    for (file_type, Entry { name, .. }) in all_files(&store) {
        if !overwritten.contains(&name.as_str()) {
            store.remove(file_type, &name).unwrap();
            hidden += 1;
        }
    }
    let robbed = all_files(&store);
    assert_eq!(robbed.len(), overwritten.len());
    assert!(!levee(&["snapshots"]).output().unwrap().status.success());

    let repair = ["repair", "versions", "--since", &since, "--json"];
    let repair_with = |more: &[&str]| levee(&[&repair[..], more].concat());
    let counts = |text: &str| -> [u64; 5] {
        let summary = last_line(text);
        assert_eq!(
            (summary["message_type"].as_str(), summary["failed"].as_u64()),
            (Some("summary"), Some(0)),
            "{text}"
        );
        let kinds = summary["kinds"].as_array().unwrap();
        let sum = |field: &str| kinds.iter().map(|kind| kind[field].as_u64().unwrap()).sum::<u64>();
        ["hidden", "overwritten", "foreign", "lost", "written_again"].map(sum)
    };
    let foreseen = repair_with(&[]).output().unwrap();
    assert_eq!(foreseen.status.code(), Some(1));
    assert_eq!(counts(&String::from_utf8(foreseen.stdout).unwrap()), [hidden, 3, 1, 0, 0]);
    assert_eq!(all_files(&store), robbed, "a dry run has changed something");

    let done = counts(&succeed(&mut repair_with(&["--apply"])));
    assert_eq!(done, [hidden, 3, 1, 0, 1]);
    assert_eq!(all_files(&store), before);
    succeed(&mut levee(&["check", "--read-data"]));
    let target = case.path("unrobbed");
    succeed(&mut levee(&["restore", "latest", "--target", target.to_str().unwrap()]));
    assert_eq!(std::fs::read_to_string(below(&target, &file)).unwrap(), "three");
    // There is nothing more to do, and what was written again is locked as everything else is.
    assert_eq!(counts(&succeed(&mut repair_with(&[]))), [0; 5]);
    let state = store.state(FileType::Data, &packs[0]).unwrap().unwrap();
    assert!(state.locked_until.is_some(), "{state:?}");
}

/// The path of a pack in its vault.
fn path_of(pack: &str) -> String {
    format!("data/{}/{pack}", &pack[..2])
}

fn what_a_thief_hides_or_overwrites_is_no_renewal(case: &Case, ceph: &Ceph) {
    let levee = |arguments: &[&str]| {
        let locking = ["--s3-object-lock", "1"];
        on_s3(&ceph.endpoint(), "covered/vault", &[&locking, arguments].concat())
    };
    succeed(&mut levee(&["init"]));
    let file = case.path("covered");
    // Packs of contents are larger than those of trees.
    for seed in [1, 2] {
        std::fs::write(&file, noise(seed, 64 << 10)).unwrap();
        succeed(&mut levee(&["backup", file.to_str().unwrap()]));
    }
    let store = files_of(ceph, "covered");
    let mut packs = store.list(FileType::Data).unwrap();
    packs.sort_by_key(|pack| std::cmp::Reverse(pack.size_bytes));
    let (hidden, covered) = (&packs[0].name, &packs[1].name);
    let sound = last_line(&succeed(&mut levee(&["retain", "--days", "2", "--json"])));
    std::thread::sleep(Duration::from_secs(2));
    let since = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_secs(1));
    let retain = |more: &[&str]| levee(&[&["retain", "--days", "3"], more].concat());
    let retained = |code: i32| {
        let output = retain(&["--json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        last_line(&String::from_utf8(output.stdout).unwrap())
    };

    store.remove(FileType::Data, hidden).unwrap();
    let told = fail(1, &mut retain(&[]));
    assert!(told.contains(hidden) && told.contains("levee vault repair versions"), "{told}");
    fail(1, &mut retain(&["--dry-run"]));
    let renewed = retained(1);
    assert_eq!(renewed["missing"], serde_json::json!([hidden]), "{renewed}");
    assert_eq!(renewed["files"].as_u64().unwrap() + 1, sound["files"].as_u64().unwrap(), "the others are renewed");

    overwrite(ceph, "covered", &path_of(covered), &"x".repeat(packs[1].size_bytes as usize));
    let renewed = retained(1);
    assert_eq!((&renewed["failed"], &renewed["not_tried"]), (&1.into(), &0.into()), "{renewed}");
    let failure = renewed["first_failures"][0].to_string();
    assert!(failure.contains(covered) && failure.contains("locked anew"), "{failure}");
    assert_eq!(store.state(FileType::Data, covered).unwrap().unwrap().locked_until, None, "the junk is locked");

    succeed(&mut levee(&["repair", "versions", "--since", &since, "--apply"]));
    let renewed = retained(0);
    assert_eq!((&renewed["files"], &renewed["failed"]), (&sound["files"], &0.into()), "{renewed}");
    succeed(&mut levee(&["check", "--read-data"]));
}

fn a_bucket_without_versions_brings_nothing_back(ceph: &Ceph) {
    let arguments = ["repair", "versions", "--since", "2026-01-01", "--apply"];
    let refused = fail(1, &mut on_s3(&ceph.endpoint(), "vaults/of/mine", &arguments));
    assert!(refused.contains("keeps no versions"), "{refused}");
}

/// In a bucket without object lock: each of them.
fn files_that_cannot_be_locked_are_counted(ceph: &Ceph) {
    let retain =
        |more: &[&str]| on_s3(&ceph.endpoint(), "vaults/of/mine", &[&["retain", "--days", "1"], more].concat());
    let would = last_line(&succeed(&mut retain(&["--dry-run", "--json"])));
    let output = retain(&["--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let retained = last_line(&String::from_utf8(output.stdout).unwrap());
    assert_eq!((&retained["files"], &retained["failed"]), (&0.into(), &would["files"]), "{retained}");
    assert!((1..=20).contains(&retained["first_failures"].as_array().unwrap().len()), "{retained}");
    let told = fail(1, &mut retain(&[]));
    assert!(told.contains("not allowed to retain ") && told.contains("run it again"), "{told}");
}

fn a_restore_thaws_what_it_needs(case: &Case, ceph: &Ceph) {
    let glacier = Glacier::start(ceph.port(), 2);
    let levee = |arguments: &[&str]| on_s3(&glacier.endpoint(), "vaults/archive", arguments);
    let class = ["--s3-data-class", ARCHIVE_CLASS];
    let source = case.path("archived");
    for name in ["one", "two"] {
        std::fs::create_dir_all(source.join(name)).unwrap();
        std::fs::write(source.join(name).join("file"), name).unwrap();
    }
    let path = |path: &Path| path.to_str().unwrap().to_string();
    succeed(&mut levee(&[&class[..], &["init"]].concat()));
    for name in ["one", "two"] {
        succeed(&mut levee(&[&class[..], &["backup", &path(&source.join(name))]].concat()));
    }
    assert_eq!(glacier.counts(), (2, 0));
    // What is hot is enough for a listing, a check, and the next backup.
    succeed(&mut levee(&["ls", "latest"]));
    succeed(&mut levee(&["check"]));
    let refused = fail(1, &mut levee(&["check", "--read-data"]));
    assert!(refused.contains("2 packs") && refused.contains("levee vault thaw"), "{refused}");
    let refused = fail(1, &mut levee(&["dump", "latest", &path(&source.join("two/file"))]));
    assert!(refused.contains("levee vault thaw"), "{refused}");

    // What is there already needs no thawing.
    let target = case.path("thawed");
    std::fs::create_dir_all(below(&target, &source).join("two")).unwrap();
    std::fs::write(below(&target, &source).join("two/file"), "two").unwrap();
    let said = succeed(&mut levee(&["restore", "latest", "-t", &path(&target), "--thaw-only", "--json"]));
    assert_eq!(last_line(&said)["packs_thawing"], 0, "{said}");
    std::fs::remove_dir_all(&target).unwrap();
    let thaw_only = ["restore", "latest", "-t", &path(&target), "--thaw-only", "--json"];
    let said = last_line(&succeed(&mut levee(&thaw_only)));
    assert_eq!((&said["packs_thawing"], &said["packs_frozen"]), (&1.into(), &0.into()), "{said}");
    assert!(!target.exists());
    // Asked for, and not yet there: the restore waits for it, and asks for nothing else.
    let restore = ["restore", "latest", "-t", &path(&target), "--thaw-poll", "1s", "--json"];
    let said = succeed(&mut levee(&restore));
    let thaw: Vec<_> = said.lines().filter(|line| line.contains("\"thaw\"")).collect();
    assert!(thaw.len() >= 2 && thaw[0].contains("\"packs_thawing\":1"), "{said}");
    assert_eq!(std::fs::read_to_string(below(&target, &source).join("two/file")).unwrap(), "two");
    assert_eq!(glacier.counts(), (2, 1));
    // A verb of its own, for those that read and don't wait.
    let said = last_line(&succeed(&mut levee(&["thaw", "--all", "--wait", "--thaw-poll", "1s", "--json"])));
    assert_eq!((&said["packs_thawed"], &said["bytes_frozen"]), (&2.into(), &0.into()), "{said}");
    succeed(&mut levee(&["check", "--read-data"]));
    assert_eq!(succeed(&mut levee(&["dump", "latest", &path(&source.join("two/file"))])), "two");
    glacier.freeze();
    let said = succeed(&mut levee(&["thaw", "latest", "--dry-run"]));
    assert!(said.contains("nothing was asked for"), "{said}");
    assert_eq!(glacier.counts(), (2, 0));
    an_image_is_thawed_before_it_is_restored(case, &glacier);
    a_restore_over_an_image_asks_only_for_what_it_lacks(case, &glacier);
    a_file_comes_out_of_a_frozen_image(case, &glacier);
}

/// Also of a snapshot with two images: to find one, nothing is read of the other.
fn an_image_is_thawed_before_it_is_restored(case: &Case, glacier: &Glacier) {
    let levee = |arguments: &[&str]| on_s3(&glacier.endpoint(), "vaults/archive", arguments);
    let (disk, other, target) = (case.path("disk.raw"), case.path("other.raw"), case.path("thawed.raw"));
    let path = |path: &Path| path.to_str().unwrap().to_string();
    let words = |number: u64| format!("{number}: words and more words\n").repeat(10_240);
    // Two backups, so that the other image lies in packs of its own.
    for (number, image) in [(1, &other), (2, &disk)] {
        std::fs::write(image, words(number)).unwrap();
        let backup = ["backup", "--s3-data-class", ARCHIVE_CLASS, "--image", &path(image)];
        succeed(&mut levee(&backup));
    }
    let both = ["backup", "--s3-data-class", ARCHIVE_CLASS, "--image", "--force", &path(&other), &path(&disk)];
    succeed(&mut levee(&both));
    glacier.freeze();
    let asked = glacier.requests();
    let restore = |more: &[&str]| {
        let arguments = ["restore", "latest", "--image", "disk.raw", "-t", &path(&target), "--json"];
        succeed(&mut levee(&[&arguments[..], more].concat()))
    };
    let said = last_line(&restore(&["--dry-run"]));
    assert!(said["dry_run"] == true && said["packs_frozen"].as_u64() > Some(0), "{said}");
    let refused = fail(1, &mut levee(&["restore", "latest", "--image", "none.raw", "-t", &path(&target)]));
    assert!(refused.contains("no image none.raw"), "{refused}");
    assert_eq!((glacier.requests(), target.exists()), (asked, false));

    let said = last_line(&restore(&["--thaw-only"]));
    assert_eq!((&said["packs_frozen"], &said["packs_thawing"]), (&0.into(), &1.into()), "{said}");
    assert!(!target.exists(), "--thaw-only writes nothing");
    let said = restore(&["--thaw-poll", "1s"]);
    assert!(said.contains("\"thaw\"") && last_line(&said)["bytes_restored"].as_u64() > Some(0), "{said}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), words(2));
    assert_eq!(glacier.counts().1, 1);

    // What looks into an image asks only where that is wished, for it asks for all of the image.
    glacier.freeze();
    let asked = glacier.requests();
    let dump = ["image", "dump", "latest", "disk.raw"];
    let refused = fail(1, &mut levee(&dump));
    assert!(refused.contains("1 packs of ") && refused.contains("--thaw asks for all"), "{refused}");
    assert!(refused.contains("levee vault thaw"), "{refused}");
    // Nobody can tell lines of JSON from a file on standard output.
    let refused = fail(1, &mut levee(&[&dump[..], &["--thaw", "--json"]].concat()));
    assert!(refused.contains("--target"), "{refused}");
    assert_eq!(glacier.requests(), asked);
    assert_eq!(succeed(&mut levee(&[&dump[..], &["--thaw", "--thaw-poll", "1s"]].concat())), words(2));
    assert_eq!(glacier.counts().1, 1);
    glacier.freeze();
    succeed(&mut levee(&["thaw", "latest", "--wait", "--thaw-poll", "1s"]));
    assert_eq!(succeed(&mut levee(&dump)), words(2));
}

/// A pack for each backup: what describes the image, what it held first, and a chunk that was changed.
fn a_restore_over_an_image_asks_only_for_what_it_lacks(case: &Case, glacier: &Glacier) {
    let levee = |arguments: &[&str]| on_s3(&glacier.endpoint(), "vaults/archive", arguments);
    let (disk, target) = (case.path("changed.raw"), case.path("over.raw"));
    let path = |path: &Path| path.to_str().unwrap().to_string();
    let first = noise(21, 2 << 20);
    let mut second = first.clone();
    second[1 << 20..][..64 << 10].copy_from_slice(&noise(22, 64 << 10));
    let packs_before = glacier.counts().0;
    for content in [&vec![0; 2 << 20], &first, &second] {
        std::fs::write(&disk, content).unwrap();
        succeed(&mut levee(&["backup", "--s3-data-class", ARCHIVE_CLASS, "--image", "--force", &path(&disk)]));
    }
    assert_eq!(glacier.counts().0 - packs_before, 3);
    glacier.freeze();
    let asked = glacier.requests();
    let restore = |more: &[&str]| {
        let arguments = ["restore", "latest", "--image", "changed.raw", "-t", &path(&target), "--json"];
        succeed(&mut levee(&[&arguments[..], more].concat()))
    };
    assert_eq!(last_line(&restore(&["--dry-run"]))["packs_frozen"], 3);
    std::fs::write(&target, &second).unwrap();
    assert_eq!(last_line(&restore(&["--dry-run"]))["packs_frozen"], 1, "only what describes it");
    std::fs::write(&target, &first).unwrap();
    let said = last_line(&restore(&["--thaw-only"]));
    assert_eq!((&said["packs_frozen"], &said["packs_thawing"]), (&0.into(), &2.into()), "{said}");
    assert!(std::fs::read(&target).unwrap() == first, "--thaw-only writes nothing");
    let said = last_line(&restore(&["--thaw-poll", "1s"]));
    assert_eq!(said["bytes_restored"], 64 << 10, "{said}");
    assert!(std::fs::read(&target).unwrap() == second);
    assert_eq!((glacier.requests() - asked, glacier.counts().1), (2, 2));
}

fn a_file_comes_out_of_a_frozen_image(case: &Case, glacier: &Glacier) {
    let levee = |arguments: &[&str]| on_s3(&glacier.endpoint(), "vaults/archive", arguments);
    let (content, image, target) = (case.path("inside"), case.path("system.raw"), case.path("out"));
    let path = |path: &Path| path.to_str().unwrap().to_string();
    let backup =
        || succeed(&mut levee(&["backup", "--s3-data-class", ARCHIVE_CLASS, "--image", "--force", &path(&image)]));
    // What describes the image comes first, in a pack of its own.
    empty(&image, 64 << 20);
    backup();
    std::fs::create_dir_all(&content).unwrap();
    std::fs::write(content.join("file"), noise(23, 200_000)).unwrap();
    ext4_of(&content, &image, 64, &[]);
    backup();
    glacier.freeze();
    let refused = fail(1, &mut levee(&["image", "ls", "latest"]));
    assert!(refused.contains("1 packs with the descriptions") && refused.contains("--thaw asks for all"), "{refused}");
    let listed = succeed(&mut levee(&["image", "ls", "latest", "--thaw", "--thaw-poll", "1s"]));
    assert!(listed.contains("system.raw"), "{listed}");
    assert_eq!(glacier.counts().1, 1);
    // What comes through a file system says in words of its own why it could not be read.
    let refused = fail(1, &mut levee(&["image", "ls", "latest", "system.raw:/"]));
    assert!(refused.contains("packs of ") && refused.contains("--thaw asks for all"), "{refused}");

    let asked = glacier.requests();
    let restore = |more: &[&str]| {
        let arguments = ["image", "restore", "latest", "system.raw:/file", "-t", &path(&target), "--json"];
        succeed(&mut levee(&[&arguments[..], more].concat()))
    };
    let said = last_line(&restore(&["--thaw", "--dry-run"]));
    let frozen = said["packs_frozen"].as_u64().unwrap();
    assert!(said["dry_run"] == true && frozen > 0, "{said}");
    assert_eq!(glacier.requests(), asked);
    let said = last_line(&restore(&["--thaw-only"]));
    assert_eq!((&said["packs_frozen"], &said["packs_thawing"]), (&0.into(), &frozen.into()), "{said}");
    assert!(!target.exists(), "--thaw-only writes nothing");
    let said = restore(&["--thaw", "--thaw-poll", "1s", "--verify"]);
    let thaw: Vec<_> = said.lines().filter(|line| line.contains("\"thaw\"")).collect();
    assert!(thaw.len() >= 2 && thaw[0].contains(&format!("\"packs_thawing\":{frozen}")), "{said}");
    let summary = last_line(&said);
    assert_eq!((&summary["files_restored"], &summary["errors"]), (&1.into(), &0.into()), "{summary}");
    assert!(std::fs::read(target.join("file")).unwrap() == noise(23, 200_000));
}

#[test]
fn webdav() {
    let (case, server) = (Case::new(), WebDav::start());
    let vault = format!("webdav:{}/vault", server.url());
    let levee = || {
        let mut command = command(&vault);
        command.env("LEVEE_WEBDAV_USERNAME", webdav::USER).env("LEVEE_WEBDAV_PASSWORD", webdav::PASSWORD);
        command.env("LEVEE_PASSWORD", PASSWORD);
        command
    };
    // Stock restic has no WebDAV of its own: it works on the server's folder.
    let folder = server.folder().join("vault");
    work_together(&case, &levee, &|restic| restic.command(&folder, PASSWORD));
}
