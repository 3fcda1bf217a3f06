//! S3 on Ceph's gateway: one cluster for everything, because it takes a quarter of a minute to start.

use std::net::SocketAddr;
use std::process::Command;

use levee_store::object_store::{BroughtBack, FileVersion, KeyPair, S3Options, Service, TransportOptions};
use levee_store::{
    BucketAddress, Entry, Error, FileType, ObjectStore, RetryStore, Store, Temperature, ThawRequest, ThawSpeed,
    conformance, content_name,
};
use levee_testing::ceph::{ACCESS_KEY, COLD_CLASS, Ceph, SECRET_KEY};
use levee_testing::glacier::{ARCHIVE_CLASS, Glacier};
use levee_testing::process::run;

use crate::late::LateListings;
use crate::lies::Lie;
use crate::proxy::{self, Expiring, Fault, QUICK};
use crate::server::Server;

/// What all tests but those of locks work in.
pub const BUCKET: &str = "conformance";

/// With the keys of the tests' servers.
pub fn options(endpoint: String, bucket: &str, path: &str) -> S3Options {
    let address = BucketAddress { endpoint, bucket: bucket.into(), path: path.into() };
    let keys = KeyPair { id: ACCESS_KEY.into(), secret: SECRET_KEY.into(), session_token: None };
    S3Options { address, region: None, keys: Some(keys), profile: None, data_class: None, locked_for_days: None }
}

pub fn store(options: S3Options) -> ObjectStore {
    ObjectStore::new(Service::S3(options), TransportOptions::default()).unwrap()
}

#[test]
fn on_ceph() {
    let ceph = Ceph::start();
    conforms(&ceph);
    wrong_keys_are_told_apart(&ceph);
    tells_when_a_file_was_received(&ceph);
    a_bad_network_is_not_noticed(&ceph);
    late_listings_decide_nothing(&ceph);
    expired_credentials_are_said_at_once(&ceph);
    a_wrong_size_is_no_success(&ceph);
    only_packs_of_contents_go_to_the_cold_class(&ceph);
    locked_files_cannot_be_removed_for_good(&ceph);
    what_a_removal_hides_is_listed_and_brought_back(&ceph);
    more_versions_than_a_page_holds_are_listed(&ceph);
    a_lock_is_renewed_on_the_file_and_not_on_what_lies_above_it(&ceph);
    a_clock_that_is_years_off_locks_nothing(&ceph);
    an_archive_is_thawed_before_it_is_read(&ceph);
}

fn an_archive_is_thawed_before_it_is_read(ceph: &Ceph) {
    let glacier = Glacier::start(ceph.port(), 1);
    let archive =
        S3Options { data_class: Some(ARCHIVE_CLASS.into()), ..options(glacier.endpoint(), BUCKET, "archive/b c") };
    let store = store(archive);
    let (contents, trees) = (content_name(b"contents"), content_name(b"trees"));
    // The answer is lost, and what stands there cannot be read to compare it.
    glacier.lose_next_answer();
    store.write(FileType::Data, &contents, b"contents").unwrap();
    store.write(FileType::Data, &contents, b"contents").unwrap();
    store.write_tree_pack(&trees, b"trees").unwrap();
    assert_eq!(glacier.counts(), (1, 0));

    let entry = Entry { name: contents.clone(), size_bytes: 8 };
    assert_eq!(store.archived(FileType::Data).unwrap(), [entry]);
    let temperature = || store.temperature(FileType::Data, &contents).unwrap();
    assert_eq!(temperature(), Temperature::Frozen);
    assert_eq!(store.temperature(FileType::Data, &trees).unwrap(), Temperature::Readable);
    assert_eq!(store.read(FileType::Data, &trees).unwrap(), b"trees");
    for refused in
        [store.read(FileType::Data, &contents).map(drop), store.read_range(FileType::Data, &contents, 1, 2).map(drop)]
    {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::Frozen { .. }), "{refused:?}");
    }

    let request = ThawRequest { days: 3, speed: ThawSpeed::Bulk };
    let thaw = |name: &str| store.thaw(FileType::Data, name, &request).unwrap();
    assert_eq!(thaw(&contents), Temperature::Thawing);
    // What is not in an archive is not asked for.
    assert_eq!((thaw(&trees), glacier.requests()), (Temperature::Readable, 1));
    assert_eq!((temperature(), temperature()), (Temperature::Thawing, Temperature::Readable));
    assert_eq!(store.read(FileType::Data, &contents).unwrap(), b"contents");
    // For longer.
    assert_eq!((thaw(&contents), glacier.requests()), (Temperature::Readable, 2));
    store.remove(FileType::Data, &contents).unwrap();
    assert_eq!(store.archived(FileType::Data).unwrap(), []);
}

