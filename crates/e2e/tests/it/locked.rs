//! A further vault in a bucket with object lock: what is in use there can be removed by nobody, and is locked anew.

use std::time::Duration;

use jiff::Timestamp;
use levee_store::object_store::{KeyPair, S3Options, Service, TransportOptions};
use levee_store::{BucketAddress, FileType, ObjectStore, Store};
use levee_testing::ceph::{ACCESS_KEY, Ceph, SECRET_KEY};
use levee_testing::wait::wait_until;

use super::further::{set_secret, wait_copies};
use super::world::{Setup, Site, World};

/// Listing and locking some twenty files beside a cluster takes a while on a crowded machine.
const PATIENCE: Duration = Duration::from_secs(120);
const TYPES: [FileType; 4] = [FileType::Config, FileType::Key, FileType::Snapshot, FileType::Data];

#[test]
fn what_is_in_use_in_a_locked_bucket_is_locked_and_locked_anew() {
    let (world, ceph) = (World::set_up(Setup { zero_loss: false, ..Setup::default() }), Ceph::start());
    for (name, value) in [("bucket-id", ACCESS_KEY), ("bucket-key", SECRET_KEY)] {
        set_secret(&world, name, value);
    }
    let file = |days: u32| {
        let app = "recovery = \"west\"\ncopy_to = [\"bucket\"]\n";
        let file = world.protection_file().replace("recovery = \"west\"\n", app);
        format!(
            "{file}[vault.bucket]\naddress = \"s3:{}/copies\"\nlog_every = \"2s\"\nhost = \"bucket\"\n\
             locked_for = \"{days}d\"\n\
             secrets = {{ AWS_ACCESS_KEY_ID = \"bucket-id\", AWS_SECRET_ACCESS_KEY = \"bucket-key\" }}\n",
            ceph.endpoint()
        )
    };
    world.apply(&file(1));
    world.wait_protected(Site::East);
    wait_copies(&world, "orders", 3);
    wait_copies(&world, "documents", 3);
    let store = store(&ceph);
    let first = locked_days(&store);
    assert!(first.len() >= 8, "{first:?}");
    assert!(first.iter().all(|(_, days)| (0.9..1.1).contains(days)), "{first:?}");

    // Longer at once, also what was there before.
    world.apply(&file(3));
    wait_until("the locks to be renewed", PATIENCE, || {
        let now = locked_days(&store);
        first.iter().all(|(name, _)| now.iter().any(|(known, days)| known == name && *days > 2.9))
    });
    wait_copies(&world, "orders", 3);
}

fn store(ceph: &Ceph) -> ObjectStore {
    let (bucket, path) = ("copies".into(), "shop/west".into());
    let address = BucketAddress { endpoint: ceph.endpoint(), bucket, path };
    let keys = KeyPair { id: ACCESS_KEY.into(), secret: SECRET_KEY.into(), session_token: None };
    let options =
        S3Options { address, region: None, keys: Some(keys), profile: None, data_class: None, locked_for_days: None };
    ObjectStore::new(Service::S3(options), TransportOptions::default()).unwrap()
}

/// For how many days each file can't be removed. Log is replaced all the time, and what goes meanwhile is left out.
fn locked_days(store: &ObjectStore) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    for file_type in TYPES {
        for entry in store.list(file_type).unwrap() {
            let Ok(Some(state)) = store.state(file_type, &entry.name) else { continue };
            let left = state.locked_until.map(|until| until.duration_since(Timestamp::now()));
            let days = left.map_or(0.0, |left| left.as_secs_f64() / (24.0 * 3600.0));
            found.push((format!("{file_type}/{}", entry.name), days));
        }
    }
    found
}
