//! Calls from agent to agent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use levee_model::control::{EntryRecord, Failure, Signed};
use levee_model::{AgentId, AppName, Epoch};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use zeroize::{Zeroize, Zeroizing};

use crate::credentials::{ClientCertificate, Credentials, Expected, Protocol};
use crate::error::{Error, Result};
use crate::explain::{self, Dialled};
use crate::identity::PeerIdentity;
use crate::log::{self, LogError, LogOpen, LogRefusal, LogSession, LogStream};
use crate::{dial, listen, proto};

/// What an agent does for others. All calls block, and are made on threads where they may.
pub trait AgentCalls: Send + Sync + 'static {
    /// Begins to take a log.
    fn open_log(&self, peer: &PeerIdentity, open: LogOpen) -> Result<Box<dyn LogSession>, LogRefusal>;

    /// Makes an app's repository with the writer's key and an own one.
    fn create_vault(&self, peer: &PeerIdentity, request: CreateVaultRequest) -> Result<(), Failure>;

    /// Takes over what is newer in `offered`, and answers with everything that is known here.
    fn exchange(&self, peer: &PeerIdentity, offered: Exchange) -> Exchange;
}

/// The master key of a new repository on its way from the writing to the recovering agent.
pub struct CreateVaultRequest {
    /// There is one repository an app, under this name.
    pub app: AppName,
    pub grant: Signed,
    /// restic's JSON of the master key. Secret.
    pub master_key: Zeroizing<String>,
    /// The name of the writer's key file: SHA-256 in hexadecimal.
    pub key_file_id: String,
    /// The writer's key file, which goes into the repository.
    pub key_file: Vec<u8>,
}

impl fmt::Debug for CreateVaultRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CreateVaultRequest").field("app", &self.app).finish_non_exhaustive()
    }
}

/// What agents tell each other without the server: the newest of each wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    pub records: Vec<EntryRecord>,
    pub revocations: Option<Signed>,
    /// The highest epoch known of each app.
    pub epochs: BTreeMap<AppName, Epoch>,
}

/// Serves other agents until `shutdown`; then open connections are cut.
pub async fn serve(
    listener: TcpListener,
    credentials: Credentials,
    calls: Arc<dyn AgentCalls>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let tls = credentials.server_config(ClientCertificate::Required, Protocol::Http2)?;
    let service = proto::agent_server::AgentServer::new(Service { credentials, calls });
    let routes = Routes::new(service).prepare();
    listen::serve_on_threads(listener, tls, routes, shutdown).await;
    Ok(())
}

struct Service {
    credentials: Credentials,
    calls: Arc<dyn AgentCalls>,
}

/// Whoever makes a call.
#[derive(Clone)]
pub(crate) struct Caller {
    pub peer: PeerIdentity,
    pub calls: Arc<dyn AgentCalls>,
    credentials: Credentials,
}

impl Caller {
    pub fn is_revoked(&self) -> bool {
        self.credentials.revocations().contains(&self.peer)
    }
}

impl Service {
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let peer = sender(&self.credentials, request)?;
        Ok(Caller { peer, calls: self.calls.clone(), credentials: self.credentials.clone() })
    }
}

/// Who sent a request, if they are still to be trusted.
pub(crate) fn sender<T>(credentials: &Credentials, request: &Request<T>) -> Result<PeerIdentity, Status> {
    let Some(listen::Sender(Some(peer))) = request.extensions().get::<listen::Sender>() else {
        return Err(Status::unauthenticated("this call needs an agent's certificate: join first"));
    };
    if credentials.revocations().contains(peer) {
        return Err(Status::permission_denied(Error::OwnCertificateRevoked.to_string()));
    }
    Ok(peer.clone())
}

#[tonic::async_trait]
impl proto::agent_server::Agent for Service {
    type AppendLogStream = ReceiverStream<Result<proto::LogAnswer, Status>>;

    async fn append_log(
        &self,
        request: Request<Streaming<proto::LogMessage>>,
    ) -> Result<Response<Self::AppendLogStream>, Status> {
        let caller = self.caller(&request)?;
        let Some(held) = request.extensions().get::<listen::Held>().cloned() else {
            return Err(Status::internal("a log needs a connection with a thread of its own"));
        };
        Ok(Response::new(ReceiverStream::new(log::receive(caller, held, request.into_inner()))))
    }

