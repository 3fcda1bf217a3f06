//! rustic as a further writer and reader of a vault: of one in a folder, and of those that `vault serve` offers.

use std::fs;
use std::path::Path;
use std::process::Command;

use levee_testing::random::noise;
use levee_testing::rustic::Rustic;

use super::serve::Served;
use super::{Case, PASSWORD, below, command, succeed};

/// A tree of what both keep: rustic has other ideas of some things that Levee and restic store alike.
fn make_source(source: &Path) {
    fs::create_dir_all(source.join("a/b c")).unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    fs::write(source.join("a/text"), b"some text\n".repeat(1000)).unwrap();
    fs::write(source.join("a/b c/large"), noise(1, 4_000_000)).unwrap();
    std::os::unix::fs::symlink("text", source.join("a/link")).unwrap();
}

/// Stock tools are the judges: names, contents, links, modes and times. rustic keeps no attributes of the folder itself.
#[track_caller]
fn assert_same(expected: &Path, actual: &Path) {
    let compared = Command::new("diff").args(["-r", "--no-dereference"]).arg(expected).arg(actual).output().unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
    let listed = |root: &Path| {
        let mut find = Command::new("find");
        find.current_dir(root).args([".", "-mindepth", "1", "-not", "-type", "l", "-printf", "%P %m %U %G %T@\n"]);
        let mut lines: Vec<String> = succeed(&mut find).lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(listed(expected), listed(actual));
}

/// Each reads, checks and goes on with what the other has written, and cleans up after it.
fn work_together(case: &Case, levee: &dyn Fn() -> Command, rustic: &dyn Fn() -> Command) {
    let source = case.path("source");
    make_source(&source);
    let text = |path: &Path| path.to_str().unwrap().to_string();
    succeed(levee().args(["backup", &text(&source)]));
    succeed(rustic().args(["check", "--read-data"]));
    let by_rustic = case.path("by-rustic");
    succeed(rustic().args(["restore", "latest", &text(&by_rustic)]));
    assert_same(&source, &below(&by_rustic, &source));

    fs::write(source.join("a/new"), "by rustic").unwrap();
    fs::remove_file(source.join("empty")).unwrap();
    succeed(rustic().args(["backup", &text(&source)]));
    succeed(levee().args(["check", "--read-data"]));
    let by_levee = case.path("by-levee");
    succeed(levee().args(["restore", "latest", "--target", &text(&by_levee)]));
    assert_same(&source, &below(&by_levee, &source));

    // In two steps, of which the first leaves marks in the index that only rustic knows.
    succeed(rustic().args(["forget", "--group-by", "", "--keep-last", "1"]));
    succeed(rustic().args(["prune", "--keep-pack", "0s", "--max-unused", "0B"]));
    succeed(levee().args(["check", "--read-data"]));
    succeed(rustic().args(["prune", "--keep-delete", "0s"]));
    succeed(levee().args(["check", "--read-data"]));

    fs::write(source.join("a/newer"), "by levee").unwrap();
    succeed(levee().args(["backup", &text(&source)]));
    succeed(levee().args(["forget", "--group-by", "", "--keep-last", "1"]));
    for _ in 0..2 {
        succeed(levee().args(["prune", "--grace", "0", "--max-unused", "0"]));
    }
    succeed(rustic().args(["check", "--read-data"]));
    let again = case.path("again");
    succeed(rustic().args(["restore", "latest", &text(&again)]));
    assert_same(&source, &below(&again, &source));
}

#[test]
fn a_vault_in_a_folder() {
    let Some(rustic) = Rustic::find() else { return };
    let case = Case::with_vault();
    let home = case.path("home");
    fs::create_dir(&home).unwrap();
    let levee = || {
        let mut command = command(&case.vault);
        command.env("LEVEE_PASSWORD", PASSWORD);
        command
    };
    work_together(&case, &levee, &|| rustic.command(&case.vault, PASSWORD, &home));
}

#[test]
fn a_vault_that_is_served() {
    let Some(rustic) = Rustic::find() else { return };
    let case = Case::new();
    let served = Served::start(&case, &["--private-repos"]);
    let url = served.url("mia", "mia's", "mia/host/");
    let home = case.path("home");
    fs::create_dir(&home).unwrap();
    let levee = || served.levee(&url);
    succeed(levee().arg("init"));
    let rustic = || {
        let mut command = rustic.command(&url, PASSWORD, &home);
        // Options of a store are given by the environment or a profile alone. Its name has changed: others are passed over.
        for option in ["RUSTIC_REPO_OPT_CACERT", "RUSTIC_REPO_OPT_HTTP_CACERT"] {
            command.env(option, served.certificate());
        }
        command
    };
    work_together(&case, &levee, &rustic);
}
