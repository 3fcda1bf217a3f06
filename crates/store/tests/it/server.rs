//! A small HTTP/1.1 server around `rest_server::handle`, which can be told to fail.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use levee_store::rest_server::{self, Access, Request};
use levee_store::{LocalStore, Store};
use levee_testing::listening::Listening;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The connection breaks when half of the body has come.
    TornUpload,
    /// The request is carried out, and the connection breaks before the answer, if it is a success.
    LostAnswer,
    /// Half of the answer's body, then nothing more.
    TornAnswer,
    /// The server answers so and has done nothing.
    Refused(u16),
}

/// Which fault the n-th request meets.
pub type Schedule = fn(u64) -> Fault;

pub struct Server {
    pub address: SocketAddr,
    _listening: Listening,
}

impl Server {
    pub fn start(store: LocalStore, access: Access, schedule: Schedule) -> Self {
        Self::listen(move |stream, requests| {
            let mut reader = BufReader::new(stream.try_clone()?);
            let fault = |_: &Head| schedule(requests.fetch_add(1, Ordering::Relaxed));
            serve(&store, access, fault, &mut reader, &mut &stream)
        })
    }

    /// Lets in whoever sends this `Authorization` header, which may be changed at any time.
    pub fn start_guarded(store: LocalStore, authorization: Arc<Mutex<String>>) -> Self {
        Self::listen(move |stream, _| {
            let mut reader = BufReader::new(stream.try_clone()?);
            let fault = |head: &Head| match head.authorization == *authorization.lock().unwrap() {
                true => Fault::None,
                false => Fault::Refused(401),
            };
            serve(&store, Access::Owner, fault, &mut reader, &mut &stream)
        })
    }

    pub fn start_tls(store: LocalStore, access: Access, config: Arc<rustls::ServerConfig>) -> Self {
        Self::listen(move |stream, requests| {
            let connection = rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            let mut tls = rustls::StreamOwned::new(connection, stream);
            serve_tls(&store, access, requests, &mut tls)
        })
    }

    /// Serves each connection on a thread of its own, with the count of requests so far.
    pub fn listen(serve: impl Fn(TcpStream, &AtomicU64) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let requests = AtomicU64::new(0);
        let listening = Listening::start(move |client| serve(client, &requests));
        Self { address: listening.address(), _listening: listening }
    }

    pub fn url(&self) -> String {
        format!("http://{}/some/repository", self.address)
    }
}

#[derive(Default)]
struct Head {
    method: String,
    path: String,
    query: Option<String>,
    range: Option<String>,
    accept: Option<String>,
    authorization: String,
    is_last: bool,
    length: usize,
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut head = Head { method: words.next().unwrap_or_default().into(), ..Head::default() };
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    head.path = path.strip_prefix("/some/repository").unwrap_or("/outside").into();
    head.query = query.map(Into::into);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { return Ok(Some(head)) };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "range" => head.range = Some(value.into()),
            "accept" => head.accept = Some(value.into()),
            "authorization" => head.authorization = value.into(),
            "proxy-authorization" => return Err(io::Error::other("what opens a proxy has come to a server")),
            "connection" => head.is_last = value.eq_ignore_ascii_case("close"),
            "content-length" => head.length = value.parse().map_err(io::Error::other)?,
            _ => {}
        }
    }
}

fn answer(store: &dyn Store, access: Access, head: &Head, body: &[u8]) -> rest_server::Response {
    let request = Request {
        method: &head.method,
        path: &head.path,
        query: head.query.as_deref(),
        range: head.range.as_deref(),
        accept: head.accept.as_deref(),
        body,
    };
    rest_server::handle(store, access, request)
}

fn head_of(response: &rest_server::Response) -> String {
    let mut text = format!("HTTP/1.1 {} Whatever\r\n", response.status);
    for (name, value) in &response.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !response.headers.iter().any(|(name, _)| *name == "content-length") {
        text.push_str(&format!("content-length: {}\r\n", response.body.len()));
    }
    text + "\r\n"
}

fn serve(
    store: &LocalStore,
    access: Access,
    fault: impl Fn(&Head) -> Fault,
    reader: &mut impl BufRead,
    writer: &mut (impl Write + Cut),
) -> io::Result<()> {
    while let Some(head) = read_head(reader)? {
        let fault = fault(&head);
        let mut body = vec![0; if fault == Fault::TornUpload { head.length / 2 } else { head.length }];
        reader.read_exact(&mut body)?;
        if fault == Fault::TornUpload {
            return writer.cut();
        }
        let response = match fault {
            Fault::Refused(status) => {
                rest_server::Response { status, headers: Vec::new(), body: b"out of order".to_vec() }
            }
            _ => answer(store, access, &head, &body),
        };
        if fault == Fault::LostAnswer && response.status < 300 {
            return writer.cut();
        }
        writer.write_all(head_of(&response).as_bytes())?;
        if fault == Fault::TornAnswer && !response.body.is_empty() {
            writer.write_all(&response.body[..response.body.len() / 2])?;
            return writer.cut();
        }
        writer.write_all(&response.body)?;
        if head.is_last {
            return writer.cut();
        }
    }
    Ok(())
}

fn serve_tls(
    store: &LocalStore,
    access: Access,
    _requests: &AtomicU64,
    tls: &mut rustls::StreamOwned<rustls::ServerConnection, TcpStream>,
) -> io::Result<()> {
    loop {
        // One request at a time arrives, so nothing is left over in this buffer.
        let mut reader = BufReader::with_capacity(1, &mut *tls);
        let Some(head) = read_head(&mut reader)? else { return Ok(()) };
        drop(reader);
        let mut body = vec![0; head.length];
        tls.read_exact(&mut body)?;
        let response = answer(store, access, &head, &body);
        tls.write_all(head_of(&response).as_bytes())?;
        tls.write_all(&response.body)?;
        tls.flush()?;
    }
}

/// Breaking a connection off, so that the peer sees it at once.
pub trait Cut {
    fn cut(&self) -> io::Result<()>;
}

impl Cut for &TcpStream {
    fn cut(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }
}
