//! Vaults at Azure and Google, on their emulators, found by the variables of those services' own tools.

use std::path::Path;
use std::process::Command;

use levee_testing::azurite::archive::Archive;
use levee_testing::azurite::{self, Azurite};
use levee_testing::gcs::{self, Gcs};
use levee_testing::restic::{self, Restic};

use super::stores::{last_line, work_together_with};
use super::tree::{self, assert_same, assert_same_to_restic};
use super::{Case, PASSWORD, below, command, fail, succeed};

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}

/// `levee vault` on a vault in a container, with the account's key.
fn on_azure(endpoint: &str, container: &str, arguments: &[&str]) -> Command {
    let mut command = command(format!("azure:{container}:/of/mine"));
    command.env("AZURE_ACCOUNT_NAME", azurite::ACCOUNT).env("AZURE_ACCOUNT_KEY", azurite::KEY);
    command.env("AZURE_STORAGE_SERVICE_ENDPOINT", endpoint);
    command.env("LEVEE_PASSWORD", PASSWORD).args(arguments);
    command
}

/// Stock restic speaks to Azure by HTTPS and by a host for each account, as no emulator on this machine has it. It reads
/// what the container holds, brought here by plain HTTP.
#[test]
fn azure() {
    let Some(server) = Azurite::start() else { return };
    let case = Case::new();
    let at = |container: &str, arguments: &[&str]| on_azure(&server.endpoint(), container, arguments);
    let levee = |arguments: &[&str]| succeed(&mut at(azurite::CONTAINER, arguments));
    let (source, restored) = (case.path("source"), case.path("restored"));
    tree::make(&source);
    levee(&["init"]);
    levee(&["backup", &text(&source)]);
    levee(&["check", "--read-data"]);
    levee(&["restore", "latest", "--target", &text(&restored)]);
    assert_same(&source, &below(&restored, &source));
    // A signature that was lent is enough.
    let mut lent = at(azurite::CONTAINER, &["snapshots"]);
    succeed(lent.env_remove("AZURE_ACCOUNT_KEY").env("AZURE_ACCOUNT_SAS", server.lent_signature()));
    let refused = fail(1, &mut at("nowhere", &["init"]));
    assert!(refused.contains("make it first"), "{refused}");

    let copy = case.path("copy");
    // Object stores have no empty folders.
    for folder in ["data", "index", "keys", "locks", "snapshots"] {
        std::fs::create_dir_all(copy.join("of/mine").join(folder)).unwrap();
    }
    server.download(&copy);
    for version in restic::versions() {
        let restic = |arguments: &[&str]| version.run(&copy.join("of/mine"), PASSWORD, arguments);
        let target = case.path(&format!("by-restic-{}", version.version()));
        restic(&["check", "--read-data"]);
        restic(&["restore", "latest", "--target", &text(&target)]);
        assert_same_to_restic(&version, &source, &below(&target, &source));
    }
}

#[test]
fn a_restore_thaws_what_it_needs_at_azure() {
    let Some(server) = Azurite::start() else { return };
    let (case, archive) = (Case::new(), Archive::start(server.address(), 2));
    let levee = |arguments: &[&str]| on_azure(&archive.endpoint(), azurite::CONTAINER, arguments);
    let (source, target) = (case.path("source"), case.path("thawed"));
    let class = ["--data-class", "Archive"];
    succeed(&mut levee(&[&class[..], &["init"]].concat()));
    for name in ["one", "two"] {
        std::fs::create_dir_all(source.join(name)).unwrap();
        std::fs::write(source.join(name).join("file"), name).unwrap();
        succeed(&mut levee(&[&class[..], &["backup", &text(&source.join(name))]].concat()));
    }
    assert_eq!(archive.count(), 2);
    // What is not in the archive is enough for a listing and a check.
    succeed(&mut levee(&["ls", "latest"]));
    succeed(&mut levee(&["check"]));
    let refused = fail(1, &mut levee(&["check", "--read-data"]));
    assert!(refused.contains("2 packs") && refused.contains("levee vault thaw"), "{refused}");
    let refused = fail(1, &mut levee(&["dump", "latest", &text(&source.join("two/file"))]));
    assert!(refused.contains("levee vault thaw"), "{refused}");

    let restore = ["restore", "latest", "-t", &text(&target), "--json"];
    let said = last_line(&succeed(&mut levee(&[&restore[..], &["--thaw-only"]].concat())));
    assert_eq!((&said["packs_thawing"], &said["packs_frozen"]), (&1.into(), &0.into()), "{said}");
    assert!(!target.exists(), "--thaw-only writes nothing");
    // Asked for, and not yet there: the restore waits for it, and asks for nothing else.
    let said = succeed(&mut levee(&[&restore[..], &["--thaw-poll", "1s"]].concat()));
    let thaw: Vec<_> = said.lines().filter(|line| line.contains("\"thaw\"")).collect();
    assert!(thaw.len() >= 2 && thaw[0].contains("\"packs_thawing\":1"), "{said}");
    assert_eq!(std::fs::read_to_string(below(&target, &source).join("two/file")).unwrap(), "two");
    assert_eq!((archive.count(), archive.priorities()), (1, vec!["Standard".to_string()]));

    let all = ["thaw", "--all", "--wait", "--thaw-poll", "1s", "--thaw-speed", "expedited", "--json"];
    let said = last_line(&succeed(&mut levee(&all)));
    assert_eq!((&said["packs_thawed"], &said["bytes_frozen"]), (&1.into(), &0.into()), "{said}");
    assert_eq!((archive.count(), archive.priorities()), (0, vec!["Standard".to_string(), "High".to_string()]));
    succeed(&mut levee(&["check", "--read-data"]));
}

