use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use levee_model::control::{AgentStatus, Desired};
use levee_model::{AgentId, AppName};
use levee_traffic::{DnsNode, Records, SiteView};
use levee_wire::{CertificateAuthority, Credentials, private_file};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::agents::AgentCalls;
use crate::config::{Addresses, Config, PREFIX, agent_key};
use crate::control::{Control, TokenAccess};
use crate::desired::{desired, revocations};
use crate::error::{Result, ServerError};
use crate::folder::Folder;
use crate::hub::Hub;
use crate::runs::Runs;
use crate::state::{Compare, Database, History, Op, Store};
use crate::tasks::Tasks;
use crate::{http, monitor, tokens};

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub folder: PathBuf,
    pub api_listen: SocketAddr,
    pub wire_listen: SocketAddr,
    /// Where the server's own DNS node listens; without it the server answers no DNS.
    pub dns_listen: Option<SocketAddr>,
    /// `host:port` under which agents reach the wire listener; goes into join tokens. When it is empty,
    /// the address that is listened on is used.
    pub advertise: Vec<String>,
}

/// Where a server listens, after the system has chosen the ports that were 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    pub api: SocketAddr,
    pub wire: SocketAddr,
    pub dns: Option<SocketAddr>,
}

/// A server that listens, and does not serve yet.
pub struct Server {
    shared: Arc<Shared>,
    living: Living,
    listening: Listening,
    api: TcpListener,
    wire: TcpListener,
    dns: Option<DnsNode>,
}

/// While it lives, the folder is this server's and open runs are carried out.
struct Living(Arc<Shared>);

impl Drop for Living {
    fn drop(&mut self) {
        self.0.tasks.abort();
        self.0.folder.release();
    }
}

/// Runs a server until `shutdown`. Runs that are under way stay as they are, and are taken up at the next start.
pub async fn run(options: ServerOptions, shutdown: impl Future<Output = ()>) -> Result<()> {
    Server::start(options).await?.serve(shutdown).await
}

impl Server {
    /// Opens the folder (or makes a new server in it), listens, and takes up the runs that are under way.
    /// The first token of a new server is written to `admin-token` in its folder.
    pub async fn start(options: ServerOptions) -> Result<Self> {
        let bind = |what, address| async move {
            TcpListener::bind(address).await.map_err(|source| ServerError::Listen { what, address, source })
        };
        let api = bind("the API", options.api_listen).await?;
        let wire = bind("agents", options.wire_listen).await?;
        let local = |listener: &TcpListener, what, address| {
            listener.local_addr().map_err(|source| ServerError::Listen { what, address, source })
        };
        let mut listening = Listening {
            api: local(&api, "the API", options.api_listen)?,
            wire: local(&wire, "agents", options.wire_listen)?,
            dns: None,
        };
        let advertise =
            if options.advertise.is_empty() { vec![listening.wire.to_string()] } else { options.advertise.clone() };
        let folder = options.folder.clone();
        let opened = tokio::task::spawn_blocking(move || Shared::open(&folder, advertise)).await;
        let shared = Arc::new(opened.map_err(|_| ServerError::ShuttingDown)??);
        let dns = match options.dns_listen {
            Some(address) => {
                let node = DnsNode::bind(address, shared.records.clone(), SiteView::without_site()).await?;
                listening.dns = Some(node.local_address());
                Some(node)
            }
            None => None,
        };
        let living = Living(shared.clone());
        shared.resume_runs()?;
        Ok(Self { shared, living, listening, api, wire, dns })
    }

    pub fn listening(&self) -> Listening {
        self.listening
    }

    /// What an operator can ask of this server.
    pub fn control(&self) -> Control {
        Control(self.shared.clone())
    }

    /// Serves until `shutdown`.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Server { shared, living, listening, api, wire, dns } = self;
        tracing::info!(api = %listening.api, wire = %listening.wire, folder = %shared.folder.path().display(), "serving");
        let (stop, _) = watch::channel(false);
        let stopped = || {
            let mut stop = stop.subscribe();
            async move {
                // An error means that the sender is gone, which is a stop as well.
                let _ = stop.wait_for(|stop| *stop).await;
            }
        };
        let calls = Arc::new(AgentCalls::new(shared.clone()));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(levee_wire_serve(wire, shared.clone(), calls, stopped()));
        let router = http::router(Control(shared.clone()));
        let (credentials, ending) = (shared.credentials.clone(), stopped());
        tasks.spawn(async move { http::serve(api, &credentials, router, ending).await });
        if let Some(dns) = dns {
            let ending = stopped();
            tasks.spawn(async move {
                dns.serve(ending).await;
                Ok(())
            });
        }
        let pusher = tokio::spawn(push_changes(shared.clone()));
        let beat = tokio::spawn(monitor::run(shared.clone()));
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            Some(ended) = tasks.join_next() => ended.unwrap_or(Err(ServerError::ShuttingDown)),
        };
        stop.send_replace(true);
        pusher.abort();
        beat.abort();
        shared.tasks.end().await;
        while let Some(task) = tasks.join_next().await {
            if let Ok(Err(error)) = task {
                tracing::warn!(error = %levee_wire::chain(&error), "a listener ended with an error");
            }
        }
        drop(living);
        ended
    }
}

