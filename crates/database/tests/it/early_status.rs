//! A proxy in front of a server, by which the first status of a log stream is there before the server sends any log: what
//! else is a matter of who runs first.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where it listens. It ends with the test's process.
pub fn start(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(server).unwrap());
            let answered = Arc::new(AtomicBool::new(false));
            let (from, to, told) = (server.try_clone().unwrap(), client.try_clone().unwrap(), answered.clone());
            // Either end may go at any time.
            std::thread::spawn(move || pass_answers(from, to, &told));
            std::thread::spawn(move || pass_requests(client, server, &answered));
        }
    });
    address
}

fn pass_requests(mut client: TcpStream, mut server: TcpStream, answered: &AtomicBool) -> io::Result<()> {
    const COPY_BOTH: [u8; 8] = [b'W', 0, 0, 0, 7, 0, 0, 0];
    server.write_all(&message(&mut client, 0)?)?;
    loop {
        let mut request = message(&mut client, 1)?;
        if request[5..].starts_with(b"START_REPLICATION") {
            answered.store(true, Ordering::SeqCst);
            client.write_all(&COPY_BOTH)?;
            request.extend(message(&mut client, 1)?);
        }
        server.write_all(&request)?;
    }
}

fn pass_answers(mut server: TcpStream, mut client: TcpStream, answered: &AtomicBool) -> io::Result<()> {
    loop {
        let answer = message(&mut server, 1)?;
        if answer[0] != b'W' || !answered.load(Ordering::SeqCst) {
            client.write_all(&answer)?;
        }
    }
}

/// The next message: a type of so many bytes, its length and the rest.
fn message(from: &mut TcpStream, type_bytes: usize) -> io::Result<Vec<u8>> {
    let mut message = vec![0; type_bytes + 4];
    from.read_exact(&mut message)?;
    let length = u32::from_be_bytes(message[type_bytes..].try_into().unwrap()) as usize;
    message.resize(type_bytes + length, 0);
    from.read_exact(&mut message[type_bytes + 4..])?;
    Ok(message)
}
