//! A running agent.

use std::net::SocketAddr;
use std::sync::Arc;

use levee_traffic::{DnsNode, Records, SiteView};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::info;

use crate::calls::Calls;
use crate::commands::Commands;
use crate::context::ProtectContext;
use crate::control::{self, Control};
use crate::epochs::HeardEpochs;
use crate::error::{Error, Result};
use crate::exchange::{self, Gossip};
use crate::folder::{AgentFolder, FolderLock};
use crate::options::{AgentOptions, LocalAddresses};
use crate::protect::{CopyQueue, FurtherVaults, Source, Supervisor};
use crate::renewal;
use crate::secrets::Secrets;

/// An agent that listens, and works as soon as it is `run`.
pub struct Agent {
    context: ProtectContext,
    supervisor: Arc<Supervisor>,
    gossip: Gossip,
    control: Control,
    wire: TcpListener,
    store: TcpListener,
    dns: Option<DnsNode>,
    lock: FolderLock,
}

/// Runs an agent until `shutdown`.
pub async fn run(options: &AgentOptions, shutdown: impl Future<Output = ()>) -> Result<()> {
    Agent::start(options).await?.run(shutdown).await
}

impl Agent {
    /// Takes the folder's lock, opens the listeners, and takes up what the server wanted last.
    pub async fn start(options: &AgentOptions) -> Result<Agent> {
        let folder = AgentFolder::new(&options.folder);
        let lock = folder.lock()?;
        let membership =
            folder.read_membership()?.ok_or_else(|| Error::NotJoined { folder: options.folder.clone() })?;
        let credentials = folder.read_credentials()?;
        let servers = if options.servers.is_empty() { membership.servers } else { options.servers.clone() };
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(Error::Program)?,
        };
        let records = Records::open(folder.records()).map_err(Error::Dns)?;
        let view = SiteView::at(membership.site.clone());
        let listen = options.listen;
        if listen.address.is_unspecified() && options.advertise.is_none() {
            return Err(Error::NoAdvertise { address: listen.address });
        }
        let wire = bind("calls of other agents", SocketAddr::new(listen.address, listen.wire_port)).await?;
        let store = bind("repositories", SocketAddr::new(listen.address, listen.store_port)).await?;
        let dns = match listen.dns_port {
            Some(port) => {
                let address = SocketAddr::new(listen.address, port);
                Some(DnsNode::bind(address, records.clone(), view.clone()).await.map_err(Error::Dns)?)
            }
            None => None,
        };
        let advertised = |address: SocketAddr| match options.advertise {
            Some(ip) => SocketAddr::new(ip, address.port()),
            None => address,
        };
        let addresses = LocalAddresses {
            wire: advertised(local("calls of other agents", &wire)?),
            store: advertised(local("repositories", &store)?),
            dns: dns.as_ref().map(|node| advertised(node.local_address())),
        };
        let context = ProtectContext {
            agent: membership.agent,
            site: membership.site,
            credentials: credentials.clone(),
            runtime: Handle::current(),
            secrets: Secrets::new(&folder),
            records: records.clone(),
            view,
            heard: HeardEpochs::open(&folder)?,
            queue: Arc::new(CopyQueue::new(options.copies_at_once.into())),
            further: Arc::new(FurtherVaults::new(options.copies_at_once.into())),
            addresses,
            program,
            changed: Arc::new(Notify::new()),
            folder: folder.clone(),
        };
        let desired = folder.read_desired()?.unwrap_or_default();
        let (supervisor, gossip, desired) = {
            let context = context.clone();
            let started = tokio::task::spawn_blocking(move || {
                let supervisor = Supervisor::start(context.clone()).map_err(|source| Error::Thread { source })?;
                let gossip = Gossip {
                    folder: context.folder,
                    credentials: context.credentials,
                    records: context.records,
                    heard: context.heard,
                    supervisor: supervisor.clone(),
                    changed: context.changed,
                };
                control::apply(&supervisor, &gossip, &desired, Source::Remembered);
                Ok::<_, Error>((supervisor, gossip, desired))
            });
            started.await.map_err(|source| Error::Task { source })??
        };
        let control = Control {
            context: context.clone(),
            supervisor: supervisor.clone(),
            gossip: gossip.clone(),
            commands: Commands::open(&folder)?,
            servers,
            desired: watch::Sender::new(desired),
        };
        Ok(Agent { context, supervisor, gossip, control, wire, store, dns, lock })
    }

    /// Where the agent is reached.
    pub fn addresses(&self) -> LocalAddresses {
        self.context.addresses
    }

    /// Works until `shutdown`; then open connections are cut.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Agent { context, supervisor, gossip, control, wire, store, dns, lock } = self;
        info!(agent = %context.agent, site = %context.site, wire = %context.addresses.wire,
            store = %context.addresses.store, "the agent runs");
        let calls = Arc::new(Calls { supervisor: supervisor.clone(), gossip: gossip.clone() });
        let (credentials, never) = (context.credentials.clone(), std::future::pending);
        // Dropped, and everything in it cut off, when this function returns.
        let mut tasks = JoinSet::new();
        let serving = levee_wire::agent::serve(wire, credentials.clone(), calls.clone(), never());
        tasks.spawn(async { serving.await.map_err(|source| Error::Serve { what: "other agents", source }) });
        let serving = levee_wire::https::serve(store, credentials.clone(), calls, never());
        tasks.spawn(async { serving.await.map_err(|source| Error::Serve { what: "repositories", source }) });
        if let Some(dns) = dns {
            tasks.spawn(async move {
                dns.serve(never()).await;
                Ok(())
            });
        }
        tasks.spawn(ended(exchange::run(gossip, context.agent.clone(), control.desired.subscribe())));
        let servers = control.servers.clone();
        tasks.spawn(ended(renewal::run(context.folder.clone(), credentials, context.agent.clone(), servers)));
        tasks.spawn(ended(control.run()));
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            Some(ended) = tasks.join_next() => match ended {
                Ok(outcome) => outcome,
                Err(source) => Err(Error::Task { source }),
            },
        };
        tasks.shutdown().await;
        // It waits for threads that are in the middle of something.
        let _ = tokio::task::spawn_blocking(move || supervisor.shut_down()).await;
        drop(lock);
        outcome
    }
}

async fn ended(task: impl Future<Output = ()>) -> Result<()> {
    task.await;
    Ok(())
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { what, address, source })
}

fn local(what: &'static str, listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|source| Error::Listen { what, address: SocketAddr::from(([0, 0, 0, 0], 0)), source })
}
