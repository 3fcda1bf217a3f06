//! Vaults at Azure and Google, on their emulators, found by the variables of those services' own tools.

use std::path::Path;
use std::process::Command;

use levee_testing::azurite::{self, Azurite};
use levee_testing::gcs::{self, Gcs};
use levee_testing::restic::{self, Restic};

use super::stores::work_together_with;
use super::tree::{self, assert_same, assert_same_to_restic};
use super::{Case, PASSWORD, below, command, fail, succeed};

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}

/// Stock restic speaks to Azure by HTTPS and by a host for each account, as no emulator on this machine has it. It reads
/// what the container holds, brought here by plain HTTP.
#[test]
fn azure() {
    let Some(server) = Azurite::start() else { return };
    let case = Case::new();
    let at = |container: &str, arguments: &[&str]| -> Command {
        let mut command = command(format!("azure:{container}:/of/mine"));
        command.env("AZURE_ACCOUNT_NAME", azurite::ACCOUNT).env("AZURE_ACCOUNT_KEY", azurite::KEY);
        command.env("AZURE_STORAGE_SERVICE_ENDPOINT", server.endpoint());
        command.env("LEVEE_PASSWORD", PASSWORD).args(arguments);
        command
    };
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
