//! A front before a real HTTP service: it answers some requests itself, and passes the others on.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::listening::Listening;

/// Listens until it is dropped, with one request for each connection.
pub(crate) struct Front(Listening);

impl Front {
    /// `answer` makes the whole answer, its head included. Its error ends the connection without one.
    pub(crate) fn start(answer: impl Fn(&Request) -> io::Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self(Listening::start(move |client| serve(client, &answer)))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

fn serve(mut client: TcpStream, answer: &dyn Fn(&Request) -> io::Result<Vec<u8>>) -> io::Result<()> {
    let Some(request) = Request::read(&client)? else { return Ok(()) };
    client.write_all(&answer(&request)?)?;
    client.shutdown(Shutdown::Both)
}

/// A request's first line and headers, and its body.
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    /// A request of the front's own.
    pub(crate) fn get(target: &str) -> Self {
        Self { head: format!("GET {target} HTTP/1.1\r\nHost: front\r\n"), body: Vec::new() }
    }

    /// `None` where nobody asks for anything. One whose body is cut is an error, so that it is never passed on.
    pub fn read(client: &TcpStream) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            if line.trim().is_empty() {
                break;
            }
            head.push_str(&line);
        }
        let length: usize = header(&head, "content-length").unwrap_or("0").parse().map_err(io::Error::other)?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(Some(Self { head, body }))
    }

    pub(crate) fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn path_and_query(&self) -> (&str, &str) {
        let target = self.head.split(' ').nth(1).unwrap_or_default();
        target.split_once('?').unwrap_or((target, ""))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The head as it is passed on: the end of the answer is the end of the connection.
    pub fn closing_head(&self) -> String {
        format!("{}Connection: close\r\n\r\n", self.head)
    }

    /// The answer of the service itself.
    pub fn pass_on(&self, upstream: SocketAddr) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(upstream)?;
        server.write_all(self.closing_head().as_bytes())?;
        server.write_all(&self.body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// The value of a header in the head of a request or an answer.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    headers.find_map(|(header, value)| header.eq_ignore_ascii_case(name).then(|| value.trim()))
}