#[test]
fn a_class_is_one_of_the_vaults_own_kind_of_store() {
    let case = Case::with_vault();
    let azure = |class: &str| on_azure("http://127.0.0.1:9", "box", &["--data-class", class, "snapshots"]);
    let refused = fail(1, &mut azure("cool"));
    assert!(refused.contains("\"cool\" is no storage class of Azure; one is Cool"), "{refused}");
    let google = |class: &str| {
        let mut command = command("gs:box:/");
        command.env("STORAGE_EMULATOR_HOST", "127.0.0.1:9").env("LEVEE_PASSWORD", PASSWORD);
        command.args(["--data-class", class, "snapshots"]);
        command
    };
    let refused = fail(1, &mut google("STANDARD_IA"));
    assert!(refused.contains("\"STANDARD_IA\" is no storage class of Google; one is NEARLINE"), "{refused}");
    let refused = fail(1, &mut case.command(&["--data-class", "Cool", "snapshots"]));
    assert!(refused.contains("this is for vaults at s3:…, azure:… and gs:…"), "{refused}");
}

/// Where a folder takes part too, the class is meant for the store that has it.
#[test]
fn packs_of_data_have_a_class_of_their_own_at_google() {
    let Some(server) = Gcs::start() else { return };
    let case = Case::with_vault();
    let (vault, file, password) = (format!("gs:{}:/of/mine", gcs::BUCKET), case.path("file"), case.path("password"));
    std::fs::write(&password, PASSWORD).unwrap();
    let with_google = |mut command: Command, arguments: &[&str]| -> String {
        command.env("STORAGE_EMULATOR_HOST", server.endpoint()).env("LEVEE_PASSWORD", PASSWORD);
        succeed(command.args(arguments))
    };
    let classes = || {
        let packs = server.names("of/mine/data/");
        let mut classes: Vec<String> = packs.iter().map(|name| server.class(name)).collect();
        classes.sort();
        classes
    };
    with_google(command(&vault), &["--data-class", "NEARLINE", "init"]);
    std::fs::write(&file, "one").unwrap();
    with_google(command(&vault), &["--data-class", "NEARLINE", "backup", &text(&file)]);
    assert_eq!(classes(), ["NEARLINE", "STANDARD"]);
    std::fs::write(&file, "another").unwrap();
    let copy = ["--copy-to", &vault, "--copy-to-password-file", &text(&password), "--data-class", "COLDLINE"];
    with_google(case.command(&["backup", &text(&file)]), &copy);
    assert_eq!(classes(), ["COLDLINE", "NEARLINE", "STANDARD", "STANDARD"]);
    // Google's archive and all before it are read at once.
    with_google(command(&vault), &["check", "--read-data"]);

    let mistaken = ["backup", &text(&file), "--data-class", "NEARLNE", "--copy-to", &vault];
    let mut mistaken = case.command(&mistaken);
    let refused = fail(1, mistaken.arg("--copy-to-password-file").arg(&password));
    assert!(refused.contains("\"NEARLNE\" is no storage class of Google"), "{refused}");
}

/// Only the newest restic finds an emulator of Google's.
#[test]
fn google_cloud_storage() {
    let Some(server) = Gcs::start() else { return };
    let case = Case::new();
    let vault = format!("gs:{}:/of/mine", gcs::BUCKET);
    let levee = || {
        let mut command = command(&vault);
        command.env("STORAGE_EMULATOR_HOST", server.endpoint()).env("LEVEE_PASSWORD", PASSWORD);
        command
    };
    let newest: Vec<Restic> = Restic::newest().into_iter().collect();
    work_together_with(&newest, &case, &levee, &|restic| {
        let mut command = restic.command(&vault, PASSWORD);
        command.env("STORAGE_EMULATOR_HOST", server.emulator().to_string());
        command.env("GOOGLE_PROJECT_ID", "levee").env("GOOGLE_ACCESS_TOKEN", gcs::TOKEN);
        command
    });
    let (source, restored) = (case.path("source"), case.path("restored"));
    succeed(levee().args(["restore", "latest", "--target", &text(&restored)]));
    assert!(below(&restored, &source).join("small").exists());
}
