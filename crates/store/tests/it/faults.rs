//! Retrying over every kind of failure: the suite must not notice them.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use levee_store::rest_server::Access;
use levee_store::{
    Entry, Error, FileType, LocalStore, Result, RetryPolicy, RetryStore, Store, conformance, content_name,
};

use crate::rest::client;
use crate::server::{Fault, Schedule, Server};

const QUICK: RetryPolicy = RetryPolicy {
    attempts_max: 6,
    time_max: Duration::from_secs(60),
    delay_first: Duration::from_millis(1),
    delay_max: Duration::from_millis(4),
};

/// Two of three requests meet a fault, in a pattern in which all of them come.
fn often(request: u64) -> Fault {
    match request.wrapping_mul(2_654_435_761) >> 7 & 15 {
        0 | 1 => Fault::TornUpload,
        2..=4 => Fault::LostAnswer,
        5 | 6 => Fault::TornAnswer,
        7 => Fault::Refused(500),
        8 => Fault::Refused(429),
        9 => Fault::Refused(503),
        _ => Fault::None,
    }
}

#[test]
fn a_bad_network_is_not_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(LocalStore::new(dir.path().join("repository")), Access::Owner, often);
    let policy = RetryPolicy { attempts_max: 200, ..QUICK };
    conformance::check_through_faults(&RetryStore::new(client(server.url()), policy));
}

/// As the stock server of restic answers to a name that is there.
#[test]
fn what_is_refused_because_a_lost_answer_had_succeeded_is_there() {
    let write = |schedule: Schedule| {
        let dir = tempfile::tempdir().unwrap();
        let repository = LocalStore::new(dir.path().join("repository"));
        repository.create().unwrap();
        let server = Server::start(repository, Access::Owner, schedule);
        RetryStore::new(client(server.url()), QUICK).write(FileType::Data, &content_name(b"pack"), b"pack")
    };
    write(|request| match request {
        0 => Fault::LostAnswer,
        1 => Fault::Refused(403),
        _ => Fault::None,
    })
    .unwrap();
    let refused = write(|request| if request == 0 { Fault::Refused(403) } else { Fault::None });
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
}

/// A local store whose every operation fails twice before it succeeds.
struct Faulty {
    inner: LocalStore,
    operations: AtomicU64,
}

impl Faulty {
    fn fail<T>(&self, file_type: FileType, name: &str, operation: impl Fn() -> Result<T>) -> Result<T> {
        let unreachable = || Error::Unreachable {
            location: self.location(),
            action: "reach",
            file_type,
            name: name.into(),
            reason: "injected".into(),
        };
        match self.operations.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => Err(unreachable()),
            // The answer to what was carried out is lost.
            1 => operation().and_then(|_| Err(unreachable())),
            _ => operation(),
        }
    }
}

impl Store for Faulty {
    fn create(&self) -> Result<()> {
        self.fail(FileType::Config, "", || self.inner.create())
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        // What a process leaves behind that dies while it writes.
        if let (FileType::Data, Some(folder)) = (file_type, name.get(..2)) {
            let torn = self.inner.dir().join("data").join(folder).join(".tmp-torn");
            let _ = fs::write(torn, &content[..content.len() / 2]);
        }
        self.fail(file_type, name, || self.inner.write(file_type, name, content))
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        self.fail(file_type, name, || self.inner.read(file_type, name))
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.fail(file_type, name, || self.inner.read_range(file_type, name, offset, length))
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        self.fail(file_type, name, || self.inner.size_bytes(file_type, name))
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        self.fail(file_type, "", || self.inner.list(file_type))
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        self.fail(file_type, name, || self.inner.remove(file_type, name))
    }

    fn location(&self) -> String {
        "faulty".into()
    }
}

#[test]
fn lost_answers_and_torn_uploads_are_not_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let inner = LocalStore::new(dir.path().join("repository"));
    // Threads at once can take each other's good turns for a long time.
    let policy = RetryPolicy { attempts_max: 200, ..QUICK };
    conformance::check_through_faults(&RetryStore::new(Faulty { inner, operations: AtomicU64::new(0) }, policy));
}

#[test]
fn attempts_and_time_are_bounded() {
    let check = |policy: RetryPolicy, attempts: u64| {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(LocalStore::new(dir.path()), Access::Owner, |_| Fault::Refused(500));
        let counted = RetryStore::new(Counted(client(server.url()), AtomicU64::new(0)), policy);
        assert!(matches!(counted.list(FileType::Data), Err(Error::Unreachable { .. })));
        assert_eq!(counted.inner().1.load(Ordering::Relaxed), attempts);
    };
    check(QUICK, 6);
    check(RetryPolicy { attempts_max: 1, ..QUICK }, 1);
    check(RetryPolicy { time_max: Duration::ZERO, ..QUICK }, 1);
}

#[test]
fn what_retrying_cannot_change_is_not_retried() {
    let dir = tempfile::tempdir().unwrap();
    let store = RetryStore::new(Counted(LocalStore::new(dir.path()), AtomicU64::new(0)), QUICK);
    store.create().unwrap();
    let check = |result: Result<()>, attempts: u64| {
        assert!(result.is_err());
        assert_eq!(store.inner().1.swap(0, Ordering::Relaxed), attempts);
    };
    check(store.remove(FileType::Data, &content_name(b"absent")), 1);
    check(store.write(FileType::Data, "not a name", b""), 1);
}

struct Counted<S>(S, AtomicU64);

impl<S: Store> Counted<S> {
    fn counted(&self) -> &S {
        self.1.fetch_add(1, Ordering::Relaxed);
        &self.0
    }
}

impl<S: Store> Store for Counted<S> {
    fn create(&self) -> Result<()> {
        self.0.create()
    }

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        self.counted().write(file_type, name, content)
    }

    fn read(&self, file_type: FileType, name: &str) -> Result<Vec<u8>> {
        self.counted().read(file_type, name)
    }

    fn read_range(&self, file_type: FileType, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.counted().read_range(file_type, name, offset, length)
    }

    fn size_bytes(&self, file_type: FileType, name: &str) -> Result<u64> {
        self.counted().size_bytes(file_type, name)
    }

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        self.counted().list(file_type)
    }

    fn remove(&self, file_type: FileType, name: &str) -> Result<()> {
        self.counted().remove(file_type, name)
    }

    fn location(&self) -> String {
        self.0.location()
    }
}
