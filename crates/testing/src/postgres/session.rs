//! A PostgreSQL client in a few lines: plain queries over TCP, for a server that trusts this machine.
//!
//! It is the harness's own, so that what tests, demo and benchmarks see owes nothing to Levee's client.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// After this long without a word the outcome of a statement counts as unknown.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// No message of this size is expected; a larger one is not PostgreSQL's.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// One session. After an error it must be dropped: what the server is doing is not known.
pub struct Session {
    stream: io::BufReader<TcpStream>,
}

/// What a statement brought.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The first column of each row, as text.
    pub values: Vec<String>,
    /// Warnings and notices. A commit that was cancelled while it waited for a standby comes with one,
    /// and is not safe at the other site.
    pub notices: Vec<String>,
}

impl Session {
    pub fn open(address: SocketAddr, user: &str, database: &str) -> io::Result<Session> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let mut session = Session { stream: io::BufReader::new(stream) };
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for text in ["user", user, "database", database, "application_name", "shop", ""] {
            body.extend(text.as_bytes());
            body.push(0);
        }
        let length = body.len() as u32 + 4;
        session.send(&[&length.to_be_bytes()[..], &body].concat())?;
        session.read_until_ready()?;
        Ok(session)
    }

    /// Carries out one statement by the simple query protocol.
    pub fn query(&mut self, sql: &str) -> io::Result<Outcome> {
        let length = sql.len() as u32 + 5;
        self.send(&[b"Q", &length.to_be_bytes()[..], sql.as_bytes(), b"\0"].concat())?;
        self.read_until_ready()
    }

    /// Carries out one statement that is to be safe at the other site, too: it counts only without a warning.
    pub fn commit(&mut self, sql: &str) -> io::Result<()> {
        match self.query(sql)?.notices {
            notices if notices.is_empty() => Ok(()),
            notices => Err(io::Error::other(notices.join("; "))),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    fn read_until_ready(&mut self) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut failure = None;
        loop {
            let (kind, body) = self.read_message()?;
            match kind {
                b'Z' => return failure.map_or(Ok(outcome), |message: String| Err(io::Error::other(message))),
                b'E' => failure = Some(message_text(&body)),
                b'N' => outcome.notices.push(message_text(&body)),
                b'D' => outcome.values.push(first_column(&body).unwrap_or_default()),
                b'R' if body != [0, 0, 0, 0] => {
                    return Err(io::Error::other("the server asks for a password; it must trust this machine"));
                }
                _ => {}
            }
        }
    }

    fn read_message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..MESSAGE_BYTES_MAX).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not PostgreSQL's protocol"));
        }
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body)?;
        Ok((head[0], body))
    }
}

/// The field `M` of an error or notice.
fn message_text(body: &[u8]) -> String {
    let field = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&b'M'));
    field.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
}

fn first_column(body: &[u8]) -> Option<String> {
    let length = i32::from_be_bytes(body.get(2..6)?.try_into().ok()?);
    let value = body.get(6..6 + usize::try_from(length).ok()?)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::postgres::Cluster;

    #[test]
    fn statements_bring_values_notices_and_errors() {
        let cluster = Cluster::builder().start();
        let address = SocketAddr::new(cluster.address(), cluster.port());
        let mut session = Session::open(address, "postgres", "postgres").unwrap();
        assert_eq!(session.query("select * from generate_series(1, 3)").unwrap().values, ["1", "2", "3"]);
        let outcome = session.query("do $$ begin raise warning 'beware'; end $$").unwrap();
        assert_eq!(outcome.notices, ["beware"]);
        session.commit("select 1").unwrap();
        assert_eq!(session.commit("do $$ begin raise warning 'beware'; end $$").unwrap_err().to_string(), "beware");
        assert!(session.query("select 1/0").unwrap_err().to_string().contains("division by zero"));
        assert_eq!(session.query("select null").unwrap().values, [""]);
    }
}
