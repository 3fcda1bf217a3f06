//! What opens the copies or rules the server stands in no log, and in nothing else that the server keeps.

use std::fs;
use std::path::{Path, PathBuf};

use levee_testing::TempSite;

use super::world::{Site, World};

/// All that Levee makes are longer. A shorter text was put there by a test, and may stand anywhere.
const SECRET_LENGTH_MIN: usize = 32;

/// What of the server's folder may hold secrets: they are there for nothing else.
const MAY_HOLD_SECRETS: [&str; 2] = ["admin-token", "ca"];

struct Secret {
    what: String,
    text: String,
}

/// Checks that no secret of this world stands in a log of its processes or in the server's folder. The recovery kit is
/// never printed: a log names the file that it is in.
#[track_caller]
pub fn check_shown_nowhere(world: &World) {
    if let Some((path, what)) = first_shown(&secrets(world), &files(world)) {
        // The secret itself is not shown here either.
        panic!("{} shows {what}", path.display());
    }
}

/// The first of these files that shows a secret, and what it shows.
fn first_shown<'a>(secrets: &'a [Secret], files: &[PathBuf]) -> Option<(PathBuf, &'a str)> {
    files.iter().find_map(|path| {
        let bytes = fs::read(path).unwrap_or_default();
        let content = String::from_utf8_lossy(&bytes);
        let shown = secrets.iter().find(|secret| content.contains(secret.text.as_str()))?;
        Some((path.clone(), shown.what.as_str()))
    })
}

/// What there is at the moment, of every app at each site and of the server.
fn secrets(world: &World) -> Vec<Secret> {
    let mut secrets = Vec::new();
    let mut add = |path: &Path, name: &str, text: &str| {
        let text = text.trim().to_string();
        if text.len() >= SECRET_LENGTH_MIN {
            secrets.push(Secret { what: format!("{name} of {}", path.display()), text });
        }
    };
    for folder in [Site::East, Site::West].into_iter().flat_map(|site| app_folders(world, site)) {
        let kit = folder.join("recovery-kit.txt");
        let kit_text = read(&kit);
        for name in ["restic password", "age identity"] {
            let value = kit_text.lines().find_map(|line| line.trim().strip_prefix(name));
            add(&kit, &format!("the {name}"), value.unwrap_or_default());
        }
        let password = folder.join("repository-password");
        add(&password, "the password", &read(&password));
        for name in ["journal-identity", "recovery-kit-identity"] {
            let path = folder.join(name);
            // The file names the public half, too.
            let text = read(&path);
            let private = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-"));
            add(&path, "the private key", private.unwrap_or_default());
        }
    }
    let token = world.server_place().folder.join("admin-token");
    add(&token, "the API token", &read(&token));
    secrets
}

/// Every log of a process of Levee and of the databases that agents have started, and what the server keeps.
fn files(world: &World) -> Vec<PathBuf> {
    let mut files = Vec::new();
    below(&world.root().join("client"), &[], &mut files);
    for folder in [Site::East, Site::West].into_iter().flat_map(|site| app_folders(world, site)) {
        below(&folder.join("server"), &[], &mut files);
    }
    // Beside the logs, tests keep keys and settings of their own there.
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    below(&world.server_place().folder, &MAY_HOLD_SECRETS, &mut files);
    files
}

fn app_folders(world: &World, site: Site) -> Vec<PathBuf> {
    let apps = world.agent_place(site).folder.join("apps");
    fs::read_dir(apps).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// All files below a folder, at any depth, but for these entries of the folder itself.
fn below(folder: &Path, without: &[&str], files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if without.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => below(&entry.path(), &[], files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            // Sockets hold nothing, and links lead to what is not the folder's own.
            _ => {}
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_shown_secret_is_noticed() {
    let site = TempSite::new("secrets");
    let folder = site.folder("server");
    fs::create_dir(folder.join("ca")).unwrap();
    let text = "0123456789abcdef".repeat(2);
    fs::write(folder.join("ca/ca.pem"), &text).unwrap();
    fs::write(folder.join("clean.log"), &text[1..]).unwrap();
    let secrets = [Secret { what: "the password".into(), text: text.clone() }];
    let shown = |folder: &Path| {
        let mut files = Vec::new();
        below(folder, &MAY_HOLD_SECRETS, &mut files);
        assert!(!files.is_empty());
        first_shown(&secrets, &files)
    };
    assert_eq!(shown(&folder), None);
    // Also between bytes that are no text.
    fs::create_dir(folder.join("deep")).unwrap();
    let path = folder.join("deep/state.db");
    fs::write(&path, [&b"\xff\x00"[..], text.as_bytes(), b"\xfe"].concat()).unwrap();
    assert_eq!(shown(&folder), Some((path, "the password")));
}
