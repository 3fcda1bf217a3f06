//! A vault behind an append-only REST server.

#[path = "../../../../store/tests/it/server.rs"]
#[allow(dead_code, reason = "the store's tests use all of it")]
pub mod server;

use levee_store::LocalStore;
use levee_store::rest_server::Access;
use server::{Fault, Server};

use super::tree::assert_same;
use super::{Case, PASSWORD, below, command, fail, succeed, tree};

#[test]
fn an_append_only_server_takes_backups_and_keeps_them() {
    let case = Case::new();
    let store = LocalStore::new(&case.vault);
    let owner = Server::start(store.clone(), Access::Owner, |_| Fault::None);
    // Every few requests something breaks.
    let append = Server::start(store, Access::Append, |request| match request % 9 {
        3 => Fault::LostAnswer,
        5 => Fault::Refused(503),
        7 => Fault::TornUpload,
        _ => Fault::None,
    });
    let run = |server: &Server, arguments: &[&str]| {
        let mut command = command(format!("rest:{}", server.url()));
        command.env("LEVEE_PASSWORD", PASSWORD).args(arguments);
        command
    };
    let (source, target) = (case.path("source"), case.path("target"));
    tree::make(&source);
    fail(10, &mut run(&append, &["backup", source.to_str().unwrap()]));
    let message = fail(1, &mut run(&append, &["init"]));
    assert!(message.contains("owner"), "{message}");
    succeed(&mut run(&owner, &["init"]));
    succeed(&mut run(&append, &["backup", source.to_str().unwrap()]));
    succeed(&mut run(&append, &["check", "--read-data"]));
    succeed(&mut run(&append, &["restore", "latest", "--target", target.to_str().unwrap()]));
    assert_same(&source, &below(&target, &source));
    let new_password = case.path("new");
    std::fs::write(&new_password, "another").unwrap();
    fail(1, &mut run(&append, &["key", "add", "--new-password-file", new_password.to_str().unwrap()]));
    // Read beside the server, it is an ordinary local vault without a lock left in it.
    case.levee(&["check", "--read-data"]);
    assert_eq!(std::fs::read_dir(case.vault.join("locks")).unwrap().count(), 0);
}

#[test]
fn a_server_that_is_not_there_is_1_and_named() {
    let case = Case::new();
    let message =
        fail(1, command("rest:http://user:sesame@127.0.0.1:1/").env("LEVEE_PASSWORD", PASSWORD).arg("snapshots"));
    assert!(message.contains("rest:http://127.0.0.1:1/") && !message.contains("sesame"), "{message}");
    drop(case);
}
