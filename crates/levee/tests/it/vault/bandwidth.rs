//! Bandwidth limits, in a folder and over each protocol, in both directions.

use std::process::Command;
use std::time::{Duration, Instant};

use levee_store::LocalStore;
use levee_store::rest_server::Access;
use levee_testing::sshd::Sshd;
use levee_testing::webdav::{self, WebDav};

use super::remote::server::{Fault, Server};
use super::tree::noise;
use super::{Case, PASSWORD, command, succeed};

const SOURCE_BYTES: usize = 2 << 20;
/// As `--limit-upload` has it, in KiB.
const RATE_KIB: &str = "1024";
/// What the source takes at that rate at least.
const TIME_MIN: Duration = Duration::from_secs(2);

/// Backs up and restores at a limit, and backs up once more in the hours without one.
fn is_kept(case: &Case, vault: &str, setting: &dyn Fn(&mut Command)) {
    let levee = |arguments: &[&str]| {
        let mut command = command(vault);
        setting(command.env("LEVEE_PASSWORD", PASSWORD).args(arguments));
        let started = Instant::now();
        succeed(&mut command);
        started.elapsed()
    };
    let (source, target) = (case.path("source"), case.path("target"));
    std::fs::write(&source, noise(1, SOURCE_BYTES)).unwrap();
    let (source, target) = (source.to_str().unwrap(), target.to_str().unwrap());
    levee(&["init"]);
    let took = levee(&["--limit-upload", RATE_KIB, "backup", source]);
    assert!(took >= TIME_MIN, "{vault}: a backup took {took:?}");
    let took = levee(&["--limit-download", RATE_KIB, "--no-cache", "restore", "latest", "--target", target]);
    assert!(took >= TIME_MIN, "{vault}: a restore took {took:?}");
    let free = levee(&[
        "--limit-download",
        "00:00,off",
        "--no-cache",
        "restore",
        "latest",
        "--target",
        &format!("{target}-2"),
    ]);
    assert!(free < took, "{vault}: without a limit a restore took {free:?}, with one {took:?}");
}

/// It may be a mounted one.
#[test]
fn in_a_folder() {
    let case = Case::new();
    is_kept(&case, case.vault.to_str().unwrap(), &|_| {});
}

#[test]
fn over_rest() {
    let case = Case::new();
    let server = Server::start(LocalStore::new(&case.vault), Access::Owner, |_| Fault::None);
    is_kept(&case, &format!("rest:{}", server.url()), &|_| {});
}

#[test]
fn over_sftp() {
    let (case, sshd) = (Case::new(), Sshd::start());
    let arguments = sshd.client_arguments().join(" ");
    let vault = format!("sftp://127.0.0.1:{}/{}/vault", sshd.port(), sshd.folder().display());
    is_kept(&case, &vault, &|command| {
        command.args(["--sftp-args", &arguments]);
    });
}

/// The way of S3 and its kin.
#[test]
fn over_webdav() {
    let (case, server) = (Case::new(), WebDav::start());
    is_kept(&case, &format!("webdav:{}/vault", server.url()), &|command| {
        command.env("LEVEE_WEBDAV_USERNAME", webdav::USER).env("LEVEE_WEBDAV_PASSWORD", webdav::PASSWORD);
    });
}
