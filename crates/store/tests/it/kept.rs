//! A service that keeps a connection after it has refused an upload on it, and ends it when something is asked on it:
//! the worst case of one that refuses an upload unread, and closes the connection while the next request is on its way.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use levee_store::{FileType, ObjectStore, Store, content_name};
use levee_testing::front::Request;

use crate::server::Server;

/// In one of them alone a connection might come back a moment too late to be used again.
const ROUNDS: u8 = 10;

/// What is there already is written again, and the store neither fails nor has to be tried again. `open` makes a store,
/// without trying again, of what listens there.
pub fn check(upstream: SocketAddr, open: impl Fn(SocketAddr) -> ObjectStore) {
    let ended = Arc::<AtomicU64>::default();
    let counted = ended.clone();
    let server = Server::listen(move |client, _| serve(&client, upstream, &counted));
    for round in 0..ROUNDS {
        let content = [round; 100];
        let name = content_name(&content);
        // Each has connections of its own, so that no more than one of them can end.
        let store = open(server.address);
        store.write(FileType::Data, &name, &content).unwrap();
        store.write(FileType::Data, &name, &content).unwrap();
        assert!(store.read(FileType::Data, &name).unwrap() == content);
    }
    assert!(ended.load(Ordering::Relaxed) > 0, "nothing was asked on a connection that was to end");
}

/// Passes requests on, one after the other.
fn serve(mut client: &TcpStream, upstream: SocketAddr, ended: &AtomicU64) -> io::Result<()> {
    let mut is_over = false;
    while let Some(request) = Request::read(client)? {
        // An upload is let through: it is not sent again by itself.
        if is_over && request.body.is_empty() {
            ended.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let answer = request.pass_on(upstream)?;
        is_over = answer.starts_with(b"HTTP/1.1 412 ");
        client.write_all(&keeping(&answer))?;
    }
    Ok(())
}

/// The answer of a server that doesn't say that it ends the connection.
fn keeping(answer: &[u8]) -> Vec<u8> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len());
    let (head, rest) = answer.split_at(end);
    let head = String::from_utf8_lossy(head);
    let lines: Vec<&str> =
        head.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect();
    let mut kept = lines.join("\r\n").into_bytes();
    kept.extend_from_slice(rest);
    kept
}
