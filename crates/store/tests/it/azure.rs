//! Azure Blob Storage as Azurite serves it.
//!
//! Azurite refuses an upload where a blob stands, checks signatures, and knows access policies that end. It says
//! `AuthorizationFailure` of wrong signatures where Azure says `AuthenticationFailed`, and has no tier that must be thawed.

use std::net::SocketAddr;

use levee_store::object_store::{AzureOptions, Service, TransportOptions};
use levee_store::{ContainerAddress, Error, FileType, ObjectStore, RetryStore, Store, conformance, content_name};
use levee_testing::azurite::{ACCOUNT, Azurite, CONTAINER, KEY};

use crate::objects;
use crate::proxy::{self, QUICK};

/// With the account's key.
fn options(address: SocketAddr, path: &str) -> AzureOptions {
    AzureOptions {
        address: ContainerAddress { container: CONTAINER.into(), path: path.into() },
        endpoint: Some(format!("http://{address}/{ACCOUNT}")),
        account: ACCOUNT.into(),
        key: Some(KEY.into()),
        sas_token: None,
    }
}

/// With a signature that is lent for a time.
fn lent(server: &Azurite, path: &str) -> AzureOptions {
    AzureOptions { key: None, sas_token: Some(server.lent_signature()), ..options(server.address(), path) }
}

fn open(options: AzureOptions) -> ObjectStore {
    ObjectStore::new(Service::Azure(options), TransportOptions::default()).unwrap()
}

#[test]
fn conforms() {
    let Some(server) = Azurite::start() else { return };
    conformance::check(&open(options(server.address(), "a/b c")));
    conformance::check(&open(lent(&server, "lent")));
}

#[test]
fn a_bad_network_is_not_noticed() {
    let Some(server) = Azurite::start() else { return };
    let proxy = proxy::start(server.address(), proxy::often);
    conformance::check_through_faults(&RetryStore::new(open(options(proxy.address, "faults")), QUICK));
}

#[test]
fn a_service_with_too_much_to_do_is_left_alone_for_as_long_as_it_asks() {
    let Some(server) = Azurite::start() else { return };
    proxy::check_pause(server.address(), |address| Box::new(open(options(address, "pause"))));
}

#[test]
fn wrong_sizes_are_noticed() {
    let Some(server) = Azurite::start() else { return };
    let honest = open(options(server.address(), "sizes"));
    for (lie, liar) in proxy::liars(server.address()) {
        let refused = conformance::check_wrong_sizes(&honest, &open(options(liar.address, "sizes")));
        assert!(refused > 0, "{lie:?} was not noticed");
    }
}

#[test]
fn what_is_damaged_is_written_again() {
    let Some(server) = Azurite::start() else { return };
    let store = open(options(server.address(), "damaged"));
    objects::check_damaged(&store, |name| server.overwrite(&format!("damaged/index/{name}"), "garbage"));
}

#[test]
fn tells_when_a_file_was_received() {
    let Some(server) = Azurite::start() else { return };
    objects::check_received(&open(options(server.address(), "times")), |store| store.received(FileType::Lock));
}

#[test]
fn wrong_credentials_are_told_apart() {
    let Some(server) = Azurite::start() else { return };
    // "sesame" in base64, as a key has to be.
    const WRONG_KEY: &str = "c2VzYW1l";
    let right = || options(server.address(), "");
    let wrong_signature = server.lent_signature().replace("sig=", "sig=c2VzYW1l");
    for wrong in [
        AzureOptions { key: Some(WRONG_KEY.into()), ..right() },
        AzureOptions { account: "nobody".into(), ..right() },
        AzureOptions { key: None, sas_token: Some(wrong_signature), ..right() },
    ] {
        let store = open(wrong);
        let name = content_name(b"x");
        for refused in [
            store.size_bytes(FileType::Config, "").map(drop),
            store.list(FileType::Data).map(drop),
            store.write(FileType::Data, &name, b"x"),
        ] {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, Error::Unauthorized { .. }), "{refused:?}");
            let said = format!("{refused} {refused:?}");
            assert!(!said.contains(WRONG_KEY) && !said.contains("sig=") && !said.contains(KEY), "{said}");
        }
    }
}

#[test]
fn a_missing_container_is_no_empty_vault() {
    let Some(server) = Azurite::start() else { return };
    let address = ContainerAddress { container: "nowhere".into(), path: "vault".into() };
    let store = open(AzureOptions { address, ..options(server.address(), "") });
    objects::check_missing_bucket(&store);
}

#[test]
fn expired_credentials_are_said_at_once() {
    let Some(server) = Azurite::start() else { return };
    let open = || -> Box<dyn Store> { Box::new(RetryStore::new(open(lent(&server, "expiring")), QUICK)) };
    conformance::check_expired_credentials(open, || server.set_expired(true), || server.set_expired(false));
}
