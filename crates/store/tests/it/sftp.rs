use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use levee_store::limit::Bandwidth;
use levee_store::{Error, FileType, RetryPolicy, RetryStore, SftpAddress, SftpOptions, SftpStore, Store, conformance};
use levee_store::{LocalStore, content_name};
use levee_testing::sshd::Sshd;

use crate::cutter::{self, Cut};
use crate::local::path_in;
use crate::proxy::QUICK;
use crate::sftp_faults;
use crate::sftp_late::{self, LateFolder};
use crate::sftp_lies::{self, SftpLie};
use crate::sftp_middle::Front;

fn options(sshd: &Sshd, folder: &str) -> SftpOptions {
    let path = sshd.folder().join(folder).display().to_string();
    let address = SftpAddress { user: None, host: "127.0.0.1".into(), port: Some(sshd.port()), path };
    SftpOptions { address, arguments: sshd.client_arguments(), bandwidth: Bandwidth::default() }
}

fn store(sshd: &Sshd, folder: &str) -> SftpStore {
    SftpStore::new(options(sshd, folder)).unwrap()
}

pub fn limited_store(sshd: &Sshd, bandwidth: Bandwidth) -> SftpStore {
    SftpStore::new(SftpOptions { bandwidth, ..options(sshd, "limits") }).unwrap()
}

#[test]
fn conforms() {
    let sshd = Sshd::start();
    conformance::check(&store(&sshd, "a/b c/repository"));
}

#[test]
fn its_files_are_those_of_a_folder() {
    let sshd = Sshd::start();
    let store = store(&sshd, "repository");
    store.create().unwrap();
    let name = content_name(b"pack");
    store.write(FileType::Data, &name, b"pack").unwrap();
    let folder = sshd.folder().join("repository");
    let path = folder.join("data").join(&name[..2]).join(&name);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(folder.join("keys")).unwrap().permissions().mode() & 0o777, 0o700);
    let local = LocalStore::new(&folder);
    assert_eq!(local.read(FileType::Data, &name).unwrap(), b"pack");
    // What a crash leaves behind is never listed, and what is damaged is written again.
    fs::write(path.with_file_name(".tmp-0123"), b"torn").unwrap();
    fs::write(&path, b"pa").unwrap();
    store.write(FileType::Data, &name, b"pack").unwrap();
    assert_eq!(local.read(FileType::Data, &name).unwrap(), b"pack");
    assert_eq!(store.list(FileType::Data).unwrap().len(), 1);
    let received = store.received(FileType::Data).unwrap();
    let age = jiff::Timestamp::now().duration_since(received[0].received_at);
    assert!(age.abs() < jiff::SignedDuration::from_secs(60), "{age}");
    // A repository that isn't there is not made by writing into it.
    fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(store.write(FileType::Data, &name, b"pack"), Err(Error::NotFound { .. })));
}

#[test]
fn a_disk_that_is_unmounted_meanwhile_is_noticed() {
    let sshd = Sshd::start();
    let store = store(&sshd, "repository");
    store.create().unwrap();
    store.write(FileType::Config, "", b"config").unwrap();
    let (folder, name) = (sshd.folder().join("repository"), content_name(b"pack"));
    fs::remove_dir_all(folder.join("data")).unwrap();
    assert_eq!(store.list(FileType::Data).unwrap(), []);
    store.write(FileType::Data, &name, b"pack").unwrap();
    // The mount point is a folder, too.
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    for file_type in [FileType::Data, FileType::Index, FileType::Snapshot] {
        let refused = store.write(file_type, &name, b"pack");
        assert!(matches!(refused, Err(Error::Vanished { .. })), "{refused:?}");
        let listed = store.list(file_type);
        assert!(matches!(listed, Err(Error::Vanished { .. })), "{listed:?}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_cut_connection_is_made_again() {
    let sshd = Sshd::start();
    let store = RetryStore::new(store(&sshd, "repository"), RetryPolicy::default());
    store.create().unwrap();
    for round in 0..3u8 {
        let content = vec![round; 4 << 20];
        let name = content_name(&content);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| store.write(FileType::Data, &name, &content));
            std::thread::sleep(Duration::from_millis(u64::from(round) * 15));
            sshd.cut_connections();
            writing.join().unwrap().unwrap();
        });
        assert!(store.read(FileType::Data, &name).unwrap() == content);
    }
    assert_eq!(store.list(FileType::Data).unwrap().len(), 3);
}