fn a_wrong_size_is_no_success(ceph: &Ceph) {
    let (_proxy, store) = through(ceph, |_| Fault::Lie(Lie::SmallSizes), "sizes");
    let name = content_name(b"content");
    let failed = store.write(FileType::Data, &name, b"content").unwrap_err();
    assert!(matches!(&failed, Error::Unreachable { reason, .. } if reason.contains("6 of 7 bytes")), "{failed:?}");
    // The next attempt finds something there, reads it, and finds it right.
    store.write(FileType::Data, &name, b"content").unwrap();
    check_wrong_sizes(SocketAddr::from(([127, 0, 0, 1], ceph.port())));
}

/// On an S3 service with the bucket of the tests.
pub fn check_wrong_sizes(upstream: SocketAddr) {
    let at = |address: SocketAddr| store(options(format!("http://{address}"), BUCKET, "wrong/sizes"));
    for (lie, liar) in proxy::liars(upstream) {
        let refused = conformance::check_wrong_sizes(&at(upstream), &at(liar.address));
        assert!(refused > 0, "{lie:?} was not noticed");
    }
}

/// Credentials that were lent for a time, and are lent again.
pub fn check_expired_credentials(upstream: SocketAddr) {
    let expiring = Expiring::start(upstream);
    let open = || -> Box<dyn Store> {
        let endpoint = format!("http://{}", expiring.proxy.address);
        Box::new(RetryStore::new(store(options(endpoint, BUCKET, "expiring")), QUICK))
    };
    conformance::check_expired_credentials(open, || expiring.set(true), || expiring.set(false));
}

fn only_packs_of_contents_go_to_the_cold_class(ceph: &Ceph) {
    let cold = S3Options { data_class: Some(COLD_CLASS.into()), ..options(ceph.endpoint(), BUCKET, "classes") };
    let store = store(cold);
    let class = |file_type: FileType, name: &str| store.state(file_type, name).unwrap().unwrap().class;
    let (contents, trees) = (content_name(b"contents"), content_name(b"trees"));
    store.write(FileType::Data, &contents, b"contents").unwrap();
    store.write_tree_pack(&trees, b"trees").unwrap();
    store.write(FileType::Index, &trees, b"trees").unwrap();
    assert_eq!(class(FileType::Data, &contents), COLD_CLASS);
    assert_eq!(class(FileType::Data, &trees), "STANDARD");
    assert_eq!(class(FileType::Index, &trees), "STANDARD");
    assert_eq!(store.read(FileType::Data, &contents).unwrap(), b"contents");
    assert_eq!(store.list(FileType::Data).unwrap().len(), 2);
    let unknown = S3Options { data_class: Some("NO_SUCH".into()), ..options(ceph.endpoint(), BUCKET, "classes") };
    let refused = self::store(unknown).write(FileType::Data, &content_name(b"x"), b"x").unwrap_err();
    assert!(matches!(refused, Error::Denied { .. }), "{refused:?}");
}

