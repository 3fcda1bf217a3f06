//! What `levee database` ends with when its vault does not open, as docs/operating/exit-codes.md promises.

use std::fs;
use std::path::Path;
use std::process::Command;

use levee_testing::TempSite;
use serde_json::Value;

use super::{PASSWORD, binary};

const WRONG_PASSWORD: &str = "battery staple";

/// A command with a vault and the file that holds its password.
fn command(site: &Path, password: &str, arguments: &[&str]) -> Command {
    let file = site.join("password");
    fs::write(&file, password).unwrap();
    let mut command = binary().command();
    command.args(arguments).env("LEVEE_VAULT", site.join("vault")).env("LEVEE_PASSWORD_FILE", file);
    command
}

/// Lists base backups, which must end with this code, and returns what it said on standard error.
#[track_caller]
fn list_fails(site: &Path, password: &str, code: i32, more: &[&str]) -> String {
    let arguments = [&["database", "list", "--asset", "shop/orders"][..], more].concat();
    let output = command(site, password, &arguments).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    message
}

#[test]
fn a_vault_that_is_not_there_is_10() {
    let site = TempSite::new("codes");
    let message = list_fails(site.path(), PASSWORD, 10, &[]);
    assert!(message.contains("no repository here") && message.contains("levee vault init"), "{message}");
    assert!(!site.path().join("vault").exists(), "asking makes no vault");
}

#[test]
fn a_wrong_password_is_12_and_is_not_shown() {
    let site = TempSite::new("codes");
    let made = command(site.path(), PASSWORD, &["vault", "init"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let message = list_fails(site.path(), WRONG_PASSWORD, 12, &[]);
    assert!(message.contains("wrong password") && !message.contains(WRONG_PASSWORD), "{message}");
    let message = list_fails(site.path(), WRONG_PASSWORD, 12, &["--json"]);
    let error: Value = serde_json::from_str(message.trim()).unwrap();
    assert_eq!((&error["message_type"], &error["code"]), (&"exit_error".into(), &12.into()));
    let listed = command(site.path(), PASSWORD, &["database", "list", "--asset", "shop/orders"]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
}
