use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use levee_wire::https::{self, Repositories};
use levee_wire::{Credentials, Expected, PeerIdentity, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fleet::{Fleet, Serving, agent_id, listener, serving};

/// Says who asked for what.
struct Echo;

impl Repositories for Echo {
    fn handle(&self, peer: &PeerIdentity, request: Request<Bytes>) -> Response<Bytes> {
        let text = format!("{} {} {} {}", peer.agent, request.method(), request.uri(), request.body().len());
        let mut response = Response::new(Bytes::from(text));
        if request.method() == "HEAD" {
            response.headers_mut().insert("content-length", 4711.into());
            *response.body_mut() = Bytes::new();
        }
        response
    }
}

async fn connect(from: &Credentials, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let config = from.client_config(Expected::Agent(agent_id("w1")), Protocol::Http1).unwrap();
    let name = levee_wire::agent_host_name(&agent_id("w1")).try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
}

/// Sends one HTTP/1.1 request as text and returns the whole answer.
async fn ask_for_bytes(from: &Credentials, address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(from, address).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn ask(from: &Credentials, address: SocketAddr, request: &[u8]) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&ask_for_bytes(from, address, request).await?).into_owned())
}

#[tokio::test]
async fn requests_carry_the_identity_of_their_agent() {
    let fleet = Fleet::new();
    let west_credentials = fleet.agent("w1", "west");
    let (listener, address) = listener().await;
    let serve = https::serve(listener, west_credentials.clone(), Arc::new(Echo), std::future::pending());
    let west = serving(address, serve);
    let east = fleet.agent("e1", "east");

    let post = b"POST /shop/data/abc?x=1 HTTP/1.1\r\nhost: w1\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    let answer = ask(&east, west.address, post).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("e1 POST /shop/data/abc?x=1 5"), "{answer}");
    let head = b"HEAD /shop/config HTTP/1.1\r\nhost: w1\r\nconnection: close\r\n\r\n";
    let answer = ask(&east, west.address, head).await.unwrap();
    assert!(answer.contains("content-length: 4711"), "{answer}");
    let huge = b"POST /shop/data/abc HTTP/1.1\r\nhost: w1\r\nconnection: close\r\ncontent-length: 999999999\r\n\r\n";
    let answer = ask(&east, west.address, huge).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    assert!(ask(&Fleet::new().agent("e1", "east"), west.address, head).await.is_err());
    west_credentials.revoke(&fleet.revocation(1, &["e1"])).unwrap();
    assert!(ask(&east, west.address, head).await.is_err());
}

/// One file, of which bytes that were given out and are not sent yet are counted.
struct Shelf {
    size: usize,
    waiting: Arc<AtomicUsize>,
    waiting_max: AtomicUsize,
}

