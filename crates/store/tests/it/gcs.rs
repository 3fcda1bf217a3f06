//! Google Cloud Storage as gcp-storage-emulator serves it.
//!
//! The emulator has no conditions on uploads, no credentials and no status 416. Google's documented answers are put in
//! front of it for these (`levee_testing::gcs`): that such answers are understood is tested here, not that Google gives
//! them. Names, listings, uploads by session, ranges and removals are the emulator's own.

use std::net::SocketAddr;

use levee_store::object_store::{GcsOptions, Service, TransportOptions};
use levee_store::{
    ContainerAddress, Error, FileType, ObjectStore, RetryStore, Store, Temperature, conformance, content_name,
};
use levee_testing::gcs::{BUCKET, Gcs, TOKEN};

use crate::lies::Lie;
use crate::objects;
use crate::proxy::{self, QUICK};

fn options(address: SocketAddr, path: &str) -> GcsOptions {
    GcsOptions {
        address: ContainerAddress { container: BUCKET.into(), path: path.into() },
        endpoint: Some(format!("http://{address}")),
        credential_file: None,
        access_token: Some(TOKEN.into()),
        data_class: None,
    }
}

fn open(options: GcsOptions) -> ObjectStore {
    ObjectStore::new(Service::Gcs(options), TransportOptions::default()).unwrap()
}

#[test]
fn conforms() {
    let Some(server) = Gcs::start() else { return };
    conformance::check(&open(options(server.address(), "a/b c")));
    let cold = GcsOptions { data_class: Some("COLDLINE".into()), ..options(server.address(), "cold/b c") };
    conformance::check(&open(cold));
}

#[test]
fn only_packs_of_contents_go_to_the_class() {
    let Some(server) = Gcs::start() else { return };
    let archive = GcsOptions { data_class: Some("ARCHIVE".into()), ..options(server.address(), "classes") };
    let store = open(archive);
    let (contents, trees) = (content_name(b"contents"), content_name(b"trees"));
    store.write(FileType::Data, &contents, b"contents").unwrap();
    store.write_tree_pack(&trees, b"trees").unwrap();
    store.write(FileType::Index, &trees, b"trees").unwrap();
    let path = |name: &str| format!("classes/data/{}/{name}", &name[..2]);
    assert_eq!(server.class(&path(&contents)), "ARCHIVE");
    assert_eq!(server.class(&path(&trees)), "STANDARD");
    assert_eq!(server.class(&format!("classes/index/{trees}")), "STANDARD");
    // Written over, by the other kind of upload.
    server.overwrite(&path(&contents), "garbage!");
    assert_eq!(server.class(&path(&contents)), "STANDARD");
    store.write(FileType::Data, &contents, b"contents").unwrap();
    assert_eq!(server.class(&path(&contents)), "ARCHIVE");
    // Google's archive is read at once.
    assert_eq!(store.read(FileType::Data, &contents).unwrap(), b"contents");
    assert_eq!(store.temperature(FileType::Data, &contents).unwrap(), Temperature::Readable);
    assert_eq!(store.archived(FileType::Data).unwrap(), []);
}

#[test]
fn a_bad_network_is_not_noticed() {
    let Some(server) = Gcs::start() else { return };
    // An upload takes three requests and more.
    let proxy = proxy::start(server.address(), proxy::sometimes);
    conformance::check_through_faults(&RetryStore::new(open(options(proxy.address, "faults")), QUICK));
}

#[test]
fn a_service_with_too_much_to_do_is_left_alone_for_as_long_as_it_asks() {
    let Some(server) = Gcs::start() else { return };
    proxy::check_pause(server.address(), |address| Box::new(open(options(address, "pause"))));
}

#[test]
fn wrong_sizes_are_noticed() {
    let Some(server) = Gcs::start() else { return };
    let honest = open(options(server.address(), "sizes"));
    for (lie, liar) in proxy::liars(server.address()) {
        let refused = conformance::check_wrong_sizes(&honest, &open(options(liar.address, "sizes")));
        // That less has arrived than was sent is noticed, and then made good: what stands there is read.
        assert!(refused > 0 || lie == Lie::SmallSizes, "{lie:?} was not noticed");
    }
}

#[test]
fn what_is_damaged_is_written_again() {
    let Some(server) = Gcs::start() else { return };
    let store = open(options(server.address(), "damaged"));
    objects::check_damaged(&store, |name| server.overwrite(&format!("damaged/index/{name}"), "garbage"));
}

#[test]
fn tells_when_a_file_was_received() {
    let Some(server) = Gcs::start() else { return };
    objects::check_received(&open(options(server.address(), "times")), |store| store.received(FileType::Lock));
}

#[test]
fn an_emulator_is_shown_no_credentials() {
    let Some(server) = Gcs::start() else { return };
    // Whoever shows one is refused from now on.
    server.set_token("another one");
    let store = open(GcsOptions { access_token: None, ..options(server.address(), "anonymous") });
    let name = content_name(b"x");
    store.write(FileType::Data, &name, b"x").unwrap();
    assert_eq!(store.read(FileType::Data, &name).unwrap(), b"x");
    assert_eq!(store.list(FileType::Data).unwrap().len(), 1);
}

#[test]
fn a_wrong_token_is_told_apart() {
    let Some(server) = Gcs::start() else { return };
    let store = open(GcsOptions { access_token: Some("sesame".into()), ..options(server.address(), "") });
    let refused = store.list(FileType::Data).unwrap_err();
    assert!(matches!(refused, Error::Unauthorized { .. }), "{refused:?}");
    assert!(!format!("{refused} {refused:?}").contains("sesame"), "{refused:?}");
}

#[test]
fn a_missing_bucket_is_no_empty_vault() {
    let Some(server) = Gcs::start() else { return };
    let address = ContainerAddress { container: "nowhere".into(), path: "vault".into() };
    let store = open(GcsOptions { address, ..options(server.address(), "") });
    objects::check_missing_bucket(&store);
}

#[test]
fn expired_credentials_are_said_at_once() {
    let Some(server) = Gcs::start() else { return };
    let open = || -> Box<dyn Store> { Box::new(RetryStore::new(open(options(server.address(), "expiring")), QUICK)) };
    conformance::check_expired_credentials(open, || server.set_token("another one"), || server.set_token(TOKEN));
}
