//! What other agents ask of this one.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{ACCEPT, HeaderName, HeaderValue, RANGE};
use hyper::{Request, Response, StatusCode};
use levee_model::AppName;
use levee_model::control::Failure;
use levee_store::rest_server;
use levee_wire::agent::AgentCalls;
use levee_wire::https::Repositories;
use levee_wire::log::{LogOpen, LogRefusal, LogSession};
use levee_wire::{CreateVaultRequest, Exchange, PeerIdentity};

use crate::exchange::Gossip;
use crate::protect::Supervisor;

/// Passes calls on to whom they concern.
pub(crate) struct Calls {
    pub supervisor: Arc<Supervisor>,
    pub gossip: Gossip,
}

impl AgentCalls for Calls {
    fn open_log(&self, peer: &PeerIdentity, open: LogOpen) -> Result<Box<dyn LogSession>, LogRefusal> {
        self.supervisor.open_log(peer, open)
    }

    fn create_vault(&self, peer: &PeerIdentity, request: CreateVaultRequest) -> Result<(), Failure> {
        self.supervisor.create_vault(peer, request)
    }

    fn exchange(&self, peer: &PeerIdentity, offered: Exchange) -> Exchange {
        self.gossip.take(&peer.agent, offered);
        self.gossip.offer()
    }
}

impl Repositories for Calls {
    fn handle(&self, peer: &PeerIdentity, request: Request<Bytes>) -> Response<Bytes> {
        // The path is /APP/… and what follows is the repository's own.
        let path = request.uri().path().trim_start_matches('/');
        let (app, path) = path.split_once('/').unwrap_or((path, ""));
        let Ok(app) = AppName::new(app) else {
            return text(StatusCode::NOT_FOUND, "the path must begin with the name of an app".into());
        };
        let (store, access) = match self.supervisor.repository(peer, &app) {
            Ok(found) => found,
            Err(failure) if failure.transient => return text(StatusCode::SERVICE_UNAVAILABLE, failure.message),
            Err(failure) => return text(StatusCode::FORBIDDEN, failure.message),
        };
        let header = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
        let answer = rest_server::handle(
            store.as_ref(),
            access,
            rest_server::Request {
                method: request.method().as_str(),
                path: &format!("/{path}"),
                query: request.uri().query(),
                range: header(RANGE),
                accept: header(ACCEPT),
                body: request.body(),
            },
        );
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Bytes::from(answer.body));
        *response.status_mut() = status;
        for (name, value) in answer.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

fn text(status: StatusCode, message: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(message));
    *response.status_mut() = status;
    response
}
