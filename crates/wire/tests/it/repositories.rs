use std::sync::Arc;

use bytes::Bytes;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use levee_wire::https::{self, Repositories};
use levee_wire::{Expected, PeerIdentity, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::fleet::{Fleet, agent_id, listener, serving};

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

/// Sends one HTTP/1.1 request as text and returns the whole answer.
async fn ask(from: &levee_wire::Credentials, address: std::net::SocketAddr, request: &[u8]) -> std::io::Result<String> {
    let config = from.client_config(Expected::Agent(agent_id("w1")), Protocol::Http1).unwrap();
    let name = levee_wire::agent_host_name(&agent_id("w1")).try_into().unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await?;
    let mut stream = TokioIo::new(TokioIo::new(stream));
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
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
