//! Calls from agents to the server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use levee_model::control::{AgentStatus, Answer, Command, Desired, Signed};
use levee_model::{AgentId, SiteName};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;
use zeroize::{Zeroize, Zeroizing};

use crate::agent::{blocking, sender};
use crate::ca::Issued;
use crate::credentials::{ClientCertificate, Credentials, Expected, Protocol, provider};
use crate::error::{Error, Result};
use crate::explain::{self, Dialled};
use crate::grant::GrantKey;
use crate::identity::{AgentKey, Identity, PeerIdentity};
use crate::token::JoinToken;
use crate::verifier::DialledVerifier;
use crate::{dial, listen, proto};

/// A clock that is further off is a mistake that would show in every figure of Levee's.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5 * 60);
/// A whole `Desired` of some thousand apps.
const ENVELOPE_BYTES_MAX: usize = 64 << 20;
/// Statuses come once a second; more waiting ones mean that the other side stands still.
const QUEUE_MESSAGES: usize = 256;

/// What an agent says on its stream to the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum FromAgent {
    Status(AgentStatus),
    Answer(Answer),
}

/// What the server says on an agent's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum FromServer {
    Desired(Desired),
    Command(Command),
}

/// An agent's wish to belong to this Levee.
pub struct JoinRequest {
    pub token_id: String,
    /// What `TokenRecord::redeem` checks. Secret.
    pub token_secret: Zeroizing<Vec<u8>>,
    pub agent: AgentId,
    pub site: SiteName,
    /// PKCS#10 in DER.
    pub csr: Vec<u8>,
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JoinRequest")
            .field("token_id", &self.token_id)
            .field("agent", &self.agent)
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

/// What a new agent gets.
#[derive(Clone, Debug)]
pub struct JoinAnswer {
    pub issued: Issued,
    pub grant_key: GrantKey,
    pub revocations: Option<Signed>,
}

/// An agent's open stream, as the server holds it. Dropping `outgoing` closes it; `incoming` ends with it.
pub struct AgentLink {
    pub incoming: mpsc::Receiver<FromAgent>,
    pub outgoing: mpsc::Sender<FromServer>,
}

/// What the server does for agents.
pub trait ServerCalls: Send + Sync + 'static {
    /// Blocking. The token must be stored as used before this returns.
    fn join(&self, request: JoinRequest) -> Result<JoinAnswer>;

    /// Blocking. A new certificate for an agent that still has one.
    fn renew(&self, peer: &PeerIdentity, csr: &[u8]) -> Result<Issued>;

    /// An agent has opened its stream. Called inside the runtime; must return at once (spawn a task for the link).
    fn connected(&self, peer: PeerIdentity, link: AgentLink);
}

/// Serves agents until `shutdown`; then open connections are cut.
pub async fn serve(
    listener: TcpListener,
    credentials: Credentials,
    calls: Arc<dyn ServerCalls>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let tls = credentials.server_config(ClientCertificate::Optional, Protocol::Http2)?;
    let service = proto::server_server::ServerServer::new(Service { credentials, calls })
        .max_decoding_message_size(ENVELOPE_BYTES_MAX);
    listen::serve(listener, tls, Protocol::Http2, Routes::new(service).prepare(), shutdown).await;
    Ok(())
}

struct Service {
    credentials: Credentials,
    calls: Arc<dyn ServerCalls>,
}

fn refuse(error: Error) -> Status {
    Status::failed_precondition(explain::chain(&error))
}

fn check_clocks(agent: &AgentId, agent_now: Timestamp, server_now: Timestamp) -> Result<()> {
    if server_now.duration_since(agent_now).unsigned_abs() > CLOCK_DIFFERENCE_MAX {
        return Err(Error::ClocksDiffer { agent: agent.clone(), agent_now, server_now });
    }
    Ok(())
}

fn to_bytes(chain: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    chain.iter().map(|certificate| certificate.to_vec()).collect()
}

#[tonic::async_trait]
impl proto::server_server::Server for Service {
    type ConnectStream = ReceiverStream<Result<proto::Envelope, Status>>;

    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinAnswer>, Status> {
        let mut request = request.into_inner();
        let name = |error: levee_model::InvalidName| Status::invalid_argument(error.to_string());
        let agent: AgentId = request.agent.parse().map_err(name)?;
        let server_now = Timestamp::now();
        let agent_now = Timestamp::from_microsecond(request.now_us)
            .map_err(|_| Status::invalid_argument("the agent's clock is out of range"))?;
        // Before the token is looked at, so that it can be used again once the clock is right.
        check_clocks(&agent, agent_now, server_now).map_err(refuse)?;
        let request = JoinRequest {
            token_id: std::mem::take(&mut request.token_id),
            token_secret: Zeroizing::new(std::mem::take(&mut request.token_secret)),
            site: request.site.parse().map_err(name)?,
            agent,
            csr: std::mem::take(&mut request.csr),
        };
        let calls = self.calls.clone();
        let answer = blocking(move || calls.join(request)).await?.map_err(refuse)?;
        let revocations = answer.revocations.map(|signed| serde_json::to_string(&signed)).transpose();
        Ok(Response::new(proto::JoinAnswer {
            chain: to_bytes(&answer.issued.chain),
            grant_key: answer.grant_key.as_bytes().to_vec(),
            revocations: revocations.map_err(|error| Status::internal(error.to_string()))?.unwrap_or_default(),
        }))
    }