    async fn create_vault(
        &self,
        request: Request<proto::CreateVaultRequest>,
    ) -> Result<Response<proto::CreateVaultAnswer>, Status> {
        let caller = self.caller(&request)?;
        let request = read_create_vault(request.into_inner())?;
        let answer = blocking(move || caller.calls.create_vault(&caller.peer, request)).await?;
        match answer {
            Ok(()) => Ok(Response::new(proto::CreateVaultAnswer {})),
            // Unavailable may be tried again, the other not.
            Err(failure) if failure.transient => Err(Status::unavailable(failure.message)),
            Err(failure) => Err(Status::failed_precondition(failure.message)),
        }
    }

    async fn exchange(
        &self,
        request: Request<proto::ExchangeMessage>,
    ) -> Result<Response<proto::ExchangeMessage>, Status> {
        let caller = self.caller(&request)?;
        let offered = serde_json::from_str(&request.into_inner().json)
            .map_err(|error| Status::invalid_argument(format!("the exchange cannot be read: {error}")))?;
        let answer = blocking(move || caller.calls.exchange(&caller.peer, offered)).await?;
        let json = serde_json::to_string(&answer).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(proto::ExchangeMessage { json }))
    }
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    spawn_blocking(work).await.map_err(|_| Status::internal("the call failed inside; its log says more"))
}

fn read_create_vault(mut request: proto::CreateVaultRequest) -> Result<CreateVaultRequest, Status> {
    let bad = |what: &str| Status::invalid_argument(format!("the {what} cannot be read"));
    let app = std::mem::take(&mut request.app);
    Ok(CreateVaultRequest {
        app: AppName::new(app).map_err(|error| Status::invalid_argument(error.to_string()))?,
        grant: serde_json::from_str(&request.grant).map_err(|_| bad("grant"))?,
        master_key: Zeroizing::new(std::mem::take(&mut request.master_key)),
        key_file_id: std::mem::take(&mut request.key_file_id),
        key_file: std::mem::take(&mut request.key_file),
    })
}

/// One connection to another agent. Log streams should have one of their own.
#[derive(Clone)]
pub struct AgentClient {
    peer: String,
    client: proto::agent_client::AgentClient<Channel>,
}

impl AgentClient {
    /// Dials `address` (`host:port`), where `agent` must answer.
    pub async fn connect(credentials: &Credentials, agent: &AgentId, address: &str) -> Result<AgentClient> {
        let expected = Expected::Agent(agent.clone());
        let dialled = Dialled {
            peer: expected.to_string(),
            address: address.into(),
            own: Some(credentials.facts()),
            now: Timestamp::now(),
        };
        let channel = dial::connect(&dialled, credentials.client_config(expected, Protocol::Http2)?).await?;
        Ok(AgentClient { peer: dialled.peer, client: proto::agent_client::AgentClient::new(channel) })
    }

    /// Opens a log stream.
    pub async fn append_log(&mut self, open: LogOpen) -> Result<LogStream, LogError> {
        log::open(&mut self.client, self.peer.clone(), open).await
    }

    pub async fn create_vault(&mut self, request: CreateVaultRequest) -> Result<()> {
        let malformed =
            |error: serde_json::Error| Error::Malformed { what: "the grant".into(), why: error.to_string() };
        let mut request = request;
        let message = proto::CreateVaultRequest {
            app: request.app.to_string(),
            grant: serde_json::to_string(&request.grant).map_err(malformed)?,
            master_key: std::mem::take(&mut *request.master_key),
            key_file_id: request.key_file_id,
            key_file: request.key_file,
        };
        let answer = self.client.create_vault(message).await;
        answer.map(|_| ()).map_err(|status| explain::call(&self.peer, status))
    }

    pub async fn exchange(&mut self, offered: &Exchange) -> Result<Exchange> {
        let malformed =
            |error: serde_json::Error| Error::Malformed { what: "the exchange".into(), why: error.to_string() };
        let json = serde_json::to_string(offered).map_err(malformed)?;
        let answer = self.client.exchange(proto::ExchangeMessage { json }).await;
        let answer = answer.map_err(|status| explain::call(&self.peer, status))?;
        serde_json::from_str(&answer.into_inner().json).map_err(malformed)
    }
}

impl Drop for proto::CreateVaultRequest {
    fn drop(&mut self) {
        self.master_key.zeroize();
    }
}
