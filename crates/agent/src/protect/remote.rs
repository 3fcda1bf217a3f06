//! The writer side: the repository at the other site, opened with the writer's own copy of its master key.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use levee_model::control::{Assignment, Failure, Peer};
use levee_model::{AppName, Timetable};
use levee_store::limit::Bandwidth;
use levee_store::{RestOptions, RestStore, RetryPolicy, RetryStore};
use levee_vault::{MasterKey, Password, Vault};
use levee_wire::{AgentClient, CreateVaultRequest, Expected, Protocol};
use zeroize::Zeroizing;

use super::app::{failure, in_full, transient};
use super::folder::AppFolder;
use super::random_password;
use crate::context::ProtectContext;
use crate::durable;

/// A repository operation rides over a short cut of the link; a longer one is the business of the
/// loop around it, which can be told to stop.
const RETRY: RetryPolicy = RetryPolicy {
    attempts_max: 8,
    time_max: Duration::from_secs(15),
    delay_first: Duration::from_millis(100),
    delay_max: Duration::from_secs(3),
};

/// The other site's repository of one app.
pub struct RemoteVault {
    app: AppName,
    folder: AppFolder,
    context: ProtectContext,
    /// One for all assets, so that they share its index and their bandwidth.
    open: Mutex<Option<Open>>,
}

/// The open repository.
struct Open {
    at: Peer,
    bandwidth: Option<Timetable>,
    vault: Vault,
}

impl RemoteVault {
    pub fn new(app: AppName, folder: AppFolder, context: ProtectContext) -> Self {
        Self { app, folder, context, open: Mutex::default() }
    }

    /// The repository at the assignment's peer; created there when it is not there yet. What is sent there goes no faster
    /// than `bandwidth` allows.
    pub fn vault(&self, assignment: &Assignment, bandwidth: Option<&Timetable>) -> Result<Vault, Failure> {
        let peer = assignment.peer.as_ref().ok_or_else(|| {
            let site = assignment.spec.peer_of(&assignment.site);
            transient(format!("no agent has joined at {site}: start one there with `levee agent join`"))
        })?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*open
            && known.at == *peer
            && known.bandwidth.as_ref() == bandwidth
        {
            return Ok(known.vault.clone());
        }
        let master_key = self.master_key(peer)?;
        self.create(assignment, peer, &master_key)?;
        let tls = self
            .context
            .credentials
            .client_config(Expected::Agent(peer.agent.clone()), Protocol::Http1)
            .map_err(|error| failure(in_full(&error)))?;
        let store = RestStore::new(RestOptions {
            base_url: format!("https://{}/{}/", peer.store, self.app),
            tls: Some(Arc::new(tls)),
            resolve: None,
        })
        .map_err(|error| failure(in_full(&error)))?
        .with_bandwidth(Bandwidth::new(bandwidth.cloned(), None));
        let vault = Vault::open_with_master_key(Arc::new(RetryStore::new(store, RETRY)), master_key)
            .map_err(|error| transient(format!("cannot open the repository at {}: {}", peer.site, in_full(&error))))?;
        *open = Some(Open { at: peer.clone(), bandwidth: bandwidth.cloned(), vault: vault.clone() });
        Ok(vault)
    }

    /// Opens it anew at the next use: after an error what is cached may not be so any more.
    pub fn forget(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The master key that this writer gave the peer, or a new one, durable before it is given away.
    fn master_key(&self, peer: &Peer) -> Result<MasterKey, Failure> {
        let path = self.folder.writer_key(&peer.agent);
        let fail = |error: &dyn std::error::Error| {
            failure(format!("cannot keep the repository's master key in {}: {}", path.display(), in_full(error)))
        };
        match std::fs::read_to_string(&path) {
            Ok(json) => MasterKey::from_json(&Zeroizing::new(json)).map_err(|error| fail(&error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = MasterKey::generate().map_err(|error| fail(&error))?;
                durable::write(&path, key.to_json().as_bytes()).map_err(|error| fail(&error))?;
                Ok(key)
            }
            Err(error) => Err(fail(&error)),
        }
    }

    /// Has the peer create the repository, or say that it has it with this key.
    fn create(&self, assignment: &Assignment, peer: &Peer, master_key: &MasterKey) -> Result<(), Failure> {
        let password = random_password();
        let key_file = master_key
            .seal_key_file(&Password::new(password.as_str()), self.context.agent.as_str(), "levee-writer")
            .map_err(|error| failure(in_full(&error)))?;
        let request = CreateVaultRequest {
            app: self.app.clone(),
            grant: assignment.grant.clone(),
            master_key: master_key.to_json(),
            key_file_id: key_file.id,
            key_file: key_file.content,
        };
        self.context.runtime.block_on(async {
            let mut client = AgentClient::connect(&self.context.credentials, &peer.agent, &peer.wire.to_string())
                .await
                .map_err(|error| transient(levee_wire::unreachable(&peer.agent, &peer.wire, &error)))?;
            client
                .create_vault(request)
                .await
                .map_err(|error| transient(format!("{} does not make the repository: {}", peer.site, in_full(&error))))
        })
    }
}
