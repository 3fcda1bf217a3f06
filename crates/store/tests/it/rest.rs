use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use levee_store::rest_server::Access;
use levee_store::{Error, FileType, LocalStore, RestOptions, RestStore, RetryStore, Store, conformance, content_name};

use crate::late::LateListings;
use crate::lies::Lie;
use crate::local::path_in;
use crate::proxy::{self, QUICK};
use crate::server::{Fault, Schedule, Server};

fn server(dir: &tempfile::TempDir, access: Access, schedule: Schedule) -> Server {
    Server::start(LocalStore::new(dir.path().join("repository")), access, schedule)
}

pub fn client(base_url: String) -> RestStore {
    RestStore::new(RestOptions { base_url, tls: None, resolve: None }).unwrap()
}

#[test]
fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, Access::Owner, |_| Fault::None);
    conformance::check(&client(server.url()));
}

#[test]
fn a_name_without_a_resolver_is_found_by_its_address() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, Access::Owner, |_| Fault::None);
    let base_url = "http://a1.agent.levee.internal/some/repository/".to_string();
    let resolve = Some(("a1.agent.levee.internal".to_string(), server.address));
    let store = RestStore::new(RestOptions { base_url, tls: None, resolve }).unwrap();
    store.create().unwrap();
    assert_eq!(store.list(FileType::Data).unwrap(), []);
}

#[test]
fn what_an_append_only_server_refuses_is_denied() {
    let dir = tempfile::tempdir().unwrap();
    let owner = LocalStore::new(dir.path().join("repository"));
    owner.create().unwrap();
    let server = server(&dir, Access::Append, |_| Fault::None);
    let store = client(server.url());
    let name = content_name(b"pack");
    store.write(FileType::Data, &name, b"pack").unwrap();
    let check = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Denied { .. })), "{result:?}");
    check(store.remove(FileType::Data, &name));
    check(store.write(FileType::Key, &name, b"pack"));
    check(store.write(FileType::Config, "", b"config"));
    check(store.create());
    store.write(FileType::Lock, &name, b"pack").unwrap();
    store.remove(FileType::Lock, &name).unwrap();
}

#[test]
fn failures_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let server_500 = server(&dir, Access::Owner, |_| Fault::Refused(500));
    let failed = client(server_500.url()).list(FileType::Data).unwrap_err();
    assert!(matches!(&failed, Error::Unreachable { reason, .. } if reason == "out of order"), "{failed:?}");

    let server_torn = server(&dir, Access::Owner, |_| Fault::TornAnswer);
    let torn = client(server_torn.url()).list(FileType::Data).unwrap_err();
    assert!(matches!(torn, Error::Unreachable { .. }), "{torn:?}");

    let address = server_500.address;
    drop(server_500);
    let started = Instant::now();
    let gone = client(format!("http://user:sesame@{address}/")).list(FileType::Data).unwrap_err();
    assert!(matches!(gone, Error::Unreachable { .. }), "{gone:?}");
    assert!(!format!("{gone} {gone:?}").contains("sesame"), "{gone:?}");
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn urls_that_cannot_work_are_refused_at_once() {
    for base_url in ["", "no url", "ftp://host/", "file:///tmp", "https://"] {
        let refused = RestStore::new(RestOptions { base_url: base_url.into(), tls: None, resolve: None });
        assert!(matches!(refused.err(), Some(Error::Unauthorized { .. })), "{base_url}");
    }
}

#[test]
fn wrong_sizes_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, Access::Owner, |_| Fault::None);
    for (lie, liar) in proxy::liars(server.address) {
        let lying = client(format!("http://{}/some/repository", liar.address));
        let refused = conformance::check_wrong_sizes(&client(server.url()), &lying);
        // Less than there is may be asked for, and the server itself looks at what is uploaded.
        assert_eq!(refused > 0, lie != Lie::SmallSizes, "{lie:?}: {refused} refused");
    }
}

#[test]
fn wrong_sizes_are_made_good_by_trying_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, Access::Owner, |_| Fault::None);
    let proxy = proxy::start(server.address, proxy::often);
    let store = client(format!("http://{}/some/repository", proxy.address));
    conformance::check_through_faults(&RetryStore::new(store, QUICK));
}

#[test]
fn a_server_with_too_much_to_do_is_left_alone_for_as_long_as_it_asks() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, Access::Owner, |_| Fault::None);
    proxy::check_pause(server.address, |address| Box::new(client(format!("http://{address}/some/repository"))));
}

#[test]
fn late_listings_decide_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, Access::Owner, |_| Fault::None);
    let late = LateListings::start(server.address);
    late.check(&client(format!("http://{}/some/repository", late.address())));
}

/// Version 1 of the protocol lists names alone, and what is gone has no size.
#[test]
fn late_listings_of_names_leave_out_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, Access::Owner, |_| Fault::None);
    let late = LateListings::start_changing(server.address, |head| head.replace("rest.v2", "rest.v1"));
    let store = client(format!("http://{}/some/repository", late.address()));
    assert_eq!(conformance::check_late_listings(&store, |is_late| late.set(is_late)), 0);
}

#[test]
fn files_that_were_changed_below_it_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, Access::Owner, |_| Fault::None);
    let folder = dir.path().join("repository");
    let path = |file_type: FileType, name: &str| path_in(&folder, file_type, name);
    conformance::check_changed_files(&client(server.url()), path);
}

#[test]
fn expired_credentials_are_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let header = |password: &str| format!("Basic {}", STANDARD.encode(format!("mia:{password}")));
    let authorization = Arc::new(Mutex::new(header("sesame")));
    let server = Server::start_guarded(LocalStore::new(dir.path().join("repository")), authorization.clone());
    let url = format!("http://mia:sesame@{}/some/repository", server.address);
    let open = || -> Box<dyn Store> { Box::new(RetryStore::new(client(url.clone()), QUICK)) };
    let set = |password: &str| *authorization.lock().unwrap() = header(password);
    conformance::check_expired_credentials(open, || set("another one"), || set("sesame"));
}