fn locked_files_cannot_be_removed_for_good(ceph: &Ceph) {
    let locking = S3Options { locked_for_days: Some(2), ..options(ceph.endpoint(), "locked", "") };
    let store = store(locking);
    store.create().unwrap();
    let name = content_name(b"x");
    store.write(FileType::Data, &name, b"x").unwrap();
    store.write(FileType::Lock, &name, b"x").unwrap();
    let days = |file_type: FileType| {
        let until = store.state(file_type, &name).unwrap().unwrap().locked_until?;
        Some(until.duration_since(jiff::Timestamp::now()).as_hours() as f64 / 24.0)
    };
    assert_eq!(days(FileType::Data).unwrap().round(), 2.0);
    assert_eq!(days(FileType::Lock), None);
    // Not even with the account's own keys.
    let version = version_of(ceph, "locked", &name);
    let locked = format!("locked/data/{}/{name}?versionId={version}", &name[..2]);
    assert!(request(ceph, "DELETE", &locked).contains("AccessDenied"));
    assert_eq!(store.read(FileType::Data, &name).unwrap(), b"x");
    // Renewed, never shortened.
    assert!(store.retain(FileType::Data, &name, 5).unwrap());
    assert!(store.retain(FileType::Data, &name, 1).unwrap());
    assert_eq!(days(FileType::Data).unwrap().round(), 5.0);
    assert!(!store.retain(FileType::Lock, &name, 5).unwrap());
    // The same again needs nothing, and a bucket without object lock says so instead of keeping less than it was told.
    store.write(FileType::Data, &name, b"x").unwrap();
    let without = S3Options { locked_for_days: Some(2), ..options(ceph.endpoint(), BUCKET, "unlocked") };
    let refused = self::store(without).write(FileType::Data, &name, b"x").unwrap_err();
    assert!(matches!(refused, Error::Denied { .. }), "{refused:?}");
    store.remove(FileType::Lock, &name).unwrap();
    assert_eq!(store.list(FileType::Lock).unwrap(), []);
}

/// In the bucket of `locked_files_cannot_be_removed_for_good`.
fn what_a_removal_hides_is_listed_and_brought_back(ceph: &Ceph) {
    let locking = S3Options { locked_for_days: Some(1), ..options(ceph.endpoint(), "locked", "hidden") };
    let store = store(locking);
    let (name, other) = (content_name(b"x"), content_name(b"other"));
    store.write(FileType::Data, &name, b"x").unwrap();
    store.write(FileType::Data, &other, b"other").unwrap();
    store.write(FileType::Config, "", b"configuration").unwrap();
    // Hidden twice: S3 has nothing against it.
    store.remove(FileType::Data, &name).unwrap();
    request(ceph, "DELETE", &format!("locked/hidden/data/{}/{name}", &name[..2]));
    let histories = store.histories(FileType::Data).unwrap();
    assert_eq!(histories.len(), 2, "{histories:?}");
    let versions = &histories.iter().find(|history| history.name == name).unwrap().versions;
    // Ceph keeps one marker of the two.
    let (oldest, above) = versions.split_last().unwrap();
    assert!(!oldest.is_marker && !above.is_empty() && above.iter().all(|version| version.is_marker), "{versions:?}");
    assert_eq!(store.read_version(FileType::Data, &name, oldest).unwrap(), b"x");
    let gone = store.read(FileType::Data, &name).unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone:?}");
    // The second time as after an answer that was lost.
    for _ in 0..2 {
        let how = store.bring_back(FileType::Data, &name, oldest, above).unwrap();
        assert_eq!(how, BroughtBack::Uncovered);
        assert_eq!(store.read(FileType::Data, &name).unwrap(), b"x");
    }
    let configurations = store.histories(FileType::Config).unwrap();
    assert_eq!((configurations.len(), configurations[0].versions.len()), (1, 1), "{configurations:?}");
    let without = self::store(options(ceph.endpoint(), BUCKET, "hidden"));
    let refused = without.histories(FileType::Data).unwrap_err();
    assert!(refused.to_string().contains("keeps no versions"), "{refused}");
}

