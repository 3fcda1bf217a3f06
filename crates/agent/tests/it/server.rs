//! A server that joins agents and shows what they say.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use levee_agent::{Agent, AgentOptions, JoinAs, Listen, LocalAddresses};
use levee_model::control::{AgentStatus, Answer, Desired, EntryRecord, Grant, RevocationList, Signed};
use levee_model::{AgentId, SiteName};
use levee_wire::server::{AgentLink, ServerCalls};
use levee_wire::{
    CertificateAuthority, Credentials, Error, FromAgent, FromServer, Issued, JoinAnswer, JoinRequest, JoinToken,
    PeerIdentity, TokenRecord,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// The authority, and what a server has to remember.
pub struct Levee {
    authority: CertificateAuthority,
    records: Mutex<Vec<TokenRecord>>,
    /// Certificates are issued as if this long ago.
    pub issued_ago: Mutex<Duration>,
    links: mpsc::Sender<(PeerIdentity, AgentLink)>,
    linked: tokio::sync::Mutex<mpsc::Receiver<(PeerIdentity, AgentLink)>>,
    _folder: TempDir,
}

/// A server that listens until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Cuts it off, and returns when its port is free.
    pub async fn stop(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.is_err());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Levee {
    pub fn new() -> Arc<Levee> {
        let folder = tempfile::tempdir().unwrap();
        let (links, linked) = mpsc::channel(16);
        Arc::new(Levee {
            authority: CertificateAuthority::open_or_create(folder.path(), Timestamp::now()).unwrap(),
            records: Mutex::default(),
            issued_ago: Mutex::default(),
            links,
            linked: tokio::sync::Mutex::new(linked),
            _folder: folder,
        })
    }

    pub async fn serve(self: &Arc<Self>, address: &str) -> Server {
        let identity = self.authority.issue_server(Timestamp::now()).unwrap();
        let grant_key = self.authority.signer().public_key();
        let credentials = Credentials::new(self.authority.certificate().clone(), identity, grant_key).unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = levee_wire::server::serve(listener, credentials, self.clone(), std::future::pending());
        Server { address, task: tokio::spawn(async { serving.await.unwrap() }) }
    }

    pub fn token(&self, server: &Server) -> JoinToken {
        let servers = vec![server.address.to_string()];
        let expires_at = Timestamp::now() + DAY;
        let (token, record) = JoinToken::issue(servers, self.authority.fingerprint(), None, expires_at).unwrap();
        self.records.lock().unwrap().push(record);
        token
    }

    pub fn grant(&self, grant: &Grant) -> Signed {
        self.authority.signer().sign_grant(grant).unwrap()
    }

    pub fn entry(&self, record: EntryRecord) -> EntryRecord {
        self.authority.signer().sign_entry(record).unwrap()
    }

    pub fn revocation(&self, version: u64, agents: &[&str]) -> Signed {
        let agents = agents.iter().map(|name| name.parse().unwrap()).collect();
        self.authority.signer().sign_revocations(&RevocationList { version, serials: Vec::new(), agents }).unwrap()
    }

    /// The next stream that an agent opens.
    pub async fn next_link(&self) -> (PeerIdentity, AgentLink) {
        timeout(PATIENCE, async { self.linked.lock().await.recv().await }).await.unwrap().unwrap()
    }
}

impl ServerCalls for Levee {
    fn join(&self, request: JoinRequest) -> levee_wire::Result<JoinAnswer> {
        let mut records = self.records.lock().unwrap();
        let record = records.iter_mut().find(|record| record.id == request.token_id).ok_or(Error::UnknownToken)?;
        let now = Timestamp::now();
        *record = record.redeem(&request.token_secret, &request.site, &request.agent, &request.csr, now)?;
        let issued_at = now - *self.issued_ago.lock().unwrap();
        let issued = self.authority.issue_agent(&request.csr, &request.site, &request.agent, issued_at)?;
        Ok(JoinAnswer { issued, grant_key: self.authority.signer().public_key(), revocations: None })
    }

    fn renew(&self, peer: &PeerIdentity, csr: &[u8]) -> levee_wire::Result<Issued> {
        self.authority.issue_agent(csr, &peer.site, &peer.agent, Timestamp::now())
    }

    fn connected(&self, peer: PeerIdentity, link: AgentLink) {
        self.links.try_send((peer, link)).unwrap();
    }
}

pub fn options(folder: &Path) -> AgentOptions {
    AgentOptions {
        folder: folder.into(),
        servers: Vec::new(),
        listen: Listen { address: [127, 0, 0, 1].into(), wire_port: 0, store_port: 0, dns_port: Some(0) },
        advertise: None,
        program: None,
        copies_at_once: 2,
    }
}

pub fn join_as(agent: &str, site: &str) -> JoinAs {
    let (agent, site): (AgentId, SiteName) = (agent.parse().unwrap(), site.parse().unwrap());
    JoinAs { agent, site: Some(site) }
}

/// An agent that runs until it is dropped.
pub struct Running {
    pub addresses: LocalAddresses,
    task: JoinHandle<()>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Running {
    pub async fn start(options: &AgentOptions) -> Running {
        let agent = Agent::start(options).await.unwrap();
        let addresses = agent.addresses();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            agent.run(stopped).await.unwrap();
        });
        Running { addresses, task, stop: Some(stop) }
    }

    /// Ends it and waits until its folder is free again.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        timeout(PATIENCE, &mut self.task).await.unwrap().unwrap();
    }
}

/// Waits for a status for which `wanted` holds.
pub async fn status(link: &mut AgentLink, wanted: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
    let waiting = async {
        loop {
            match link.incoming.recv().await {
                Some(FromAgent::Status(status)) if wanted(&status) => return status,
                Some(_) => {}
                None => panic!("the agent has closed its stream"),
            }
        }
    };
    timeout(PATIENCE, waiting).await.unwrap()
}

/// Waits for the answer to a command.
pub async fn answer(link: &mut AgentLink, command: &str) -> Answer {
    let waiting = async {
        loop {
            match link.incoming.recv().await {
                Some(FromAgent::Answer(answer)) if answer.command == command => return answer,
                Some(_) => {}
                None => panic!("the agent has closed its stream"),
            }
        }
    };
    timeout(PATIENCE, waiting).await.unwrap()
}

pub fn desired(revision: u64) -> Desired {
    Desired { revision, ..Desired::default() }
}

pub async fn send(link: &AgentLink, desired: Desired) {
    link.outgoing.send(FromServer::Desired(desired)).await.unwrap();
}