    async fn renew(&self, request: Request<proto::RenewRequest>) -> Result<Response<proto::RenewAnswer>, Status> {
        let peer = sender(&self.credentials, &request)?;
        let calls = self.calls.clone();
        let issued = blocking(move || calls.renew(&peer, &request.into_inner().csr)).await?.map_err(refuse)?;
        Ok(Response::new(proto::RenewAnswer { chain: to_bytes(&issued.chain) }))
    }

    async fn connect(
        &self,
        request: Request<Streaming<proto::Envelope>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = sender(&self.credentials, &request)?;
        let (outgoing, mut to_send) = mpsc::channel::<FromServer>(QUEUE_MESSAGES);
        let (envelopes, sent) = mpsc::channel(1);
        let (received, incoming) = mpsc::channel(QUEUE_MESSAGES);
        let mut messages = request.into_inner();
        let (credentials, name) = (self.credentials.clone(), peer.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = read::<FromAgent>(&mut messages) => match message {
                        Ok(Some(_)) if credentials.revocations().contains(&name) => {
                            let refused = Status::permission_denied(Error::OwnCertificateRevoked.to_string());
                            let _ = envelopes.send(Err(refused)).await;
                            return;
                        }
                        Ok(Some(message)) => if received.send(message).await.is_err() { return },
                        Ok(None) | Err(_) => return,
                    },
                    message = to_send.recv() => match message {
                        Some(message) => match envelope(&message) {
                            Ok(envelope) => if envelopes.send(Ok(envelope)).await.is_err() { return },
                            Err(error) => warn!(%error, "a message to an agent cannot be written"),
                        },
                        None => return,
                    },
                }
            }
        });
        self.calls.connected(peer, AgentLink { incoming, outgoing });
        Ok(Response::new(ReceiverStream::new(sent)))
    }
}

fn envelope(message: &impl Serialize) -> Result<proto::Envelope> {
    let json = serde_json::to_string(message)
        .map_err(|error| Error::Malformed { what: "a message".into(), why: error.to_string() })?;
    Ok(proto::Envelope { json })
}

/// The next message that can be read; others may come from a newer version and are left out.
async fn read<T: DeserializeOwned>(messages: &mut Streaming<proto::Envelope>) -> Result<Option<T>, Status> {
    loop {
        let Some(envelope) = messages.message().await? else { return Ok(None) };
        match serde_json::from_str(&envelope.json) {
            Ok(message) => return Ok(Some(message)),
            Err(error) => warn!(%error, "left out a message that this version does not know"),
        }
    }
}

/// Joins with a token: one of its servers signs a certificate for `key`, after proving the pinned authority.
pub async fn join(
    token: &JoinToken,
    agent: &AgentId,
    site: &SiteName,
    key: &AgentKey,
) -> Result<(Identity, JoinAnswer)> {
    let mut last = Error::NotAToken("no server address".into());
    for address in &token.servers {
        match join_at(address, token, agent, site, key).await {
            Err(error @ (Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Disconnected { .. })) => {
                last = error
            }
            answer => return answer,
        }
    }
    Err(last)
}

async fn join_at(
    address: &str,
    token: &JoinToken,
    agent: &AgentId,
    site: &SiteName,
    key: &AgentKey,
) -> Result<(Identity, JoinAnswer)> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| Error::TlsSetup { what: "TLS 1.3", source })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(DialledVerifier::pinned(token.authority, provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let now = Timestamp::now();
    let dialled = Dialled { peer: Expected::Server.to_string(), address: address.into(), own: None, now };
    let channel = dial::connect(&dialled, config).await.map_err(|error| match error {
        Error::WrongFingerprint { address, .. } => {
            Error::WrongFingerprint { address, expected: token.authority.to_string() }
        }
        other => other,
    })?;
    let request = proto::JoinRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.to_vec(),
        agent: agent.to_string(),
        site: site.to_string(),
        csr: key.signing_request(agent)?,
        now_us: now.as_microsecond(),
    };
    let answer = proto::server_client::ServerClient::new(channel).join(request).await;
    let answer = answer.map_err(|status| explain::call(&dialled.peer, status))?.into_inner();
    let identity = Identity::new(from_bytes(answer.chain.clone()), key)?;
    let grant_key = GrantKey::from_bytes(&answer.grant_key)?;
    let revocations = match answer.revocations.as_str() {
        "" => None,
        json => Some(
            serde_json::from_str(json)
                .map_err(|error| Error::Malformed { what: "the revocation list".into(), why: error.to_string() })?,
        ),
    };
    let issued = issued(&identity, from_bytes(answer.chain));
    Ok((identity, JoinAnswer { issued, grant_key, revocations }))
}

