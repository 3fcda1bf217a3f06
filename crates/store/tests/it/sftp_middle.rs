//! The stock SFTP server with something in the middle, through which every packet goes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;

use levee_testing::sshd::Sshd;

use crate::server::Server;

/// Where distributions put it; it speaks over its standard input and output.
const SERVERS: [&str; 2] = ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"];

/// What becomes of a request, which is a packet without the length before it.
pub enum Passage {
    /// The server gets this.
    Passed(Vec<u8>),
    /// The server never hears of it, and the client gets this.
    Answered(Vec<u8>),
    /// The server gets half of it, and then the connection breaks.
    Torn(Vec<u8>),
    /// The server gets it, and the connection breaks before the client hears the answer.
    Lost(Vec<u8>),
}

/// The SSH server before it, as soon as it is known. A connection that is to break is broken there, because the client
/// doesn't hear of an end behind it.
#[derive(Clone, Default)]
pub struct Front(Arc<OnceLock<Weak<Sshd>>>);

impl Front {
    pub fn set(&self, sshd: &Arc<Sshd>) {
        assert!(self.0.set(Arc::downgrade(sshd)).is_ok(), "there is one already");
    }

    fn cut(&self) {
        if let Some(sshd) = self.0.get().and_then(Weak::upgrade) {
            sshd.cut_connections();
        }
    }
}

/// Serves each connection by an SFTP server of its own. `on_answer` may change what the client gets.
pub fn start(
    front: Front,
    on_request: impl Fn(Vec<u8>) -> Passage + Send + Sync + 'static,
    on_answer: impl Fn(&mut Vec<u8>) + Send + Sync + 'static,
) -> Server {
    let program = SERVERS.iter().find(|path| Path::new(path).is_file());
    let program = program.expect("OpenSSH's sftp-server is not installed: run `cargo xtask setup`");
    Server::listen(move |client, _| {
        let mut server = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (requests, answers) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
        client.set_nodelay(true)?;
        let connection = Connection {
            client: &client,
            writing: Mutex::new(()),
            lost: Mutex::new(None),
            is_cut: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                if let Ok(Ended::Broken) = connection.pass_answers(answers, &on_answer) {
                    connection.cut(&front);
                }
                let _ = client.shutdown(Shutdown::Both);
            });
            // The server ends with its requests, and the answers with the server.
            let passed = connection.pass_requests(requests, &on_request);
            if let Ok(Ended::Broken) = passed {
                connection.cut(&front);
            }
            server.wait()?;
            passed.map(drop)
        })
    })
}

/// How one direction ended.
enum Ended {
    /// One side has ended it.
    ByItself,
    Broken,
}

struct Connection<'a> {
    client: &'a TcpStream,
    /// Held while a packet is written to the client: two threads do.
    writing: Mutex<()>,
    /// The request whose answer the client must not hear.
    lost: Mutex<Option<u32>>,
    /// Once: the next connection is not this one's to cut.
    is_cut: AtomicBool,
}

impl Connection<'_> {
    fn pass_requests(&self, mut requests: impl Write, on_request: impl Fn(Vec<u8>) -> Passage) -> io::Result<Ended> {
        while let Some(request) = read_packet(self.client)? {
            match on_request(request) {
                Passage::Passed(request) => requests.write_all(&framed(&request))?,
                Passage::Answered(answer) => self.answer(&answer)?,
                Passage::Torn(request) => {
                    let framed = framed(&request);
                    requests.write_all(&framed[..framed.len() / 2])?;
                    return Ok(Ended::Broken);
                }
                Passage::Lost(request) => {
                    *self.lost.lock().unwrap() = number(&request, 1);
                    requests.write_all(&framed(&request))?;
                }
            }
        }
        Ok(Ended::ByItself)
    }

    /// Drops what the server writes to when it ends, so that the server does not wait for a reader.
    fn pass_answers(&self, mut answers: impl Read, on_answer: impl Fn(&mut Vec<u8>)) -> io::Result<Ended> {
        while let Some(mut answer) = read_packet(&mut answers)? {
            let lost = *self.lost.lock().unwrap();
            if lost.is_some() && lost == number(&answer, 1) {
                return Ok(Ended::Broken);
            }
            on_answer(&mut answer);
            self.answer(&answer)?;
        }
        Ok(Ended::ByItself)
    }

    fn answer(&self, answer: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap();
        let mut client = self.client;
        client.write_all(&framed(answer))
    }

    fn cut(&self, front: &Front) {
        if !self.is_cut.swap(true, Ordering::Relaxed) {
            front.cut();
        }
    }
}

/// The next packet without the length before it; `None` at the end.
fn read_packet(mut from: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if from.read_exact(&mut length).is_err() {
        return Ok(None);
    }
    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut packet)?;
    Ok(Some(packet))
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let mut framed = (packet.len() as u32).to_be_bytes().to_vec();
    framed.extend(packet);
    framed
}

/// The number at a place of a packet.
pub fn number(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?))
}
