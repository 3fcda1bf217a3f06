//! A proxy in front of a real HTTP server, at which requests and answers break as networks and services do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use levee_store::RetryPolicy;

use crate::server::Server;

/// Attempts follow each other quickly: the faults are over at once.
pub const QUICK: RetryPolicy = RetryPolicy {
    attempts_max: 50,
    time_max: Duration::from_secs(60),
    delay_first: Duration::from_millis(1),
    delay_max: Duration::from_millis(4),
};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The server gets half of the body, and then the connection breaks on both sides.
    TornUpload,
    /// The server answers, and the connection breaks before the client hears it.
    LostAnswer,
    /// The client gets half of the answer.
    TornAnswer,
    /// The server is never asked: 500.
    Refused,
    /// The server is never asked: 503, as S3 says that it is too much.
    SlowDown,
    /// Whoever asks for the size of a file hears one byte too few.
    WrongSize,
    /// The server is never asked: 400, as S3 says it of credentials that were lent for a time.
    Expired,
}

/// Listens in front of `upstream`.
pub fn start(upstream: SocketAddr, schedule: fn(u64) -> Fault) -> Server {
    Server::listen(move |client, requests| {
        let fault = schedule(requests.fetch_add(1, Ordering::Relaxed));
        pass(client, upstream, fault)
    })
}

/// Every fourth request meets a fault, each kind in its turn.
pub fn often(request: u64) -> Fault {
    every(4, request)
}

/// For stores that need several requests for one operation.
pub fn sometimes(request: u64) -> Fault {
    every(13, request)
}

fn every(nth: u64, request: u64) -> Fault {
    const FAULTS: [Fault; 5] =
        [Fault::TornUpload, Fault::LostAnswer, Fault::TornAnswer, Fault::Refused, Fault::SlowDown];
    if request % nth == nth - 1 { FAULTS[(request / nth % 5) as usize] } else { Fault::None }
}

/// Passes one request on, and ends the connection.
fn pass(client: TcpStream, upstream: SocketAddr, fault: Fault) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        head.push_str(&line);
    }
    // So that the end of the answer is the end of the connection.
    head.push_str("Connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    match fault {
        Fault::Refused => return refuse(&client, 500, "out of order"),
        Fault::SlowDown => return refuse(&client, 503, "<Error><Code>SlowDown</Code><Message>m</Message></Error>"),
        Fault::Expired => return refuse(&client, 400, "<Error><Code>ExpiredToken</Code><Message>m</Message></Error>"),
        _ => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(head.as_bytes())?;
    if fault == Fault::TornUpload {
        server.write_all(&body[..length / 2])?;
        server.shutdown(Shutdown::Both)?;
        return client.shutdown(Shutdown::Both);
    }
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    if fault == Fault::WrongSize && head.starts_with("HEAD") {
        answer = one_byte_less(&answer);
    }
    let shown = match fault {
        Fault::LostAnswer => &[][..],
        Fault::TornAnswer => &answer[..answer.len() / 2],
        _ => &answer,
    };
    (&client).write_all(shown)?;
    client.shutdown(Shutdown::Both)
}

fn one_byte_less(answer: &[u8]) -> Vec<u8> {
    let lines = String::from_utf8_lossy(answer);
    let lines = lines.split("\r\n").map(|line| match line.to_ascii_lowercase().strip_prefix("content-length: ") {
        Some(length) => format!("Content-Length: {}", length.parse::<u64>().unwrap() - 1),
        None => line.to_string(),
    });
    lines.collect::<Vec<_>>().join("\r\n").into_bytes()
}

fn refuse(mut client: &TcpStream, status: u16, text: &str) -> io::Result<()> {
    write!(client, "HTTP/1.1 {status} Whatever\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())?;
    client.shutdown(Shutdown::Both)
}
