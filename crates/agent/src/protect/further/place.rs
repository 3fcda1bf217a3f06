//! From a further vault in the protection file to an open repository, made where there is none yet.

use std::sync::Arc;
use std::time::Duration;

use levee_database::StopSignal;
use levee_model::control::Failure;
use levee_model::protection::VaultSpec;
use levee_model::{Address, VaultName};
use levee_store::{FileType, ObjectStore, Opening, Proxies, RetryPolicy, RetryStore, Store, trust};
use levee_vault::{Cache, Error, Vault};

use super::super::app::{App, failure, in_full, transient};
use super::super::owner_store::{OwnerStore, remove_left_locks};
use super::shared::SharedVault;
use super::state::FurtherState;

/// A short cut of the link is ridden over; a longer one is the business of the loop around it, which can be told to stop.
const PATIENCE: RetryPolicy = RetryPolicy {
    attempts_max: 8,
    time_max: Duration::from_secs(15),
    delay_first: Duration::from_millis(100),
    delay_max: Duration::from_secs(3),
};

/// A further vault as this app's recovery site uses it.
pub struct Place<'a> {
    pub app: &'a Arc<App>,
    pub name: &'a VaultName,
    pub spec: &'a VaultSpec,
    pub stop: &'a StopSignal,
    pub shared: &'a SharedVault,
}

impl Place<'_> {
    /// Opens the repository with the master key that this site's own has. Notes it in the state when it is made.
    pub fn open(&self, state: &mut FurtherState) -> Result<Vault, Failure> {
        let store = self.store()?;
        if state.repository.is_none() {
            // Nothing is found in a bucket that is not there.
            store.create().map_err(|error| self.store_failure("make a place in", error))?;
        }
        let folder = self.app.folder.further(self.name);
        let own_locks = folder.join("own-locks");
        remove_left_locks(&*store, &own_locks).map_err(|error| self.store_failure("remove a left lock from", error))?;
        let store: Arc<dyn Store> = Arc::new(OwnerStore::elsewhere(store, own_locks, self.app, self.stop));
        let master_key = self.app.copies.vault()?.master_key().clone();
        let key_files = self.app.copies.own_key_files()?;
        let vault = match Vault::open_with_master_key(store.clone(), master_key.clone()) {
            Ok(vault) => vault,
            Err(Error::NoRepository { location }) if state.repository.is_some() => {
                return Err(transient(format!(
                    "the copies in vault {} are not there any more ({location}): see whether the disk that they are on is \
                     mounted. If they are lost for good, remove {}, and all is copied anew",
                    self.name,
                    folder.join("state.json").display()
                )));
            }
            Err(Error::NoRepository { .. }) => {
                let made = Vault::init_with_keys(store.clone(), &master_key, &key_files);
                made.map_err(|error| self.failure("make a repository in", &error))?
            }
            // Sealed with another master key.
            Err(error @ Error::Damaged { .. }) => {
                return Err(failure(format!(
                    "what lies in vault {} does not open with the master key of this site's repository ({}): nothing is \
                     replaced by itself. If it is of an earlier repository, move it away there, and all is copied anew",
                    self.name,
                    in_full(&error)
                )));
            }
            Err(error) => return Err(self.failure("open", &error)),
        };
        self.add_keys(&*store, &key_files)?;
        let cache = Cache::open(&folder.join("cache"), &vault.id());
        vault.use_cache(cache.map_err(|error| failure(format!("cannot keep a cache: {}", in_full(&error))))?);
        if state.repository != Some(vault.id()) {
            // Whatever was known is of another one.
            *state = FurtherState {
                address: state.address.clone(),
                repository: Some(vault.id()),
                ..FurtherState::default()
            };
            state.write(&self.app.folder, self.name)?;
        }
        Ok(vault)
    }

    /// The passwords of this site and of the recovery kit may be newer than the repository there.
    fn add_keys(&self, store: &dyn Store, key_files: &[levee_vault::KeyFile]) -> Result<(), Failure> {
        let listed = store.list(FileType::Key).map_err(|error| self.store_failure("list the keys in", error))?;
        for key_file in key_files.iter().filter(|key_file| !listed.iter().any(|known| known.name == key_file.id)) {
            let written = store.write(FileType::Key, &key_file.id, &key_file.content);
            written.map_err(|error| self.store_failure("add a key to", error))?;
        }
        Ok(())
    }

    fn store(&self) -> Result<Arc<dyn Store>, Failure> {
        if let Address::Folder(path) = self.spec.address.parsed()
            && !path.is_dir()
        {
            return Err(transient(format!(
                "there is no folder {} for vault {}: make it, or see whether the disk that it is on is mounted",
                path.display(),
                self.name
            )));
        }
        self.opened(|opening, address| opening.store(address))
    }

    /// The bucket, for what S3 alone can do.
    pub fn object_store(&self) -> Result<RetryStore<ObjectStore>, Failure> {
        self.opened(|opening, address| opening.object_store(address))
    }

    fn opened<S>(&self, open: impl FnOnce(Opening<'_>, Address) -> levee_store::Result<S>) -> Result<S, Failure> {
        let mut known = Vec::new();
        for (variable, secret) in &self.spec.secrets {
            let value = self.app.context.secrets.get(secret).map_err(|error| {
                failure(format!("cannot open vault {} without {variable}: {}", self.name, in_full(&error)))
            })?;
            known.push((variable.as_str(), value));
        }
        let variable =
            |name: &str| known.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str().to_string());
        let tls = match &self.spec.cacert {
            None => None,
            Some(cacert) => {
                Some(trust::client_config(cacert, None).map_err(|error| self.store_failure("open", error))?)
            }
        };
        // Of the agent's service, not of a protection file: what stands between this machine and the world is its own affair.
        let proxies = Proxies::from_variables(&|name| std::env::var(name).ok());
        let opening = Opening {
            tls,
            proxies: proxies.map_err(|error| self.store_failure("open", error))?,
            patience: PATIENCE,
            bandwidth: self.shared.bandwidth(self.spec.bandwidth.as_ref()),
            data_class: self.spec.data_class.clone(),
            s3_locked_for_days: self.spec.locked_for_days(),
            ..Opening::with(&variable)
        };
        let address = self.spec.repository(&self.app.name, &self.app.context.site);
        open(opening, address).map_err(|error| self.store_failure("reach", error))
    }

    fn store_failure(&self, doing: &str, error: levee_store::Error) -> Failure {
        self.failure(doing, &Error::Store(error))
    }

    /// What went wrong, and what the operator can do about it.
    pub fn failure(&self, doing: &str, error: &Error) -> Failure {
        use levee_store::Error as AtStore;
        let site = &self.app.context.site;
        let advice = match error {
            Error::Store(AtStore::Credentials { .. }) => {
                format!(
                    "; name it in secrets of [vault.{}], and set it with `levee agent secret set` at {site}",
                    self.name
                )
            }
            Error::Store(AtStore::Unauthorized { .. } | AtStore::Denied { .. }) => format!(
                "; see what the vault allows, and whether the secrets of [vault.{}] are right at {site} (`levee agent secret \
                 set`)",
                self.name
            ),
            Error::Store(AtStore::Unreachable { .. } | AtStore::Io { .. } | AtStore::Vanished { .. }) => {
                format!("; see whether it can be reached from {site}")
            }
            _ => String::new(),
        };
        transient(format!(
            "cannot {doing} vault {} ({}): {}{advice}; it is tried again by itself",
            self.name,
            self.spec.address,
            in_full(error)
        ))
    }
}