fn issued(identity: &Identity, chain: Vec<CertificateDer<'static>>) -> Issued {
    let facts = identity.facts();
    let serial = match &facts.subject {
        crate::Subject::Server { serial } => serial.clone(),
        crate::Subject::Agent(peer) => peer.serial.clone(),
    };
    Issued { chain, serial, not_after: facts.not_after }
}

fn from_bytes(chain: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    chain.into_iter().map(CertificateDer::from).collect()
}

impl Drop for proto::JoinRequest {
    fn drop(&mut self) {
        self.token_secret.zeroize();
    }
}

/// One connection to the server.
pub struct ServerClient {
    peer: String,
    client: proto::server_client::ServerClient<Channel>,
}

/// An agent's open stream to the server. Dropping `outgoing` closes it.
pub struct ServerLink {
    peer: String,
    pub outgoing: mpsc::Sender<FromAgent>,
    messages: Streaming<proto::Envelope>,
}

impl ServerLink {
    /// The next message of the server.
    pub async fn receive(&mut self) -> Result<FromServer> {
        match read(&mut self.messages).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => {
                let source = Box::new(Status::unavailable("it closed the stream"));
                Err(Error::Disconnected { peer: self.peer.clone(), source })
            }
            Err(status) => Err(explain::call(&self.peer, status)),
        }
    }
}

impl ServerClient {
    /// Dials `address` (`host:port`), where the server must answer.
    pub async fn connect(credentials: &Credentials, address: &str) -> Result<ServerClient> {
        let dialled = Dialled {
            peer: Expected::Server.to_string(),
            address: address.into(),
            own: Some(credentials.facts()),
            now: Timestamp::now(),
        };
        let config = credentials.client_config(Expected::Server, Protocol::Http2)?;
        let client = proto::server_client::ServerClient::new(dial::connect(&dialled, config).await?)
            .max_decoding_message_size(ENVELOPE_BYTES_MAX);
        Ok(ServerClient { peer: dialled.peer, client })
    }

    /// A new certificate for a new key. The old one stays valid until it ends.
    pub async fn renew(&mut self, agent: &AgentId, key: &AgentKey) -> Result<Identity> {
        let answer = self.client.renew(proto::RenewRequest { csr: key.signing_request(agent)? }).await;
        let answer = answer.map_err(|status| explain::call(&self.peer, status))?;
        Identity::new(from_bytes(answer.into_inner().chain), key)
    }

    /// Opens the stream on which everything else goes.
    pub async fn open(&mut self) -> Result<ServerLink> {
        let (outgoing, mut to_send) = mpsc::channel::<FromAgent>(QUEUE_MESSAGES);
        let (envelopes, sent) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(message) = to_send.recv().await {
                match envelope(&message) {
                    Ok(envelope) => {
                        if envelopes.send(envelope).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => warn!(%error, "a message to the server cannot be written"),
                }
            }
        });
        let messages = self.client.connect(ReceiverStream::new(sent)).await;
        let messages = messages.map_err(|status| explain::call(&self.peer, status))?.into_inner();
        Ok(ServerLink { peer: self.peer.clone(), outgoing, messages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_with_and_without_the_revision_that_it_rests_on() {
        for (text, revision) in [("", 0), (r#""revision":7,"#, 7)] {
            let body = format!(r#"{{"id":"c1","run":"r1","app":"shop","epoch":1,{text}"action":{{"action":"seal"}}}}"#);
            let text = format!(r#"{{"kind":"command","body":{body}}}"#);
            let FromServer::Command(command) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
            assert_eq!(command.revision, revision);
            assert_eq!(serde_json::to_string(&FromServer::Command(command)).unwrap(), text);
        }
    }

    #[test]
    fn a_clock_that_is_off_is_named_with_its_difference() {
        let server_now = Timestamp::from_second(1_800_000_000).unwrap();
        let check = |difference_s: i64| {
            let agent_now = Timestamp::from_second(server_now.as_second() + difference_s).unwrap();
            check_clocks(&"e1".parse().unwrap(), agent_now, server_now).map_err(|error| error.to_string())
        };
        assert_eq!((check(299), check(-299)), (Ok(()), Ok(())));
        for difference_s in [3600, -3600] {
            let refused = check(difference_s).unwrap_err();
            assert!(refused.contains("differ by 1 h 0 min"), "{refused}");
        }
    }
}
