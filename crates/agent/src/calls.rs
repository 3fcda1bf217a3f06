//! What other agents ask of this one.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use levee_model::AppName;
use levee_model::control::Failure;
use levee_wire::agent::AgentCalls;
use levee_wire::https::Repositories;
use levee_wire::log::{LogOpen, LogRefusal, LogSession};
use levee_wire::{CreateVaultRequest, Exchange, PeerIdentity};

use crate::exchange::Gossip;
use crate::protect::Supervisor;
use crate::rest;

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
        rest::answer(store.as_ref(), access, &format!("/{path}"), &request)
    }
}

fn text(status: StatusCode, message: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(message));
    *response.status_mut() = status;
    response
}
