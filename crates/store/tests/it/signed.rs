//! OSS, COS and OBS as their documentation describes them (`levee_testing::clouds`), reached through a proxy.

use std::net::{SocketAddr, TcpListener};

use levee_store::object_store::{KeyPair, Service, SignedOptions, TransportOptions};
use levee_store::{
    Address, BucketAddress, Entry, Error, FileType, ObjectStore, Opening, Proxies, Result, RetryStore, Store,
    conformance, content_name,
};
use levee_testing::clouds::{Cloud, Clouds, KEY_ID, OWN_DOMAIN, SECRET_KEY};

use crate::proxy::{self, Fault, QUICK};

const TOKEN: &str = "a token+/=";

fn keys() -> KeyPair {
    KeyPair { id: KEY_ID.into(), secret: SECRET_KEY.into(), session_token: None }
}

fn lent_keys() -> KeyPair {
    KeyPair { session_token: Some(TOKEN.into()), ..keys() }
}

fn options(cloud: Cloud, host: &str, keys: KeyPair) -> SignedOptions {
    let address =
        BucketAddress { endpoint: format!("http://{host}"), bucket: cloud.bucket().into(), path: "a/b c".into() };
    SignedOptions { address, keys, region: None }
}

fn through(proxy: &str) -> Result<Proxies> {
    Proxies::from_variables(&|name: &str| (name == "http_proxy").then(|| proxy.to_string()))
}

fn open(cloud: Cloud, options: SignedOptions, proxy: &str) -> Result<ObjectStore> {
    let service = match cloud {
        Cloud::Oss => Service::Oss(options),
        Cloud::Cos => Service::Cos(options),
        Cloud::Obs => Service::Obs(options),
    };
    ObjectStore::new(service, TransportOptions { proxies: through(proxy)?, ..TransportOptions::default() })
}

fn store(cloud: Cloud, keys: KeyPair, proxy: SocketAddr) -> ObjectStore {
    open(cloud, options(cloud, cloud.host(), keys), &format!("http://{proxy}")).unwrap()
}

fn check_conforms(cloud: Cloud) {
    let clouds = Clouds::start();
    let store = store(cloud, keys(), clouds.address());
    store.create().unwrap();
    conformance::check(&store);
    assert!(clouds.further_pages() > 0);
    // The configuration alone is left.
    assert_eq!(clouds.objects(cloud), 1);
}

#[test]
fn oss_conforms() {
    check_conforms(Cloud::Oss);
}

#[test]
fn cos_conforms() {
    check_conforms(Cloud::Cos);
}

#[test]
fn obs_conforms() {
    check_conforms(Cloud::Obs);
}

/// Every kind of fault, with enough time between them for a listing of a dozen pages.
fn rarely(request: u64) -> Fault {
    if request % 40 == 39 { proxy::often(request / 40 * 4 + 3) } else { Fault::None }
}

fn check_through_faults(cloud: Cloud) {
    let clouds = Clouds::start();
    let proxy = proxy::start(clouds.address(), rarely);
    conformance::check_through_faults(&RetryStore::new(store(cloud, keys(), proxy.address), QUICK));
}

#[test]
fn a_bad_network_is_not_noticed_by_oss() {
    check_through_faults(Cloud::Oss);
}

#[test]
fn a_bad_network_is_not_noticed_by_cos() {
    check_through_faults(Cloud::Cos);
}

#[test]
fn a_bad_network_is_not_noticed_by_obs() {
    check_through_faults(Cloud::Obs);
}

#[track_caller]
fn assert_unauthorized<T: std::fmt::Debug>(answer: Result<T>, never_said: &[&str]) {
    assert!(matches!(answer, Err(Error::Unauthorized { .. })), "expected Unauthorized, got {answer:?}");
    let error = answer.unwrap_err();
    let said = format!("{error} {error:?}");
    assert!(never_said.iter().all(|text| !said.contains(text)), "{said}");
}

#[test]
fn wrong_keys_are_said_without_them() {
    let clouds = Clouds::start();
    for cloud in Cloud::ALL {
        let wrong_secret = KeyPair { secret: "sesame".into(), ..keys() };
        let wrong_id = KeyPair { id: "nobody".into(), ..keys() };
        for (keys, secret) in [(wrong_secret, "sesame"), (wrong_id, SECRET_KEY)] {
            let store = store(cloud, keys, clouds.address());
            let name = content_name(b"x");
            assert_unauthorized(store.write(FileType::Data, &name, b"x"), &[secret]);
            assert_unauthorized(store.read(FileType::Data, &name), &[secret]);
            assert_unauthorized(store.size_bytes(FileType::Config, ""), &[secret]);
            assert_unauthorized(store.list(FileType::Data), &[secret]);
        }
        assert_eq!(clouds.objects(cloud), 0);
    }
}

#[test]
fn expired_keys_are_said_at_once() {
    for cloud in Cloud::ALL {
        let clouds = Clouds::start();
        let open = || -> Box<dyn Store> { Box::new(RetryStore::new(store(cloud, keys(), clouds.address()), QUICK)) };
        conformance::check_expired_credentials(open, || clouds.set_expired(true), || clouds.set_expired(false));
    }
}

