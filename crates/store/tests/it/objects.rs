//! Cases that several stores have alike, most of them services of objects.

use jiff::{SignedDuration, Timestamp};
use levee_store::{Error, FileType, ObjectStore, Received, Result, Store, content_name};

/// What `overwrite` has put in the place of a file is read as it is, and written over by the right content.
pub fn check_damaged(store: &ObjectStore, overwrite: impl FnOnce(&str)) {
    let name = content_name(b"index");
    store.write(FileType::Index, &name, b"index").unwrap();
    overwrite(&name);
    assert_eq!(store.read(FileType::Index, &name).unwrap(), b"garbage");
    store.write(FileType::Index, &name, b"index").unwrap();
    assert_eq!(store.read(FileType::Index, &name).unwrap(), b"index");
    assert_eq!(store.list(FileType::Index).unwrap().len(), 1);
}

/// The store tells when a file came.
pub fn check_received<S: Store>(store: &S, received: impl FnOnce(&S) -> Result<Vec<Received>>) {
    let name = content_name(b"lock");
    store.write(FileType::Lock, &name, b"lock").unwrap();
    let received = received(store).unwrap();
    assert_eq!((received.len(), received[0].name.as_str(), received[0].size_bytes), (1, name.as_str(), 4));
    let age = Timestamp::now().duration_since(received[0].received_at);
    assert!(age.abs() < SignedDuration::from_secs(60), "{age}");
}

/// A store in a bucket, or a container, that is not there.
pub fn check_missing_bucket(store: &ObjectStore) {
    for refused in [
        store.size_bytes(FileType::Config, "").map(drop),
        store.list(FileType::Data).map(drop),
        store.write(FileType::Config, "", b"the config"),
    ] {
        let refused = refused.unwrap_err();
        let says_what_to_do =
            matches!(&refused, Error::Unauthorized { reason, .. } if reason.contains("make it first"));
        assert!(says_what_to_do, "{refused:?}");
    }
}