async fn levee_wire_serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    calls: Arc<AgentCalls>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    Ok(levee_wire::server::serve(listener, shared.credentials.clone(), calls, shutdown).await?)
}

/// Tells every agent when what is wanted has changed.
async fn push_changes(shared: Arc<Shared>) {
    // An agent that connects is told everything; only what comes after is of interest here.
    let mut watch = shared.store.watch(PREFIX, shared.store.revision() + 1);
    loop {
        // Everything is read anew, so changes that are no longer kept are no loss.
        match watch.next().await {
            Ok(_) => shared.push_wanted().await,
            Err(ServerError::Compacted { .. }) => {
                watch = shared.store.watch(PREFIX, shared.store.revision() + 1);
                shared.push_wanted().await;
            }
            Err(error) => {
                tracing::error!(error = %levee_wire::chain(&error), "changes cannot be watched; trying again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

/// Holds the newest backup of each of the app's assets that was restored and probed.
pub fn proven_key(app: &AppName) -> String {
    format!("proven/{app}")
}

/// Holds the name of the site whose vault is frozen, while the app is protected nowhere else.
pub fn frozen_key(app: &AppName) -> String {
    format!("frozen/{app}")
}

/// What all parts of the running server share.
pub struct Shared {
    pub folder: Folder,
    pub database: Database,
    pub store: Store,
    pub history: History,
    pub authority: CertificateAuthority,
    pub credentials: Credentials,
    pub hub: Hub,
    pub runs: Runs,
    pub tasks: Tasks,
    /// What the server's own DNS node answers.
    pub records: Records,
    pub advertise: Vec<String>,
}

impl Shared {
    fn open(path: &std::path::Path, advertise: Vec<String>) -> Result<Self> {
        let now = Timestamp::now();
        let folder = Folder::open(path)?;
        let database = Database::open(&folder.state())?;
        let store = Store::new(database.clone(), Instant::now())?;
        let authority = CertificateAuthority::open_or_create(&folder.authority(), now)?;
        let credentials = Credentials::new(
            authority.certificate().clone(),
            authority.issue_server(now)?,
            authority.signer().public_key(),
        )?;
        let config = Config::read(&store)?;
        if let Some(signed) = revocations(&config, authority.signer())? {
            credentials.revoke(&signed)?;
        }
        let records = Records::open(folder.entries())?;
        for record in config.entry_records() {
            records.update(record)?;
        }
        if tokens::none(&store)? {
            // The file first: a token that nobody has would lock everyone out.
            let token = tokens::generate("admin", TokenAccess::Admin, None, now)?;
            private_file::write(&folder.admin_token(), format!("{}\n", *token.text).as_bytes())?;
            tokens::keep(&store, &token)?;
            tracing::info!(file = %folder.admin_token().display(), "wrote the first token");
        }
        let history = History::new(database.clone());
        Ok(Self {
            folder,
            database,
            store,
            history,
            authority,
            credentials,
            hub: Hub::new(),
            runs: Runs::default(),
            tasks: Tasks::default(),
            records,
            advertise,
        })
    }

    /// Does work that waits for the disk without holding up the runtime.
    pub async fn blocking<T, F>(self: Arc<Self>, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Shared>) -> Result<T> + Send + 'static,
    {
        tokio::task::spawn_blocking(move || work(&self)).await.map_err(|_| ServerError::ShuttingDown)?
    }

    /// What is wanted of one agent now.
    pub fn desired_of(&self, agent: &AgentId) -> Result<Desired> {
        desired(&Config::read(&self.store)?, agent, self.authority.signer())
    }

    /// Sends what is wanted to every agent to whom it was not sent yet.
    pub async fn push_wanted(self: &Arc<Self>) {
        let pushed = self.clone().blocking(|shared| {
            let config = Config::read(&shared.store)?;
            if let Some(signed) = revocations(&config, shared.authority.signer())? {
                shared.credentials.revoke(&signed)?;
            }
            for record in config.entry_records() {
                shared.records.update(record)?;
            }
            for agent in shared.hub.behind(config.revision) {
                shared.hub.push(&agent, desired(&config, &agent, shared.authority.signer())?);
            }
            Ok(())
        });
        if let Err(error) = pushed.await {
            tracing::error!(error = %levee_wire::chain(&error), "agents cannot be told what is wanted");
        }
    }

    /// Keeps where an agent is reached, for its peers.
    pub fn note_addresses(&self, status: &AgentStatus) -> Result<()> {
        let key = agent_key(&status.agent);
        loop {
            let Some(kv) = self.store.get(&key)? else { return Ok(()) };
            let mut record: crate::config::AgentRecord = kv.parse()?;
            let addresses = Some(Addresses { wire: status.wire, store: status.store, dns: status.dns });
            if record.addresses == addresses {
                return Ok(());
            }
            record.addresses = addresses;
            let compare = Compare::ModRevision(key.clone(), kv.mod_revision);
            if self.store.txn(&[compare], &[Op::put(key.clone(), &record)?])?.succeeded {
                return Ok(());
            }
        }
    }
}