/// In the bucket of `locked_files_cannot_be_removed_for_good`.
fn more_versions_than_a_page_holds_are_listed(ceph: &Ceph) {
    let store = store(options(ceph.endpoint(), "locked", "many"));
    let snapshots = format!("locked/many/snapshots/{}[0001-1010]", "0".repeat(60));
    request_with(ceph, "PUT", &snapshots, &["--data-binary", "", "--parallel", "--parallel-max", "16"]);
    let histories = store.histories(FileType::Snapshot).unwrap();
    assert_eq!(histories.len(), 1010);
    assert!(histories.iter().all(|history| history.versions.len() == 1), "a version was listed more than once");
    let names: Vec<&str> = histories.iter().map(|history| history.name.as_str()).collect();
    assert!(names.is_sorted() && names[1009].ends_with("1010"), "{names:?}");

    // Pages that end among the versions of one file, and among those of the next.
    let [first, second] = ["a", "b"].map(|digit| digit.repeat(64));
    for name in [&first, &second] {
        for _ in 0..5 {
            request_with(ceph, "PUT", &format!("locked/many/index/{name}"), &["--data-binary", ""]);
        }
    }
    request(ceph, "DELETE", &format!("locked/many/index/{second}"));
    let whole = store.histories(FileType::Index).unwrap();
    let counts: Vec<(&str, usize)> =
        whole.iter().map(|history| (history.name.as_str(), history.versions.len())).collect();
    assert_eq!(counts, [(first.as_str(), 5), (second.as_str(), 6)]);
    assert!(whole[1].versions[0].is_marker && !whole[1].versions[1].is_marker, "{whole:?}");
    for versions_per_page in [1, 2, 3, 5, 11] {
        let by_pages = store.histories_by_pages(FileType::Index, versions_per_page).unwrap();
        assert_eq!(by_pages, whole, "{versions_per_page} versions a page");
    }
}

/// In the bucket of `locked_files_cannot_be_removed_for_good`.
fn a_lock_is_renewed_on_the_file_and_not_on_what_lies_above_it(ceph: &Ceph) {
    let locking = S3Options { locked_for_days: Some(1), ..options(ceph.endpoint(), "locked", "covered") };
    let store = store(locking);
    let name = content_name(b"pack");
    store.write(FileType::Data, &name, b"pack").unwrap();
    let path = format!("locked/covered/data/{}/{name}", &name[..2]);
    let days = || -> Vec<Option<f64>> {
        let history = store.histories(FileType::Data).unwrap().into_iter().find(|history| history.name == name);
        let of_version = |version: &FileVersion| {
            let told = request(ceph, "GET", &format!("{path}?retention=&versionId={}", version.id));
            let until = told.split("<RetainUntilDate>").nth(1)?.split('<').next()?.to_string();
            let until: jiff::Timestamp = until.parse().unwrap();
            Some((until.duration_since(jiff::Timestamp::now()).as_hours() as f64 / 24.0).round())
        };
        history.unwrap().versions.iter().map(of_version).collect()
    };
    // The same once more is the file as well.
    overwrite(ceph, &path, "pack");
    assert!(store.retain(FileType::Data, &name, 3).unwrap());
    assert_eq!(days(), [Some(3.0), Some(1.0)]);
    // As long as the file, and not the file.
    overwrite(ceph, &path, "junk");
    for _ in 0..2 {
        let refused = store.retain(FileType::Data, &name, 5).unwrap_err();
        assert!(matches!(&refused, Error::Damaged { reason, .. } if reason.contains("is locked anew")), "{refused:?}");
        assert_eq!(days(), [None, Some(5.0), Some(1.0)]);
    }
    // Nothing is left of the file.
    let other = content_name(b"other");
    for junk in ["junk", "more junk"] {
        overwrite(ceph, &format!("locked/covered/data/{}/{other}", &other[..2]), junk);
    }
    let refused = store.retain(FileType::Data, &other, 5).unwrap_err();
    assert!(matches!(&refused, Error::Damaged { reason, .. } if reason.contains("no version")), "{refused:?}");
}

/// Until when a file is locked goes by this host's clock, which the service holds against its own at each request.
fn a_clock_that_is_years_off_locks_nothing(ceph: &Ceph) {
    for date in ["20460101T000000Z", "20100101T000000Z"] {
        let answer = request_with(ceph, "GET", "locked?versioning=", &["-H", &format!("x-amz-date: {date}")]);
        assert!(answer.contains("RequestTimeTooSkewed"), "{answer}");
    }
}

/// Writes over a file, as Levee never does.
fn overwrite(ceph: &Ceph, path: &str, content: &str) {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-S", "--fail", "-X", "PUT", "--aws-sigv4", "aws:amz:us-east-1:s3", "-u"]);
    curl.arg(format!("{ACCESS_KEY}:{SECRET_KEY}"));
    curl.args(["-H", &format!("x-amz-content-sha256: {}", content_name(content.as_bytes()))]);
    run(curl.args(["--data-binary", content]).arg(format!("{}/{path}", ceph.endpoint())));
}