/// Requests and answers are torn at bytes of every kind, not only between writes.
#[test]
fn a_bad_network_is_not_noticed() {
    let sshd = Sshd::start();
    let proxy = cutter::start(SocketAddr::from(([127, 0, 0, 1], sshd.port())), |connection| {
        // Past logging in, which takes some kilobytes; a large file needs a connection that lasts.
        let bytes = 6_000 + connection * 7_919 % 40_000;
        match connection % 5 {
            0 | 3 => Cut::Upwards(bytes),
            1 | 2 => Cut::Downwards(bytes),
            _ => Cut::Never,
        }
    });
    let mut options = options(&sshd, "repository");
    options.address.port = Some(proxy.address.port());
    options.arguments.push(format!("-oHostKeyAlias=[127.0.0.1]:{}", sshd.port()));
    conformance::check_through_faults(&RetryStore::new(SftpStore::new(options).unwrap(), QUICK));
}

#[test]
fn an_unknown_host_and_an_unknown_user_are_refused() {
    let sshd = Sshd::start();
    let other = Sshd::start();
    let check = |arguments: Vec<String>, expected: &str| {
        let store = SftpStore::new(SftpOptions { arguments, ..options(&sshd, "repository") }).unwrap();
        let refused = store.list(FileType::Data).unwrap_err();
        assert!(matches!(&refused, Error::Unauthorized { reason, .. } if reason.contains(expected)), "{refused:?}");
    };
    let unknown_key = sshd.client_arguments().into_iter().map(|argument| match argument.contains("IdentityFile") {
        true => format!("-oIdentityFile={}", other.folder().join("client").display()),
        false => argument,
    });
    check(unknown_key.collect(), "Permission denied");
    check(other.client_arguments(), "Host key verification failed");
    let port = sshd.port();
    let gone = options(&sshd, "repository");
    drop(sshd);
    let failed = SftpStore::new(gone).unwrap().list(FileType::Data).unwrap_err();
    assert!(matches!(&failed, Error::Unreachable { reason, .. } if reason.contains("refused")), "{port}: {failed:?}");
}

#[test]
fn wrong_sizes_are_noticed() {
    for lie in SftpLie::ALL {
        let server = sftp_lies::start(lie);
        let liar = Sshd::start_before(server.address.port());
        let honest = LocalStore::new(liar.folder().join("repository"));
        let refused = conformance::check_wrong_sizes(&honest, &store(&liar, "repository"));
        assert_eq!(refused > 0, lie.is_noticed(), "{lie:?}: {refused} refused");
    }
}

/// Refused, torn and unanswered at requests of every kind.
#[test]
fn a_failing_server_is_not_noticed() {
    let front = Front::default();
    let server = sftp_faults::start(front.clone());
    let sshd = Arc::new(Sshd::start_before(server.address.port()));
    front.set(&sshd);
    conformance::check_through_faults(&RetryStore::new(store(&sshd, "repository"), QUICK));
}

#[test]
fn late_listings_decide_nothing() {
    let late = LateFolder::start();
    let sshd = Sshd::start_before(late.server.address.port());
    let store = store(&sshd, sftp_late::FOLDER);
    let listed_while_gone = conformance::check_late_listings(&store, |is_late| late.set(sshd.folder(), is_late));
    assert_eq!(listed_while_gone, 5);
}

#[test]
fn files_that_were_changed_below_it_are_noticed() {
    let sshd = Sshd::start();
    let folder = sshd.folder().join("repository");
    conformance::check_changed_files(&store(&sshd, "repository"), |file_type, name| path_in(&folder, file_type, name));
}

#[test]
fn expired_credentials_are_said_at_once() {
    let sshd = Sshd::start();
    let open = || -> Box<dyn Store> { Box::new(RetryStore::new(store(&sshd, "repository"), QUICK)) };
    let expire = || {
        sshd.forget_client();
        // Until then a connection stands; it cannot be made again.
        sshd.cut_connections();
    };
    conformance::check_expired_credentials(open, expire, || sshd.know_client());
}
