//! A proxy for any protocol over TCP, which breaks connections after so many bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use crate::server::Server;

/// How long a connection lasts.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Never,
    /// The server gets so many bytes: whatever the client was sending is torn.
    Upwards(u64),
    /// The client gets so many bytes, while the server has heard everything: answers are lost or torn.
    Downwards(u64),
}

/// Listens in front of `upstream`; `schedule` says what becomes of the n-th connection.
pub fn start(upstream: SocketAddr, schedule: fn(u64) -> Cut) -> Server {
    Server::listen(move |client, connections| {
        let cut = schedule(connections.fetch_add(1, Ordering::Relaxed));
        join(client, TcpStream::connect(upstream)?, cut)
    })
}

/// Passes on what each side says, until one of them ends.
pub fn join(client: TcpStream, server: TcpStream, cut: Cut) -> io::Result<()> {
    let (upwards_max, downwards_max) = match cut {
        Cut::Never => (u64::MAX, u64::MAX),
        Cut::Upwards(bytes) => (bytes, u64::MAX),
        Cut::Downwards(bytes) => (u64::MAX, bytes),
    };
    let ends = Arc::new([client.try_clone()?, server.try_clone()?]);
    let (server_reads, client_writes, both) = (server.try_clone()?, client.try_clone()?, ends.clone());
    let downwards = thread::spawn(move || {
        let passed = pass(server_reads, client_writes, downwards_max);
        end(&both);
        passed
    });
    let upwards = pass(client, server, upwards_max);
    end(&ends);
    let _ = downwards.join();
    upwards
}

fn pass(mut from: TcpStream, mut to: TcpStream, bytes_max: u64) -> io::Result<()> {
    let mut left = bytes_max;
    let mut buffer = [0; 4096];
    while left > 0 {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        let taken = left.min(read as u64) as usize;
        to.write_all(&buffer[..taken])?;
        left -= taken as u64;
    }
    Ok(())
}

fn end(connection: &[TcpStream; 2]) {
    for end in connection {
        // It may have ended by itself.
        let _ = end.shutdown(Shutdown::Both);
    }
}