struct Counted {
    bytes: Vec<u8>,
    waiting: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

impl Shelf {
    fn new(size: usize) -> Arc<Shelf> {
        Arc::new(Shelf { size, waiting: Arc::default(), waiting_max: AtomicUsize::default() })
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn give_out(&self, first: usize, end: usize) -> Bytes {
        let bytes: Vec<u8> = (first..end).map(|number| (number % 251) as u8).collect();
        let waiting = self.waiting.fetch_add(bytes.len(), Ordering::SeqCst) + bytes.len();
        self.waiting_max.fetch_max(waiting, Ordering::SeqCst);
        Bytes::from_owner(Counted { bytes, waiting: self.waiting.clone() })
    }

    fn answer(&self, method: &str, range: Option<&str>) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        if method == "HEAD" {
            response.headers_mut().insert("content-length", self.size.into());
        } else if method == "GET" {
            let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
            let number = |text: &str, otherwise: usize| text.parse().unwrap_or(otherwise);
            let (first, end) = match range {
                None => (0, self.size),
                Some(("", length)) => (self.size.saturating_sub(number(length, 0)), self.size),
                Some((first, last)) => (number(first, 0), self.size.min(number(last, self.size).saturating_add(1))),
            };
            if first >= end {
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                return response;
            }
            if range.is_some() {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let range = format!("bytes {first}-{}/{}", end - 1, self.size);
                response.headers_mut().insert("content-range", range.parse().unwrap());
            }
            *response.body_mut() = self.give_out(first, end);
        }
        response
    }
}

impl Repositories for Shelf {
    fn handle(&self, _: &PeerIdentity, request: Request<Bytes>) -> Response<Bytes> {
        let range = request.headers().get("range").map(|value| value.to_str().unwrap());
        self.answer(request.method().as_str(), range)
    }
}

struct Library {
    fleet: Fleet,
    shelf: Arc<Shelf>,
    west: Serving,
}

impl Library {
    async fn new(size: usize) -> Library {
        let (fleet, shelf) = (Fleet::new(), Shelf::new(size));
        let (listener, address) = listener().await;
        let serve = https::serve(listener, fleet.agent("w1", "west"), shelf.clone(), std::future::pending());
        Library { fleet, shelf, west: serving(address, serve) }
    }
}

/// A request on a file, with more lines for its head.
fn on_file(method: &str, lines: &str) -> Vec<u8> {
    let name = "0".repeat(64);
    format!("{method} /shop/data/{name} HTTP/1.1\r\nhost: w1\r\nconnection: close\r\n{lines}\r\n").into_bytes()
}

#[tokio::test]
async fn large_files_come_in_pieces_and_as_one() {
    let library = Library::new((5 << 20) + 12_345).await;
    let east = library.fleet.agent("e1", "east");
    for range in [
        None,
        Some("bytes=0-"),
        Some("bytes=0-0"),
        Some("bytes=7-1048582"),
        Some("bytes=7-1048583"),
        Some("bytes=100-3000000"),
        Some("bytes=4000000-99999999"),
        Some("bytes=5255224-"),
        Some("bytes=5255225-"),
        Some("bytes=-3"),
        Some("bytes=-2500000"),
        Some("bytes=-99999999"),
    ] {
        let line = range.map(|range| format!("range: {range}\r\n")).unwrap_or_default();
        let answer = ask_for_bytes(&east, library.west.address, &on_file("GET", &line)).await.unwrap();
        let head_bytes = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let (head, body) = answer.split_at(head_bytes);
        let head = String::from_utf8_lossy(head).to_lowercase();
        let expected = library.shelf.answer("GET", range);
        assert!(head.starts_with(&format!("http/1.1 {}", expected.status().as_u16())), "{range:?}: {head}");
        assert!(head.contains(&format!("content-length: {}\r\n", expected.body().len())), "{range:?}: {head}");
        match expected.headers().get("content-range") {
            Some(told) => assert!(head.contains(&format!("content-range: {}\r\n", told.to_str().unwrap())), "{head}"),
            None => assert!(!head.contains("content-range"), "{range:?}: {head}"),
        }
        assert!(body == expected.body(), "{range:?}: other bytes");
    }
}

#[tokio::test]
async fn clients_that_read_nothing_take_little_memory_and_stop_nobody() {
    let library = Library::new(64 << 20).await;
    let (east, north) = (library.fleet.agent("e1", "east"), library.fleet.agent("n1", "north"));
    let mut stuck = Vec::new();
    for _ in 0..48 {
        let mut stream = connect(&east, library.west.address).await.unwrap();
        stream.write_all(&on_file("GET", "")).await.unwrap();
        stuck.push(stream);
    }
    // Until the kernel takes no more for them.
    let filled = async {
        let mut before = 0;
        while library.shelf.waiting() < 8 << 20 || library.shelf.waiting() != before {
            before = library.shelf.waiting();
            sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(Duration::from_secs(90), filled).await.expect("the clients read after all");
    // Neither in its file nor in what it sends does another one wait for them.
    let request = on_file("GET", "range: bytes=1-3000000\r\n");
    let file = ask_for_bytes(&north, library.west.address, &request);
    let answer = timeout(Duration::from_secs(10), file).await.expect("waits for others").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 206") && answer.len() > 3_000_000);
    let waiting_max = library.shelf.waiting_max.load(Ordering::SeqCst);
    assert!(waiting_max <= (32 << 20) + (2 << 20), "{waiting_max} bytes waited");
    // Who goes takes along what waited.
    drop(stuck);
    let gone = async {
        while library.shelf.waiting() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.expect("bytes wait for connections that are gone");
}

#[tokio::test]
async fn uploads_that_trickle_stop_nobody_else() {
    let library = Library::new(1000).await;
    let (east, north) = (library.fleet.agent("e1", "east"), library.fleet.agent("n1", "north"));
    let mut trickling = Vec::new();
    for _ in 0..32 {
        let mut stream = connect(&east, library.west.address).await.unwrap();
        stream.write_all(&on_file("POST", "content-length: 150000000\r\n")).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        trickling.push(stream);
    }
    sleep(Duration::from_millis(500)).await;
    let post = on_file("POST", "content-length: 5\r\n").into_iter().chain(*b"hello").collect::<Vec<_>>();
    for (from, request) in [(&north, &post), (&north, &on_file("GET", "")), (&east, &on_file("GET", ""))] {
        let asked = ask(from, library.west.address, request);
        let answer = timeout(Duration::from_secs(5), asked).await.expect("waits for the others").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    drop(trickling);
}
