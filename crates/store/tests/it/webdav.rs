use std::fs;
use std::net::SocketAddr;

use levee_store::object_store::{Service, TransportOptions, WebDavOptions};
use levee_store::{Error, FileType, LocalStore, ObjectStore, RetryStore, Store, conformance, content_name};
use levee_testing::webdav::{PASSWORD, USER, WebDav};

use crate::late::LateListings;
use crate::local::path_in;
use crate::proxy::{self, QUICK};

fn store(server: &WebDav, folder: &str, password: &str) -> ObjectStore {
    let url = format!("{}/{folder}", server.url());
    let options = WebDavOptions { url, user: Some(USER.into()), password: Some(password.into()) };
    ObjectStore::new(Service::WebDav(options), TransportOptions::default()).unwrap()
}

#[test]
fn conforms() {
    let server = WebDav::start();
    conformance::check(&store(&server, "a/b%20c/repository", PASSWORD));
}

#[test]
fn a_bad_network_is_not_noticed() {
    let server = WebDav::start();
    let proxy = proxy::start(SocketAddr::from(([127, 0, 0, 1], server.port())), proxy::sometimes);
    conformance::check_through_faults(&RetryStore::new(store_at(proxy.address, "repository"), QUICK));
}

#[test]
fn its_files_are_those_of_a_folder() {
    let server = WebDav::start();
    let store = store(&server, "repository", PASSWORD);
    store.create().unwrap();
    let name = content_name(b"pack");
    store.write(FileType::Data, &name, b"pack").unwrap();
    let folder = server.folder().join("repository");
    let local = LocalStore::new(&folder);
    assert_eq!(local.read(FileType::Data, &name).unwrap(), b"pack");
    // Uploads are moved to their names, so nothing half-written is ever seen under them.
    assert_eq!(fs::read_dir(folder.join("tmp")).unwrap().count(), 0);
    fs::write(folder.join("data").join(&name[..2]).join(&name), b"pa").unwrap();
    store.write(FileType::Data, &name, b"pack").unwrap();
    assert_eq!(local.read(FileType::Data, &name).unwrap(), b"pack");
    assert_eq!(store.received(FileType::Data).unwrap().len(), 1);
}

#[test]
fn a_wrong_password_is_told_apart() {
    let server = WebDav::start();
    let refused = store(&server, "repository", "sesame").list(FileType::Data).unwrap_err();
    assert!(matches!(refused, Error::Unauthorized { .. }), "{refused:?}");
    assert!(!format!("{refused} {refused:?}").contains("sesame"), "{refused:?}");
}

fn store_at(address: SocketAddr, folder: &str) -> ObjectStore {
    let url = format!("http://{address}/vaults/{folder}");
    let options = WebDavOptions { url, user: Some(USER.into()), password: Some(PASSWORD.into()) };
    ObjectStore::new(Service::WebDav(options), TransportOptions::default()).unwrap()
}

#[test]
fn wrong_sizes_are_noticed() {
    let server = WebDav::start();
    let honest = store(&server, "repository", PASSWORD);
    for (lie, liar) in proxy::liars(SocketAddr::from(([127, 0, 0, 1], server.port()))) {
        let refused = conformance::check_wrong_sizes(&honest, &store_at(liar.address, "repository"));
        assert!(refused > 0, "{lie:?} was not noticed");
    }
    let left_over = fs::read_dir(server.folder().join("repository/tmp")).unwrap().count();
    assert_eq!(left_over, 0, "uploads whose size was wrong were left behind");
}

#[test]
fn a_server_with_too_much_to_do_is_left_alone_for_as_long_as_it_asks() {
    let server = WebDav::start();
    let upstream = SocketAddr::from(([127, 0, 0, 1], server.port()));
    proxy::check_pause(upstream, |address| Box::new(store_at(address, "repository")));
}

#[test]
fn late_listings_decide_nothing() {
    let server = WebDav::start();
    let late = LateListings::start(SocketAddr::from(([127, 0, 0, 1], server.port())));
    late.check(&store_at(late.address(), "repository"));
}

#[test]
fn files_that_were_changed_below_it_are_noticed() {
    let server = WebDav::start();
    let folder = server.folder().join("repository");
    let path = |file_type: FileType, name: &str| path_in(&folder, file_type, name);
    conformance::check_changed_files(&store(&server, "repository", PASSWORD), path);
}

#[test]
fn expired_credentials_are_said_at_once() {
    let server = WebDav::start();
    let open = || -> Box<dyn Store> { Box::new(RetryStore::new(store(&server, "repository", PASSWORD), QUICK)) };
    let expire = || server.set_password("another one");
    conformance::check_expired_credentials(open, expire, || server.set_password(PASSWORD));
}
