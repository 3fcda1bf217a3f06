//! Credentials that expire in the middle of work.

use std::time::{Duration, Instant};

use super::write_new;
use crate::{Error, FileType, Store, content_name};

/// All refusals together: nobody waits for credentials to become right by themselves.
const REFUSALS_TIME_MAX: Duration = Duration::from_secs(20);

/// `open` makes the store as a new process would; it tries again by itself what may succeed then. From `expire` on the
/// place accepts its credentials no more, and from `renew` on it accepts them again.
pub fn check_expired_credentials(open: impl Fn() -> Box<dyn Store>, expire: impl FnOnce(), renew: impl FnOnce()) {
    let store = open();
    store.create().unwrap();
    let before = write_new(&*store, FileType::Data, b"before");
    assert_eq!(store.read(FileType::Data, &before).unwrap(), b"before");

    expire();
    let started = Instant::now();
    let after = content_name(b"after");
    for (what, answer) in [
        ("write", store.write(FileType::Data, &after, b"after")),
        ("write again", store.write(FileType::Data, &before, b"before")),
        ("read", store.read(FileType::Data, &before).map(drop)),
        ("read a part", store.read_range(FileType::Data, &before, 1, 2).map(drop)),
        ("look up", store.size_bytes(FileType::Data, &before).map(drop)),
        ("list", store.list(FileType::Data).map(drop)),
        ("remove", store.remove(FileType::Data, &before)),
    ] {
        let Err(Error::Unauthorized { reason, .. }) = &answer else {
            panic!("{what}: expected that the credentials are refused, got {answer:?}");
        };
        assert!(reason.contains("credentials") && reason.contains("new ones"), "{what}: {reason}");
    }
    assert!(started.elapsed() < REFUSALS_TIME_MAX, "what cannot succeed was tried again");

    renew();
    let store = open();
    assert_eq!(store.read(FileType::Data, &before).unwrap(), b"before");
    store.write(FileType::Data, &after, b"after").unwrap();
    for name in [before, after] {
        store.remove(FileType::Data, &name).unwrap();
    }
    assert_eq!(store.list(FileType::Data).unwrap(), []);
}
