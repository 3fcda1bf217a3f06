//! Bandwidth limits at every kind of store: a limited transfer takes at least its bytes by its rate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use levee_store::limit::{Bandwidth, Timetable};
use levee_store::rest_server::Access;
use levee_store::{Address, FileType, LocalStore, Opening, Store, content_name};
use levee_testing::sshd::Sshd;

use crate::server::{Fault, Server};
use crate::{rest, sftp};

/// Several of the pieces that go at once.
const CONTENT_BYTES: usize = 112 << 10;
const RATE: &str = "128k";
/// What the content takes at that rate at least.
const TIME_MIN: Duration = Duration::from_millis(875);

/// Moves a file each way at a limit, on stores that `open` makes of the same place.
pub fn check(open: impl Fn(Bandwidth) -> Arc<dyn Store>) {
    let rate = || Some(RATE.parse::<Timetable>().unwrap());
    let content: Vec<u8> = (0..CONTENT_BYTES).map(|number| number as u8).collect();
    let name = content_name(&content);
    let took_long = |what: &str, action: &dyn Fn()| {
        let started = Instant::now();
        action();
        let took = started.elapsed();
        assert!(took >= TIME_MIN, "{what} took {took:?}");
    };

    let upwards = open(Bandwidth::new(rate(), None));
    upwards.create().unwrap();
    took_long("an upload", &|| upwards.write(FileType::Data, &name, &content).unwrap());
    let downwards = open(Bandwidth::new(None, rate()));
    took_long("a download", &|| assert!(downwards.read(FileType::Data, &name).unwrap() == content));
    took_long("a download of a range", &|| {
        assert!(downwards.read_range(FileType::Data, &name, 0, CONTENT_BYTES).unwrap() == content);
    });

    // Two transfers on one limit take the time of both.
    let shared = Bandwidth::new(None, rate());
    let (one, other) = (open(shared.clone()), open(shared));
    let started = Instant::now();
    let (name, content) = (&name, &content);
    std::thread::scope(|scope| {
        for store in [&one, &other] {
            scope.spawn(move || assert!(store.read(FileType::Data, name).unwrap() == *content));
        }
    });
    assert!(started.elapsed() >= TIME_MIN * 2, "two downloads took {:?}", started.elapsed());
}

#[test]
fn in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = |_: &str| -> Option<String> { None };
    check(|bandwidth| {
        let opening = Opening { bandwidth, ..Opening::with(&nothing) };
        opening.store(Address::Folder(dir.path().join("repository"))).unwrap()
    });
}

#[test]
fn over_rest() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(LocalStore::new(dir.path().join("repository")), Access::Owner, |_| Fault::None);
    check(|bandwidth| Arc::new(rest::client(server.url()).with_bandwidth(bandwidth)));
}

#[test]
fn over_sftp() {
    let sshd = Sshd::start();
    check(|bandwidth| Arc::new(sftp::limited_store(&sshd, bandwidth)));
}
