//! An archive class in front of a real S3 service that has none: what lies in the class `GLACIER` is refused until it was
//! asked for, as Amazon documents `RestoreObject`, `x-amz-restore` and `InvalidObjectState`. Everything else is passed on.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::front::{Front, Request};

/// The class whose objects are frozen.
pub const ARCHIVE_CLASS: &str = "GLACIER";

/// How far an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ice {
    Frozen,
    /// It is there when so many more have looked.
    Thawing(u32),
    Thawed,
}

#[derive(Default)]
struct State {
    objects: HashMap<String, Ice>,
    requests: u32,
    /// The next upload is carried out, and nobody hears of it.
    loses_next_answer: bool,
}

/// The service. It ends when it is dropped.
pub struct Glacier {
    front: Front,
    state: Arc<Mutex<State>>,
}

impl Glacier {
    /// In front of a service at a port of this machine. What was asked for is there when it was looked at so often.
    pub fn start(upstream_port: u16, looks: u32) -> Self {
        let upstream = SocketAddr::from(([127, 0, 0, 1], upstream_port));
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        Self { front: Front::start(move |request| answer(request, upstream, looks, &shared)), state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.front.address())
    }

    /// How many objects are in the class, and how many of them can be read.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let thawed = state.objects.values().filter(|ice| **ice == Ice::Thawed).count();
        (state.objects.len(), thawed)
    }

    /// How many objects were asked for so far, again and again counted each time.
    pub fn requests(&self) -> u32 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).requests
    }

    /// Lets nobody hear of the next upload into the class.
    pub fn lose_next_answer(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).loses_next_answer = true;
    }

    /// Everything is frozen again, as when the days are over.
    pub fn freeze(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.objects.values_mut().for_each(|ice| *ice = Ice::Frozen);
    }
}

fn answer(request: &Request, upstream: SocketAddr, looks: u32, state: &Mutex<State>) -> io::Result<Vec<u8>> {
    let (path, query) = request.path_and_query();
    let ice = state.lock().unwrap_or_else(PoisonError::into_inner).objects.get(path).copied();
    match (request.method(), query, ice) {
        ("POST", "restore", _) => Ok(restore(request, path, looks, state)),
        ("GET", "", Some(Ice::Frozen | Ice::Thawing(_))) => Ok(error(
            "403 Forbidden",
            "InvalidObjectState",
            "The operation is not valid for the object's storage class",
        )),
        ("HEAD", _, Some(ice)) => {
            let answer = request.pass_on(upstream)?;
            let (ice, restore) = match ice {
                Ice::Frozen => return Ok(answer),
                Ice::Thawing(0) | Ice::Thawed => {
                    (Ice::Thawed, "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2035 00:00:00 GMT\"")
                }
                Ice::Thawing(left) => (Ice::Thawing(left - 1), "ongoing-request=\"true\""),
            };
            state.lock().unwrap_or_else(PoisonError::into_inner).objects.insert(path.into(), ice);
            let text =
                String::from_utf8_lossy(&answer).replacen("\r\n", &format!("\r\nx-amz-restore: {restore}\r\n"), 1);
            Ok(text.into_bytes())
        }
        _ => {
            let answer = request.pass_on(upstream)?;
            let succeeded = answer.get(9) == Some(&b'2');
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            match request.method() {
                "PUT" if succeeded && request.header("x-amz-storage-class") == Some(ARCHIVE_CLASS) => {
                    state.objects.insert(path.into(), Ice::Frozen);
                    if std::mem::take(&mut state.loses_next_answer) {
                        return Ok(Vec::new());
                    }
                }
                "DELETE" if succeeded => drop(state.objects.remove(path)),
                _ => {}
            }
            Ok(answer)
        }
    }
}

fn restore(request: &Request, path: &str, looks: u32, state: &Mutex<State>) -> Vec<u8> {
    let body = String::from_utf8_lossy(&request.body);
    if request.header("authorization").is_none() {
        return error("403 Forbidden", "AccessDenied", "the request is not signed");
    }
    let is_well_formed = ["<RestoreRequest xmlns=", "<Days>", "</GlacierJobParameters>", "<Tier>"];
    if !is_well_formed.iter().all(|part| body.contains(part)) {
        return error("400 Bad Request", "MalformedXML", "the XML is not a RestoreRequest");
    }
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.requests += 1;
    match state.objects.get_mut(path) {
        None => error(
            "403 Forbidden",
            "InvalidObjectState",
            "Restore is not allowed for the object's current storage class",
        ),
        Some(ice @ Ice::Frozen) => {
            *ice = Ice::Thawing(looks);
            b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
        }
        Some(Ice::Thawing(_)) => {
            error("409 Conflict", "RestoreAlreadyInProgress", "Object restore is already in progress")
        }
        Some(Ice::Thawed) => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
    }
}

fn error(status: &str, code: &str, message: &str) -> Vec<u8> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
}