#[test]
fn keys_lent_for_a_time_need_their_token() {
    let clouds = Clouds::with_token(TOKEN);
    let name = content_name(b"x");
    for cloud in [Cloud::Oss, Cloud::Cos] {
        let lent = store(cloud, lent_keys(), clouds.address());
        lent.write(FileType::Data, &name, b"x").unwrap();
        assert_eq!(lent.read(FileType::Data, &name).unwrap(), b"x");
        assert_eq!(lent.list(FileType::Data).unwrap().len(), 1);
        let without = store(cloud, keys(), clouds.address());
        assert_unauthorized(without.read(FileType::Data, &name), &[SECRET_KEY]);
        let other = KeyPair { session_token: Some("another".into()), ..keys() };
        assert_unauthorized(
            store(cloud, other, clouds.address()).read(FileType::Data, &name),
            &[SECRET_KEY, "another"],
        );
        clouds.set_expired(true);
        assert_unauthorized(lent.read(FileType::Data, &name), &[SECRET_KEY, TOKEN]);
        clouds.set_expired(false);
    }
    let lent = options(Cloud::Obs, Cloud::Obs.host(), lent_keys());
    let refused = open(Cloud::Obs, lent, &format!("http://{}", clouds.address()));
    assert_unauthorized(refused.map(drop), &[SECRET_KEY, TOKEN]);
}

/// Their condition on writing is passed over there.
#[test]
fn a_configuration_is_not_overwritten_in_a_bucket_that_keeps_versions() {
    let clouds = Clouds::with_versions();
    for cloud in Cloud::ALL {
        let store = store(cloud, keys(), clouds.address());
        store.write(FileType::Config, "", b"the config").unwrap();
        let refused = store.write(FileType::Config, "", b"another");
        assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
        assert_eq!(store.read(FileType::Config, "").unwrap(), b"the config");
    }
}

/// At a domain of the bucket's owner nothing says which region it is, and the first version of signatures is used.
#[test]
fn oss_at_a_domain_of_ones_own() {
    let clouds = Clouds::start();
    let options = options(Cloud::Oss, OWN_DOMAIN, keys());
    let store = open(Cloud::Oss, options, &format!("http://{}", clouds.address())).unwrap();
    let mut written: Vec<Entry> = (0..20u8)
        .map(|number| {
            let name = content_name(&[number]);
            store.write(FileType::Data, &name, &[number]).unwrap();
            store.write(FileType::Data, &name, &[number]).unwrap();
            assert_eq!(store.read_range(FileType::Data, &name, 0, 1).unwrap(), [number]);
            Entry { name, size_bytes: 1 }
        })
        .collect();
    written.sort();
    let mut listed = store.list(FileType::Data).unwrap();
    listed.sort();
    assert_eq!(listed, written);
    assert!(clouds.further_pages() >= 2);
}

/// A wrong one is refused, which the first version of signatures, without any region, would not be.
#[test]
fn oss_is_signed_for_the_region_that_is_named() {
    let clouds = Clouds::start();
    let name = content_name(b"x");
    for host in [OWN_DOMAIN, Cloud::Oss.host()] {
        let written = |region: &str| {
            let options = SignedOptions { region: Some(region.into()), ..options(Cloud::Oss, host, keys()) };
            let store = open(Cloud::Oss, options, &format!("http://{}", clouds.address()))?;
            store.write(FileType::Data, &name, b"x")
        };
        let refused = written("cn-beijing");
        assert!(matches!(&refused, Err(Error::Denied { reason, .. }) if reason.contains("region")), "{refused:?}");
        written("cn-hangzhou").unwrap();
    }
}

#[track_caller]
fn assert_without_bucket(refused: Result<()>) {
    assert!(
        matches!(&refused, Err(Error::Unauthorized { reason, .. }) if reason.contains("make it first")),
        "{refused:?}"
    );
}

#[test]
fn a_missing_bucket_is_no_empty_vault() {
    let clouds = Clouds::start();
    let proxy = format!("http://{}", clouds.address());
    for cloud in Cloud::ALL {
        let mut options = options(cloud, cloud.host(), keys());
        options.address.bucket = "nowhere".into();
        let store = open(cloud, options, &proxy).unwrap();
        assert_without_bucket(store.list(FileType::Data).map(drop));
        assert_without_bucket(store.read_range(FileType::Config, "", 0, 1).map(drop));
        assert_without_bucket(store.write(FileType::Config, "", b"the config"));
    }
}

/// Before anything else is done there, though the first thing that is asked is answered without a reason.
#[test]
fn a_missing_bucket_is_noticed_when_a_vault_is_opened() {
    let clouds = Clouds::start();
    let variable = |name: &str| match name {
        "OSS_ACCESS_KEY_ID" | "TENCENTCLOUD_SECRET_ID" | "OBS_ACCESS_KEY_ID" => Some(KEY_ID.to_string()),
        "OSS_ACCESS_KEY_SECRET" | "TENCENTCLOUD_SECRET_KEY" | "OBS_SECRET_ACCESS_KEY" => Some(SECRET_KEY.to_string()),
        _ => None,
    };
    for cloud in Cloud::ALL {
        let opened = |bucket: &str| {
            let address = format!("{}:http://{}/{bucket}/vaults/mine", cloud.scheme(), cloud.host());
            let proxies = through(&format!("http://{}", clouds.address()))?;
            Opening { proxies, ..Opening::with(&variable) }.store(Address::parse(&address)?).map(drop)
        };
        assert_without_bucket(opened("nowhere"));
        // One that is there is empty before `init`.
        opened(cloud.bucket()).unwrap();
    }
}

#[test]
fn a_proxy_that_is_not_there_is_said_without_its_password() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = options(Cloud::Cos, Cloud::Cos.host(), keys());
    let store = open(Cloud::Cos, options, &format!("http://mia:sesame@{gone}")).unwrap();
    let refused = store.read(FileType::Config, "").unwrap_err();
    assert!(matches!(refused, Error::Unreachable { .. }), "{refused:?}");
    let said = format!("{refused} {refused:?}");
    assert!(!said.contains("sesame"), "{said}");
}
