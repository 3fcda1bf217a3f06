//! What the protecting part of an agent gets from the shell around it.

use std::path::PathBuf;
use std::sync::Arc;

use levee_model::{AgentId, SiteName};
use levee_traffic::{Records, SiteView};
use levee_wire::Credentials;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::epochs::HeardEpochs;
use crate::folder::AgentFolder;
use crate::options::LocalAddresses;
use crate::protect::{CopyQueue, FurtherVaults};
use crate::secrets::Secrets;

/// Everything that `Supervisor::start` is given. Clones share it.
#[derive(Clone, Debug)]
pub struct ProtectContext {
    /// The agent's own folder, locked by this process.
    pub folder: AgentFolder,
    pub agent: AgentId,
    pub site: SiteName,
    /// Identity, authority, grant key and live revocation list: `AgentClient::connect(&credentials, …)` for calls to
    /// a peer, `credentials.client_config(…)` for its repositories, `credentials.grants()` to verify grants.
    pub credentials: Credentials,
    /// For async work started from the supervisor's own threads.
    pub runtime: Handle,
    /// Passwords by the name that stands in the protection file.
    pub secrets: Secrets,
    /// What this agent's DNS node answers.
    pub records: Records,
    /// Which apps this site may write, as its DNS node is told.
    pub view: SiteView,
    /// The highest epoch of each app that a peer has told of.
    pub heard: HeardEpochs,
    /// The one line for everything on this host that is copied to recovery sites.
    pub queue: Arc<CopyQueue>,
    /// The lines for what goes on to further vaults.
    pub further: Arc<FurtherVaults>,
    /// Where this agent listens, with the real ports.
    pub addresses: LocalAddresses,
    /// The `levee` program, for commands that other programs run (`levee database fetch-wal`).
    pub program: PathBuf,
    /// `changed.notify_one()` sends the agent's status to the server now instead of at the next second.
    pub changed: Arc<Notify>,
}
