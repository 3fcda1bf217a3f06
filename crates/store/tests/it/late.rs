//! Listings that show the state of a moment ago: over HTTP by a proxy that answers them from its memory, over SFTP by a
//! server in the middle that lists a copy, and over a folder as a network file system caches it.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use levee_store::{Entry, FileType, LocalStore, Result, Store, conformance};
use levee_testing::front::Request;

use crate::server::Server;

/// A proxy in front of a server of REST, S3 or WebDAV.
pub struct LateListings {
    pub proxy: Server,
    is_late: Arc<AtomicBool>,
}

impl LateListings {
    pub fn start(upstream: SocketAddr) -> Self {
        Self::start_changing(upstream, |head| head)
    }

    /// Requests reach the server with another head.
    pub fn start_changing(upstream: SocketAddr, change: fn(String) -> String) -> Self {
        let is_late = Arc::new(AtomicBool::new(false));
        let late = is_late.clone();
        // The last answer to each listing, by the first line of its request.
        let answers = Mutex::new(HashMap::new());
        let proxy = Server::listen(move |client, _| pass(client, upstream, change, &late, &answers));
        Self { proxy, is_late }
    }

    /// While they are, a listing that was asked for before is answered as it was then.
    pub fn set(&self, is_late: bool) {
        self.is_late.store(is_late, Ordering::Relaxed);
    }

    pub fn address(&self) -> SocketAddr {
        self.proxy.address
    }

    /// The suite on a store behind this proxy. Each kind of file has one that is listed though it is gone.
    pub fn check(&self, store: &dyn Store) {
        let listed_while_gone = conformance::check_late_listings(store, |is_late| self.set(is_late));
        assert_eq!(listed_while_gone, 5);
    }
}

fn pass(
    mut client: TcpStream,
    upstream: SocketAddr,
    change: fn(String) -> String,
    is_late: &AtomicBool,
    answers: &Mutex<HashMap<String, Vec<u8>>>,
) -> io::Result<()> {
    let Some(mut request) = Request::read(&client)? else { return Ok(()) };
    request.head = change(request.head);
    let listing = is_listing(&request.head).then(|| request.head.lines().next().unwrap_or_default().to_string());
    let remembered = match &listing {
        Some(line) if is_late.load(Ordering::Relaxed) => answers.lock().unwrap().get(line).cloned(),
        _ => None,
    };
    let answer = match remembered {
        Some(answer) => answer,
        None => {
            let answer = request.pass_on(upstream)?;
            if let Some(line) = listing {
                answers.lock().unwrap().insert(line, answer.clone());
            }
            answer
        }
    };
    client.write_all(&closing(answer))?;
    client.shutdown(Shutdown::Both)
}

/// Says that the connection ends, or the client would ask for more on it.
fn closing(mut answer: Vec<u8>) -> Vec<u8> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let has_said =
        end.is_some_and(|end| answer[..end].to_ascii_lowercase().windows(17).any(|part| part == b"connection: close"));
    if let Some(end) = end.filter(|_| !has_said) {
        answer.splice(end..end, *b"\r\nConnection: close");
    }
    answer
}

/// Whether a request asks for more than one file, as REST, S3 and WebDAV do.
fn is_listing(head: &str) -> bool {
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_depth = |line: &str| {
        let line = line.to_ascii_lowercase();
        line.split_once(':').is_some_and(|(name, value)| name == "depth" && value.trim() != "0")
    };
    let is_of_bucket = |part: &str| matches!(part, "list-type=2" | "versions" | "versions=");
    match method {
        "GET" => path.ends_with('/') && query.is_empty() || query.split('&').any(is_of_bucket),
        "PROPFIND" => head.lines().any(is_depth),
        _ => false,
    }
}

#[test]
fn requests_that_list_are_told_from_those_for_one_file() {
    let check = |head: &str, expected: bool| assert_eq!(is_listing(head), expected, "{head}");
    check("GET /some/repository/data/ HTTP/1.1\r\nHost: a\r\n", true);
    check("GET /some/repository/data/0123 HTTP/1.1\r\n", false);
    check("GET /some/repository/config HTTP/1.1\r\n", false);
    check("GET /bucket?delimiter=%2F&list-type=2&prefix=data/ HTTP/1.1\r\n", true);
    check("GET /bucket/?versions&max-keys=5 HTTP/1.1\r\n", true);
    check("GET /bucket/?versioning HTTP/1.1\r\n", false);
    check("GET /bucket/data/00/0123?versionId=5 HTTP/1.1\r\n", false);
    check("PROPFIND /vaults/data/ HTTP/1.1\r\nDepth: 1\r\n", true);
    check("PROPFIND /vaults/data/ HTTP/1.1\r\ndepth: 0\r\n", false);
    check("PUT /bucket/data/ HTTP/1.1\r\n", false);
}

/// A folder whose listings are cached, as a client of a network file system has them.
struct CachedFolder {
    store: LocalStore,
    listed: Mutex<Option<HashMap<FileType, Vec<Entry>>>>,
}

impl CachedFolder {
    fn set(&self, is_late: bool) {
        let list = |file_type: FileType| (file_type, self.store.list(file_type).unwrap());
        *self.listed.lock().unwrap() = is_late.then(|| HashMap::from(FileType::ALL.map(list)));
    }
}

impl Store for CachedFolder {
    levee_store::forward!(store: create, write, read, read_range, size_bytes, remove, location);

    fn list(&self, file_type: FileType) -> Result<Vec<Entry>> {
        match &*self.listed.lock().unwrap() {
            Some(listed) => Ok(listed[&file_type].clone()),
            None => self.store.list(file_type),
        }
    }
}

#[test]
fn a_cached_folder_decides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = CachedFolder { store: LocalStore::new(dir.path().join("repository")), listed: Mutex::new(None) };
    assert_eq!(conformance::check_late_listings(&folder, |is_late| folder.set(is_late)), 5);
}
