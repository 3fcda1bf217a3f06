//! Creating and opening repositories, and their key files.

use std::sync::Arc;

use levee_store::{FileType, Store};

use super::{Vault, to_json};
use crate::accounts::Whoami;
use crate::config::Config;
use crate::key_file::{KeyFileJson, KeyInfo};
use crate::{Error, Id, KeyFile, MasterKey, Password, Result};

/// More key files than this are not tried, so that junk can't make opening endless.
const KEY_FILES_MAX: usize = 100;

impl Vault {
    /// Creates a repository of version 2 with a key file that opens with the password.
    ///
    /// A creation that was cut short is continued: a key file of the same password is used again, since
    /// restic would stumble over a second one with another master key.
    pub fn init(store: Arc<dyn Store>, password: &Password) -> Result<Self> {
        Self::init_from(store, password, None)
    }

    /// As `init`, with the parameters by which restic cuts files in another repository. Levee cuts alike in all.
    pub fn init_like(store: Arc<dyn Store>, password: &Password, like: &Vault) -> Result<Self> {
        Self::init_from(store, password, Some(like))
    }

    fn init_from(store: Arc<dyn Store>, password: &Password, like: Option<&Vault>) -> Result<Self> {
        store.create()?;
        for (_, content) in read_key_files(&*store)? {
            if let Ok(Some(master_key)) = KeyFileJson::parse(&content).and_then(|key_file| key_file.open(password)) {
                return Self::init_keyed(store, &master_key, &[], like);
            }
        }
        let whoami = Whoami::now();
        let master_key = MasterKey::generate()?;
        let key_file = master_key.seal_key_file(password, &whoami.hostname, &whoami.username)?;
        Self::init_keyed(store, &master_key, &[key_file], like)
    }

    /// Creates a repository with a master key and key files that were made elsewhere.
    pub fn init_with_keys(store: Arc<dyn Store>, master_key: &MasterKey, key_files: &[KeyFile]) -> Result<Self> {
        Self::init_keyed(store, master_key, key_files, None)
    }

    fn init_keyed(
        store: Arc<dyn Store>,
        master_key: &MasterKey,
        key_files: &[KeyFile],
        like: Option<&Vault>,
    ) -> Result<Self> {
        store.create()?;
        match store.size_bytes(FileType::Config, "") {
            Err(levee_store::Error::NotFound { .. }) => {}
            Ok(_) => return Err(Error::AlreadyInitialized { location: store.location() }),
            Err(error) => return Err(error.into()),
        }
        // The configuration comes last: a repository is there when it is.
        for key_file in key_files {
            store.write(FileType::Key, &key_file.id, &key_file.content)?;
        }
        let config = Config::generate(like.map(Vault::config))?;
        let json = to_json(&config)?;
        store.write(FileType::Config, "", &master_key.0.seal(&json)?)?;
        Ok(Self::assemble(store, master_key.clone(), config, None))
    }

    /// A repository without any files, to see what would be stored in it.
    pub(crate) fn unstored(store: Arc<dyn Store>, master_key: &MasterKey) -> Result<Self> {
        Ok(Self::assemble(store, master_key.clone(), Config::generate(None)?, None))
    }

    /// Opens a repository of version 1 or 2.
    pub fn open(store: Arc<dyn Store>, password: &Password) -> Result<Self> {
        let sealed_config = read_config(&*store)?;
        let key_files = read_key_files(&*store)?;
        let mut refused = None;
        for (name, content) in &key_files {
            let opened = KeyFileJson::parse(content).and_then(|key_file| key_file.open(password));
            let master_key = match opened {
                Ok(Some(master_key)) => master_key,
                Ok(None) => continue,
                Err(reason) => {
                    tracing::warn!(key = name, reason, "a key file cannot be used");
                    continue;
                }
            };
            // A creation that was cut short may have left a key file of another master key behind.
            match open_config(&*store, &sealed_config, &master_key) {
                Ok(config) => return Ok(Self::assemble(store, master_key, config, name.parse().ok())),
                Err(error) => refused = Some(error),
            }
        }
        let wrong = Error::WrongPassword { location: store.location(), key_files: key_files.len() };
        Err(refused.unwrap_or(wrong))
    }

    /// Opens a repository without a key file.
    pub fn open_with_master_key(store: Arc<dyn Store>, master_key: MasterKey) -> Result<Self> {
        let config = open_config(&*store, &read_config(&*store)?, &master_key)?;
        Ok(Self::assemble(store, master_key, config, None))
    }

    /// What the repository's key files say about themselves. Junk is left out.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        for entry in self.store().list(FileType::Key)? {
            let content = self.store().read(FileType::Key, &entry.name)?;
            if let (Ok(id), Ok(json)) = (entry.name.parse(), KeyFileJson::parse(&content)) {
                let KeyFileJson { created, username, hostname, .. } = json;
                keys.push(KeyInfo { id, created, username, hostname, current: self.inner.key_id == Some(id) });
            }
        }
        keys.sort_by_key(|key| (key.created, key.id));
        Ok(keys)
    }

    /// Adds a key file that opens with another password.
    pub fn add_key(&self, password: &Password, hostname: &str, username: &str) -> Result<Id> {
        let key_file = self.master_key().seal_key_file(password, hostname, username)?;
        self.store().write(FileType::Key, &key_file.id, &key_file.content)?;
        Ok(Id::of(&key_file.content))
    }

    /// An error for the key file that the repository was opened with: it cannot be removed.
    pub fn require_other_key(&self, id: &Id) -> Result<()> {
        match self.inner.key_id == Some(*id) {
            true => Err(Error::KeyInUse { key: id.short() }),
            false => Ok(()),
        }
    }

    /// Removes a key file, but not the one that the repository was opened with.
    pub fn remove_key(&self, id: &Id) -> Result<()> {
        self.require_other_key(id)?;
        Ok(self.store().remove(FileType::Key, &id.to_hex())?)
    }
}

/// The key files by name, a hundred at most.
fn read_key_files(store: &dyn Store) -> Result<Vec<(String, Vec<u8>)>> {
    let mut entries = store.list(FileType::Key)?;
    entries.sort();
    entries.truncate(KEY_FILES_MAX);
    entries.into_iter().map(|entry| Ok((entry.name.clone(), store.read(FileType::Key, &entry.name)?))).collect()
}

fn read_config(store: &dyn Store) -> Result<Vec<u8>> {
    match store.read(FileType::Config, "") {
        Err(levee_store::Error::NotFound { .. }) => Err(Error::NoRepository { location: store.location() }),
        result => Ok(result?),
    }
}

fn open_config(store: &dyn Store, sealed: &[u8], master_key: &MasterKey) -> Result<Config> {
    let damaged = |reason: String| Error::damaged(store.location(), FileType::Config, "", reason);
    let mut sealed = sealed.to_vec();
    let json =
        master_key.0.open_in_place(&mut sealed).map_err(|_| damaged("it does not open with the master key".into()))?;
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let bad_json = |error: serde_json::Error| damaged(format!("its JSON is not as it must be: {error}"));
    let Version { version } = serde_json::from_slice(json).map_err(bad_json)?;
    if !(1..=2).contains(&version) {
        return Err(Error::UnknownVersion { location: store.location(), version });
    }
    let config: Config = serde_json::from_slice(json).map_err(bad_json)?;
    match config.problem() {
        Some(problem) => Err(damaged(problem.into())),
        None => Ok(config),
    }
}