/// A request of somebody who has the account's keys, and what is answered.
fn request(ceph: &Ceph, method: &str, path: &str) -> String {
    request_with(ceph, method, path, &[])
}

/// Requests for every path that the pattern names, as `curl` has patterns.
fn request_with(ceph: &Ceph, method: &str, pattern: &str, options: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-S", "-X", method, "--aws-sigv4", "aws:amz:us-east-1:s3"]).args(options);
    curl.args(["-H", &format!("x-amz-content-sha256: {}", content_name(b"")), "-u"]);
    run(curl.arg(format!("{ACCESS_KEY}:{SECRET_KEY}")).arg(format!("{}/{pattern}", ceph.endpoint())))
}

/// The version of a bucket's object whose key ends like this.
fn version_of(ceph: &Ceph, bucket: &str, end: &str) -> String {
    let listed = request(ceph, "GET", &format!("{bucket}?versions="));
    let entry = listed.split("<Version>").find(|entry| entry.contains(&format!("{end}</Key>")));
    let version = entry.and_then(|entry| entry.split("<VersionId>").nth(1)?.split('<').next());
    version.unwrap_or_else(|| panic!("no version of {end}: {listed}")).to_string()
}

fn through(ceph: &Ceph, schedule: fn(u64) -> Fault, path: &str) -> (Server, ObjectStore) {
    let proxy = proxy::start(SocketAddr::from(([127, 0, 0, 1], ceph.port())), schedule);
    let store = store(options(format!("http://{}", proxy.address), BUCKET, path));
    (proxy, store)
}

fn a_bad_network_is_not_noticed(ceph: &Ceph) {
    let (_proxy, store) = through(ceph, proxy::often, "faults");
    conformance::check_through_faults(&RetryStore::new(store, QUICK));
}

fn late_listings_decide_nothing(ceph: &Ceph) {
    let late = LateListings::start(SocketAddr::from(([127, 0, 0, 1], ceph.port())));
    late.check(&store(options(format!("http://{}", late.address()), BUCKET, "late")));
}

fn expired_credentials_are_said_at_once(ceph: &Ceph) {
    let (_proxy, store) = through(ceph, |_| Fault::Expired, "expired");
    let refused = store.write(FileType::Data, &content_name(b"x"), b"x").unwrap_err();
    assert!(matches!(&refused, Error::Unauthorized { reason, .. } if reason.contains("ExpiredToken")), "{refused:?}");
    check_expired_credentials(SocketAddr::from(([127, 0, 0, 1], ceph.port())));
}

fn conforms(ceph: &Ceph) {
    let store = store(options(ceph.endpoint(), BUCKET, "a/b c"));
    store.create().unwrap();
    conformance::check(&store);
}

fn wrong_keys_are_told_apart(ceph: &Ceph) {
    let check = |id: &str, secret: &str| {
        let keys = KeyPair { id: id.into(), secret: secret.into(), session_token: None };
        let store = store(S3Options { keys: Some(keys), ..options(ceph.endpoint(), BUCKET, "") });
        let refused = store.list(FileType::Data).unwrap_err();
        assert!(matches!(refused, Error::Unauthorized { .. }), "{refused:?}");
        assert!(!format!("{refused} {refused:?}").contains("sesame"), "{refused:?}");
    };
    check(ACCESS_KEY, "sesame");
    check("NOBODY", "sesame");
    let nowhere = store(options(ceph.endpoint(), "no-such-bucket", ""));
    let refused = nowhere.write(FileType::Data, &content_name(b"x"), b"x").unwrap_err();
    assert!(matches!(&refused, Error::Unauthorized { reason, .. } if reason.contains("NoSuchBucket")), "{refused:?}");
}

fn tells_when_a_file_was_received(ceph: &Ceph) {
    let store = store(options(ceph.endpoint(), BUCKET, "times"));
    let name = content_name(b"lock");
    store.write(FileType::Lock, &name, b"lock").unwrap();
    let received = store.received(FileType::Lock).unwrap();
    assert_eq!((received.len(), received[0].name.as_str(), received[0].size_bytes), (1, name.as_str(), 4));
    let age = jiff::Timestamp::now().duration_since(received[0].received_at);
    assert!(age.abs() < jiff::SignedDuration::from_secs(60), "{age}");
}
