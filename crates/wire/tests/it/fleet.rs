//! An authority with a server and agents, as the tests need them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use levee_model::control::{Failure, Grant, RevocationList, Role, Signed};
use levee_model::{AgentId, Epoch, SiteName};
use levee_wire::agent::AgentCalls;
use levee_wire::log::{LogOpen, LogRefusal, LogSession, RefusalReason};
use levee_wire::server::{AgentLink, ServerCalls};
use levee_wire::{
    AgentKey, CertificateAuthority, CreateVaultRequest, Credentials, Error, Exchange, Identity, Issued, JoinAnswer,
    JoinRequest, JoinToken, PeerIdentity, TokenRecord,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub const DAY: Duration = Duration::from_secs(24 * 3600);

pub fn agent_id(name: &str) -> AgentId {
    name.parse().unwrap()
}

pub fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

/// One Levee: its authority, in a folder of its own.
pub struct Fleet {
    pub authority: Arc<CertificateAuthority>,
    pub folder: TempDir,
}

/// Something that serves until it is dropped.
pub struct Serving {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub fn serving(address: SocketAddr, task: impl Future<Output = levee_wire::Result<()>> + Send + 'static) -> Serving {
    Serving { address, task: tokio::spawn(async { task.await.unwrap() }) }
}

impl Fleet {
    pub fn new() -> Fleet {
        let folder = tempfile::tempdir().unwrap();
        let authority = Arc::new(CertificateAuthority::open_or_create(folder.path(), Timestamp::now()).unwrap());
        Fleet { authority, folder }
    }

    fn credentials(&self, identity: Identity) -> Credentials {
        let grant_key = self.authority.signer().public_key();
        Credentials::new(self.authority.certificate().clone(), identity, grant_key).unwrap()
    }

    pub fn server(&self) -> Credentials {
        self.credentials(self.authority.issue_server(Timestamp::now()).unwrap())
    }

    pub fn agent(&self, name: &str, at: &str) -> Credentials {
        self.agent_of(name, at, Timestamp::now())
    }

    /// An agent whose certificate was issued at some time.
    pub fn agent_of(&self, name: &str, at: &str, issued_at: Timestamp) -> Credentials {
        let (agent, key) = (agent_id(name), AgentKey::generate().unwrap());
        let csr = key.signing_request(&agent).unwrap();
        let issued = self.authority.issue_agent(&csr, &site(at), &agent, issued_at).unwrap();
        self.credentials(Identity::new(issued.chain, &key).unwrap())
    }

    pub fn grant(&self, agent: &str, at: &str, role: Role, epoch: u64) -> Signed {
        let grant = Grant {
            app: "shop".parse().unwrap(),
            agent: agent_id(agent),
            site: site(at),
            role,
            epoch: Epoch(epoch),
            issued_at: Timestamp::now(),
        };
        self.authority.signer().sign_grant(&grant).unwrap()
    }

    pub fn revocation(&self, version: u64, agents: &[&str]) -> Signed {
        let agents = agents.iter().map(|name| agent_id(name)).collect();
        let list = RevocationList { version, serials: Vec::new(), agents };
        self.authority.signer().sign_revocations(&list).unwrap()
    }

    /// A server that knows one token, and hands the links of its agents out.
    pub async fn serve(&self, credentials: Credentials, record: Option<TokenRecord>) -> (Serving, Arc<TestServer>) {
        let (links, linked) = mpsc::channel(8);
        let calls = Arc::new(TestServer {
            authority: self.authority.clone(),
            record: Mutex::new(record),
            links,
            linked: tokio::sync::Mutex::new(linked),
        });
        let (listener, address) = listener().await;
        let serve = levee_wire::server::serve(listener, credentials, calls.clone(), std::future::pending());
        (serving(address, serve), calls)
    }

    pub fn token(&self, address: &SocketAddr, expires_at: Timestamp) -> (JoinToken, TokenRecord) {
        let servers = vec![address.to_string()];
        JoinToken::issue(servers, self.authority.fingerprint(), Some(site("east")), expires_at).unwrap()
    }
}

pub struct TestServer {
    authority: Arc<CertificateAuthority>,
    pub record: Mutex<Option<TokenRecord>>,
    links: mpsc::Sender<(PeerIdentity, AgentLink)>,
    linked: tokio::sync::Mutex<mpsc::Receiver<(PeerIdentity, AgentLink)>>,
}

impl TestServer {
    pub async fn next_link(&self) -> (PeerIdentity, AgentLink) {
        self.linked.lock().await.recv().await.unwrap()
    }
}

impl ServerCalls for TestServer {
    fn join(&self, request: JoinRequest) -> levee_wire::Result<JoinAnswer> {
        let mut record = self.record.lock().unwrap();
        let known = record.as_ref().filter(|known| known.id == request.token_id).ok_or(Error::UnknownToken)?;
        let (site, agent, now) = (&request.site, &request.agent, Timestamp::now());
        let used = known.redeem(&request.token_secret, site, agent, &request.csr, now)?;
        *record = Some(used);
        let issued = self.authority.issue_agent(&request.csr, site, agent, now)?;
        Ok(JoinAnswer { issued, grant_key: self.authority.signer().public_key(), revocations: None })
    }

    fn renew(&self, peer: &PeerIdentity, csr: &[u8]) -> levee_wire::Result<Issued> {
        self.authority.issue_agent(csr, &peer.site, &peer.agent, Timestamp::now())
    }

    fn connected(&self, peer: PeerIdentity, link: AgentLink) {
        self.links.try_send((peer, link)).ok();
    }
}

/// Opens a log session as a test wants it.
pub type OpenLog = dyn Fn(&PeerIdentity, LogOpen) -> Result<Box<dyn LogSession>, LogRefusal> + Send + Sync;

pub struct TestAgent {
    pub open_log: Box<OpenLog>,
    pub vaults: Mutex<Vec<(PeerIdentity, CreateVaultRequest)>>,
}

impl TestAgent {
    pub fn new() -> TestAgent {
        TestAgent::taking(|_, _| Err(LogRefusal::new(RefusalReason::NotReady, "no logs here")))
    }

    pub fn taking(
        open_log: impl Fn(&PeerIdentity, LogOpen) -> Result<Box<dyn LogSession>, LogRefusal> + Send + Sync + 'static,
    ) -> TestAgent {
        TestAgent { open_log: Box::new(open_log), vaults: Mutex::default() }
    }

    pub async fn serve(self, credentials: Credentials) -> (Serving, Arc<TestAgent>) {
        let calls = Arc::new(self);
        let (listener, address) = listener().await;
        let serve = levee_wire::agent::serve(listener, credentials, calls.clone(), std::future::pending());
        (serving(address, serve), calls)
    }
}

impl AgentCalls for TestAgent {
    fn open_log(&self, peer: &PeerIdentity, open: LogOpen) -> Result<Box<dyn LogSession>, LogRefusal> {
        (self.open_log)(peer, open)
    }

    fn create_vault(&self, peer: &PeerIdentity, request: CreateVaultRequest) -> Result<(), Failure> {
        let mut vaults = self.vaults.lock().unwrap();
        if vaults.iter().any(|(_, known)| known.app == request.app) {
            return Err(Failure { message: "there is a repository already".into(), transient: false });
        }
        vaults.push((peer.clone(), request));
        Ok(())
    }

    fn exchange(&self, _: &PeerIdentity, offered: Exchange) -> Exchange {
        offered
    }
}
