//! Vaults on stores of every kind, with stock restic on the same store as the witness.

use std::path::Path;
use std::process::Command;

use levee_testing::ceph::{ACCESS_KEY, Ceph, SECRET_KEY};
use levee_testing::restic;
use levee_testing::sshd::Sshd;
use levee_testing::webdav::{self, WebDav};

use super::tree::{self, assert_same_to_restic};
use super::{Case, PASSWORD, below, command, succeed};

/// Levee and each restic back up to the same vault, check it, and restore what the others wrote.
fn work_together(case: &Case, levee: &dyn Fn() -> Command, restic: &dyn Fn(&restic::Restic) -> Command) {
    let source = case.path("source");
    tree::make(&source);
    let path = |path: &Path| path.to_str().unwrap().to_string();
    succeed(levee().arg("init"));
    succeed(levee().args(["backup", &path(&source)]));
    // The old one last: what it writes lacks a link that it cannot keep.
    for version in restic::versions().into_iter().rev() {
        let target = |name: &str| case.path(&format!("{name}-{}", version.version()));
        let restored = target("levees-by-restic");
        succeed(restic(&version).args(["check", "--read-data"]));
        succeed(restic(&version).args(["restore", "latest", "--target", &path(&restored)]));
        assert_same_to_restic(&version, &source, &below(&restored, &source));
        std::fs::write(source.join("new"), version.version()).unwrap();
        succeed(restic(&version).args(["backup", &path(&source)]));
        let restored = target("restics-by-levee");
        succeed(levee().args(["restore", "latest", "--target", &path(&restored)]));
        assert_same_to_restic(&version, &source, &below(&restored, &source));
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
