//! Azure Blob Storage as Azurite serves it.
//!
//! Azurite refuses an upload where a blob stands, checks signatures, and knows access policies that end. It says
//! `AuthorizationFailure` of wrong signatures where Azure says `AuthenticationFailed`, and reads what lies in the archive: for
//! this tier Azure's documented answers are put in front of it (`levee_testing::azurite::archive`).

use std::net::SocketAddr;

use levee_store::object_store::{AzureOptions, Service, TransportOptions};
use levee_store::{
    ContainerAddress, Entry, Error, FileType, ObjectStore, RetryStore, Store, Temperature, ThawRequest, ThawSpeed,
    conformance, content_name,
};
use levee_testing::azurite::archive::Archive;
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
        data_class: None,
    }
}

/// With packs of data in a tier of their own.
fn tiered(options: AzureOptions, tier: &str) -> AzureOptions {
    AzureOptions { data_class: Some(tier.into()), ..options }
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

/// Those packs are written by Levee's own requests, which it signs itself.
#[test]
fn conforms_with_packs_of_data_in_a_tier() {
    let Some(server) = Azurite::start() else { return };
    conformance::check(&open(tiered(options(server.address(), "cool/b c"), "Cool")));
    conformance::check(&open(tiered(lent(&server, "cool and lent"), "Cold")));
}

#[test]
fn only_packs_of_contents_go_to_the_tier() {
    let Some(server) = Azurite::start() else { return };
    let (contents, trees) = (content_name(b"contents"), content_name(b"trees"));
    for (place, options) in [("signed", options(server.address(), "signed")), ("lent", lent(&server, "lent"))] {
        let store = open(tiered(options.clone(), "Cool"));
        store.write(FileType::Data, &contents, b"contents").unwrap();
        store.write_tree_pack(&trees, b"trees").unwrap();
        store.write(FileType::Index, &trees, b"trees").unwrap();
        let pack = |name: &str| server.tier(&format!("{place}/data/{}/{name}", &name[..2]));
        let others = [pack(&trees), server.tier(&format!("{place}/index/{trees}"))];
        assert_eq!((pack(&contents), others), ("Cool".into(), ["Hot".into(), "Hot".into()]), "{place}");
        // A pack that is damaged is written over, into the same tier.
        server.overwrite(&format!("{place}/data/{}/{contents}", &contents[..2]), "garbage!");
        assert_eq!(pack(&contents), "Hot");
        store.write(FileType::Data, &contents, b"contents").unwrap();
        assert_eq!(store.read(FileType::Data, &contents).unwrap(), b"contents");
        assert_eq!(pack(&contents), "Cool");
        // Refused, and not written elsewhere.
        let unknown = open(tiered(options, "Tepid"));
        let other = content_name(b"other");
        let refused = unknown.write(FileType::Data, &other, b"other").unwrap_err();
        assert!(matches!(refused, Error::Denied { .. }), "{refused:?}");
        assert!(matches!(store.size_bytes(FileType::Data, &other), Err(Error::NotFound { .. })));
    }
}

#[test]
fn an_archive_is_thawed_before_it_is_read() {
    let Some(server) = Azurite::start() else { return };
    let archive = Archive::start(server.address(), 1);
    let store = open(tiered(options(archive.address(), "archive/b c"), "Archive"));
    let (contents, more, trees) = (content_name(b"contents"), content_name(b"more"), content_name(b"trees"));
    // The answer is lost, and what stands there cannot be read to compare it.
    archive.lose_next_answer();
    store.write(FileType::Data, &contents, b"contents").unwrap();
    store.write(FileType::Data, &contents, b"contents").unwrap();
    store.write(FileType::Data, &more, b"more").unwrap();
    store.write_tree_pack(&trees, b"trees").unwrap();
    assert_eq!(archive.count(), 2);

    let archived = || {
        let mut archived = store.archived(FileType::Data).unwrap();
        archived.sort();
        archived
    };
    let entry = |name: &str, size_bytes| Entry { name: name.into(), size_bytes };
    let mut both = [entry(&contents, 8), entry(&more, 4)];
    both.sort();
    assert_eq!(archived(), both);
    let temperature = |name: &str| store.temperature(FileType::Data, name).unwrap();
    assert_eq!((temperature(&contents), temperature(&trees)), (Temperature::Frozen, Temperature::Readable));
    assert_eq!(store.read(FileType::Data, &trees).unwrap(), b"trees");
    for refused in
        [store.read(FileType::Data, &contents).map(drop), store.read_range(FileType::Data, &contents, 1, 2).map(drop)]
    {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::Frozen { .. }), "{refused:?}");
    }

    let thaw = |name: &str, speed| store.thaw(FileType::Data, name, &ThawRequest { days: 3, speed }).unwrap();
    assert_eq!(thaw(&contents, ThawSpeed::Bulk), Temperature::Thawing);
    // Neither asked for again, nor where it is not in the archive.
    assert_eq!(thaw(&trees, ThawSpeed::Bulk), Temperature::Readable);
    assert_eq!((archive.priorities(), archived()), (vec!["Standard".to_string()], both.to_vec()));
    assert_eq!((temperature(&contents), temperature(&contents)), (Temperature::Thawing, Temperature::Readable));
    assert_eq!(store.read(FileType::Data, &contents).unwrap(), b"contents");
    // It stays where it has come to.
    assert_eq!(archived(), [entry(&more, 4)]);
    assert_eq!(server.tier(&format!("archive/b%20c/data/{}/{contents}", &contents[..2])), "Hot");
    // By a signature that was lent, which signs nothing, and soon.
    let by_lent = AzureOptions { endpoint: Some(archive.endpoint()), ..lent(&server, "archive/b c") };
    let asked = open(by_lent).thaw(FileType::Data, &more, &ThawRequest { days: 3, speed: ThawSpeed::Expedited });
    assert_eq!((asked.unwrap(), archive.priorities()[1].as_str()), (Temperature::Thawing, "High"));
    let looks = [temperature(&more), temperature(&more)];
    assert_eq!((looks, archived()), ([Temperature::Thawing, Temperature::Readable], Vec::new()));
    let missing = store.temperature(FileType::Data, &content_name(b"missing")).unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing:?}");
}

#[test]
fn a_bad_network_is_not_noticed() {
    let Some(server) = Azurite::start() else { return };
    let proxy = proxy::start(server.address(), proxy::often);
    conformance::check_through_faults(&RetryStore::new(open(options(proxy.address, "faults")), QUICK));
    let tiered = tiered(options(proxy.address, "cool faults"), "Cool");
    conformance::check_through_faults(&RetryStore::new(open(tiered), QUICK));
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
        let store = open(tiered(wrong, "Cool"));
        let name = content_name(b"x");
        for refused in [
            store.size_bytes(FileType::Config, "").map(drop),
            store.list(FileType::Data).map(drop),
            store.write(FileType::Data, &name, b"x"),
            store.archived(FileType::Data).map(drop),
            store.temperature(FileType::Data, &name).map(drop),
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
