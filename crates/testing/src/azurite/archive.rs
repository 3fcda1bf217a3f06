//! The archive tier in front of Azurite, which knows it and yet lets everybody read what lies there: it is refused until it
//! was asked for, as Azure documents `Set Blob Tier`, `x-ms-archive-status` and `BlobArchived`. Everything else is passed on,
//! and what was asked for comes back by Azurite's own answer to the same request.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ACCOUNT;
use crate::front::{Front, Request};

const TIER: &str = "x-ms-access-tier";
const PRIORITY: &str = "x-ms-rehydrate-priority";

/// How far a blob of the archive is.
enum Ice {
    Frozen,
    /// It is there when so many more have looked; then this request is carried out.
    Thawing(u32, Request),
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Ice>,
    priorities: Vec<String>,
    /// The next upload into the archive is carried out, and nobody hears of it.
    loses_next_answer: bool,
}

/// The service. It ends when it is dropped.
pub struct Archive {
    front: Front,
    state: Arc<Mutex<State>>,
}

impl Archive {
    /// In front of Azurite. What was asked for is there when it was looked at so often.
    pub fn start(upstream: SocketAddr, looks: u32) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        Self { front: Front::start(move |request| answer(request, upstream, looks, &shared)), state }
    }

    pub fn address(&self) -> SocketAddr {
        self.front.address()
    }

    /// As `Azurite::endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}/{ACCOUNT}", self.address())
    }

    /// How many blobs are in the archive, those on their way back among them.
    pub fn count(&self) -> usize {
        locked(&self.state).blobs.len()
    }

    /// With which priorities blobs were asked for so far, in their order.
    pub fn priorities(&self) -> Vec<String> {
        locked(&self.state).priorities.clone()
    }

    /// Lets nobody hear of the next upload into the archive.
    pub fn lose_next_answer(&self) {
        locked(&self.state).loses_next_answer = true;
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(request: &Request, upstream: SocketAddr, looks: u32, state: &Mutex<State>) -> io::Result<Vec<u8>> {
    let (path, query) = request.path_and_query();
    let comp = query.split('&').find_map(|pair| pair.strip_prefix("comp="));
    // One request after the other: nothing comes between what is known of a blob and what is done with it.
    let mut state = locked(state);
    match (request.method(), comp, state.blobs.get_mut(path)) {
        ("PUT", Some("tier"), Some(ice)) => {
            let is_pending = matches!(ice, Ice::Thawing(..));
            let (tier, priority) = (request.header(TIER), request.header(PRIORITY));
            let (Some("Hot" | "Cool" | "Cold"), Some(priority @ ("Standard" | "High"))) = (tier, priority) else {
                return Ok(refusal("400 Bad Request", "InvalidHeaderValue"));
            };
            if is_pending {
                return Ok(refusal("409 Conflict", "BlobBeingRehydrated"));
            }
            *ice = Ice::Thawing(looks, Request { head: request.head.clone(), body: request.body.clone() });
            state.priorities.push(priority.into());
            Ok(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec())
        }
        ("GET", None, Some(_)) => Ok(refusal("409 Conflict", "BlobArchived")),
        ("HEAD", None, Some(Ice::Thawing(looks_left, asked))) => {
            if *looks_left == 0 {
                let done = asked.pass_on(upstream)?;
                if !succeeded(&done) {
                    return Ok(done);
                }
                state.blobs.remove(path);
                return request.pass_on(upstream);
            }
            *looks_left -= 1;
            let status = "\r\nx-ms-archive-status: rehydrate-pending-to-hot\r\n";
            Ok(String::from_utf8_lossy(&request.pass_on(upstream)?).replacen("\r\n", status, 1).into_bytes())
        }
        (method, _, _) => {
            let answer = request.pass_on(upstream)?;
            match method {
                "PUT" if succeeded(&answer) && request.header(TIER) == Some("Archive") => {
                    state.blobs.insert(path.into(), Ice::Frozen);
                    if std::mem::take(&mut state.loses_next_answer) {
                        return Ok(Vec::new());
                    }
                }
                "DELETE" if succeeded(&answer) => drop(state.blobs.remove(path)),
                _ => {}
            }
            Ok(answer)
        }
    }
}

fn succeeded(answer: &[u8]) -> bool {
    answer.get(9) == Some(&b'2')
}

fn refusal(status: &str, code: &str) -> Vec<u8> {
    let body =
        format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nx-ms-error-code: {code}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
