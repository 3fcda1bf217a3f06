//! Stock restic as the client of the REST server.

use std::fs;

use levee_store::rest_server::Access;
use levee_store::{FileType, LocalStore, Store};

use crate::server::{Fault, Server};

const PASSWORD: &str = "a password";

#[test]
fn stock_restic_backs_up_to_an_append_only_server_and_cannot_forget() {
    for restic in levee_testing::restic::versions() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path().join("repository"));
        let owner = Server::start(store.clone(), Access::Owner, |_| Fault::None);
        let append = Server::start(store.clone(), Access::Append, |_| Fault::None);
        let run = |server: &Server, arguments: &[&str]| {
            let repository = format!("rest:{}", server.url());
            let output = restic.command(repository, PASSWORD).args(arguments).output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let check = |server: &Server, arguments: &[&str], succeeds: bool| {
            let (success, message) = run(server, arguments);
            assert_eq!(success, succeeds, "restic {} {arguments:?}: {message}", restic.version());
        };
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), (0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();

        check(&append, &["init"], false);
        assert_eq!(store.list(FileType::Config).unwrap(), []);
        check(&owner, &["init"], true);
        check(&append, &["backup", source.to_str().unwrap()], true);
        check(&append, &["check", "--read-data"], true);
        let target = dir.path().join("target");
        check(&append, &["restore", "latest", "--target", target.to_str().unwrap()], true);
        let restored = target.join(source.strip_prefix("/").unwrap()).join("file");
        assert!(fs::read(restored).unwrap() == fs::read(source.join("file")).unwrap());

        // It may say that it succeeded; what counts is that nothing is gone.
        let before = store.list(FileType::Data).unwrap();
        run(&append, &["forget", "latest", "--prune"]);
        assert_eq!(store.list(FileType::Snapshot).unwrap().len(), 1);
        assert_eq!(store.list(FileType::Data).unwrap(), before);
        assert_eq!(store.list(FileType::Lock).unwrap(), []);
        check(&owner, &["forget", "latest", "--prune"], true);
        assert_eq!(store.list(FileType::Snapshot).unwrap(), []);
    }
}
