//! HTTPS for repositories: plain requests, from agents that show their certificates or from clients that a
//! server of its own admits.

mod answer;
mod question;
mod range;
mod shares;
mod upload;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::available_parallelism;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use crate::credentials::{ClientCertificate, Credentials, Protocol};
use crate::error::Result;
use crate::identity::PeerIdentity;
use crate::listen;
use answer::AnswerBody;
use question::Bounds;
use shares::Shares;

/// The largest body of a request: restic's largest pack (128 MiB), a last blob that goes over, and its header.
pub const BODY_BYTES_MAX: usize = 152 << 20;

/// Answers one request. Called on a thread that may block.
///
/// A large file is asked for in ranges, with a request for its size (HEAD) before them where the client named none.
pub trait Repositories: Send + Sync + 'static {
    fn handle(&self, peer: &PeerIdentity, request: Request<Bytes>) -> Response<Bytes>;
}

/// Serves repositories until `shutdown`; then open connections are cut.
pub async fn serve(
    listener: TcpListener,
    credentials: Credentials,
    repositories: Arc<dyn Repositories>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let tls = credentials.server_config(ClientCertificate::Required, Protocol::Http1)?;
    let service = Service { credentials, repositories, bounds: Arc::new(Bounds::new()) };
    let service = tower::service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    listen::serve(listener, tls, Protocol::Http1, service, shutdown).await;
    Ok(())
}

/// Whether somebody may ask.
pub enum Admission {
    /// As this user; without one they are told apart by where they ask from.
    Admitted {
        user: Option<String>,
    },
    Refused(Response<Bytes>),
}

/// Who may ask, and what they are answered, where no certificate says who asks. Called on threads that may block.
pub trait Guarded: Send + Sync + 'static {
    /// What is known at once, before the body is taken. `None` where it has to be computed.
    fn recognise(&self, head: &Parts) -> Option<Admission>;

    /// The same where it takes a while. Called for one request at a time from each address, and for few in all.
    fn admit(&self, head: &Parts) -> Admission;

    /// Answers one request that was admitted, in ranges as `Repositories` does.
    fn handle(&self, request: Request<Bytes>) -> Response<Bytes>;
}

/// Serves requests until `shutdown`; then open connections are cut.
pub async fn serve_guarded(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    guarded: Arc<dyn Guarded>,
    shutdown: impl Future<Output = ()>,
) {
    // Half of the machine stays with those who are known.
    let at_once = available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let at_once = u32::try_from(at_once).unwrap_or(1);
    let gate = Gate { guarded, bounds: Arc::new(Bounds::new()), admitting: Arc::new(Shares::new(at_once, 1)) };
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let gate = gate.clone();
        async move { Ok::<_, Infallible>(gate.answer(request).await) }
    });
    listen::serve(listener, tls, Protocol::Http1, service, shutdown).await;
}

#[derive(Clone)]
struct Gate {
    guarded: Arc<dyn Guarded>,
    bounds: Arc<Bounds>,
    admitting: Arc<Shares>,
}

impl Gate {
    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let origin = request.extensions().get::<listen::Origin>().and_then(|origin| origin.0);
        let from = origin.map(neighbourhood).unwrap_or_default();
        let (head, body) = request.into_parts();
        let Some((head, admission)) = self.admission(head, &from).await else { return failed_inside() };
        let whose = match admission {
            Admission::Admitted { user } => user.unwrap_or(from),
            Admission::Refused(refusal) => return refusal.map(AnswerBody::whole),
        };
        let guarded = self.guarded.clone();
        let handle = Arc::new(move |request| guarded.handle(request));
        question::answer(&self.bounds, whose, Request::from_parts(head, body), handle).await
    }

    /// `None` when it has panicked.
    async fn admission(&self, head: Parts, from: &str) -> Option<(Parts, Admission)> {
        let guarded = self.guarded.clone();
        let recognise = move || {
            let admission = guarded.recognise(&head);
            (head, admission)
        };
        let (head, known) = spawn_blocking(recognise).await.ok()?;
        if let Some(admission) = known {
            return Some((head, admission));
        }
        // Waited for here, where it takes no thread: whoever is known goes past.
        let turn = self.admitting.take(from, 1).await?;
        let guarded = self.guarded.clone();
        let admit = move || {
            let admission = guarded.admit(&head);
            drop(turn);
            (head, admission)
        };
        spawn_blocking(admit).await.ok()
    }
}

/// Addresses that one host may choose from are one.
fn neighbourhood(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[derive(Clone)]
struct Service {
    credentials: Credentials,
    repositories: Arc<dyn Repositories>,
    bounds: Arc<Bounds>,
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let Some(listen::Sender(Some(peer))) = request.extensions().get::<listen::Sender>().cloned() else {
            return text(StatusCode::UNAUTHORIZED, "this needs an agent's certificate\n");
        };
        if self.credentials.revocations().contains(&peer) {
            return text(StatusCode::FORBIDDEN, "this certificate has been revoked\n");
        }
        let (repositories, whose) = (self.repositories.clone(), peer.agent.to_string());
        let handle = Arc::new(move |request| repositories.handle(&peer, request));
        question::answer(&self.bounds, whose, request, handle).await
    }
}

fn failed_inside() -> Response<AnswerBody> {
    text(StatusCode::INTERNAL_SERVER_ERROR, "the request failed inside; the server's log says more\n")
}

fn text(status: StatusCode, message: &'static str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(Bytes::from_static(message.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_whichever_of_its_addresses_it_uses() {
        let check = |address: &str, expected: &str| {
            assert_eq!(neighbourhood(address.parse().unwrap()), expected);
        };
        check("192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64");
        check("2001:db8:1:2:9::", "2001:db8:1:2::/64");
    }
}
