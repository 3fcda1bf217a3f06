//! Creating and opening repositories, and their key files.

use std::collections::HashSet;
use std::sync::Arc;

use levee_store::{FileType, Store};

use super::{Patience, Vault, to_json};
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
        for (_, content) in read_key_files(&*store, KEY_FILES_MAX)?.read {
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
        let (mut tried, mut refused) = (HashSet::new(), None);
        let mut patience = Patience::default();
        loop {
            let key_files = read_key_files(&*store, KEY_FILES_MAX)?;
            for (name, content) in &key_files.read {
                if !tried.insert(name.clone()) {
                    continue;
                }
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
            // The repository has just been made, or its password changed: what is looked for is in no list yet.
            let is_late = key_files.have_gone || key_files.read.is_empty();
            if !is_late || !patience.wait() {
                break;
            }
        }
        let wrong = Error::WrongPassword { location: store.location(), key_files: tried.len() };
        Err(refused.unwrap_or(wrong))
    }

    /// Opens a repository with one of its key files, which may be so new that no list has it.
    pub fn open_with_key_file(store: Arc<dyn Store>, id: &Id, password: &Password) -> Result<Self> {
        let sealed_config = read_config(&*store)?;
        let content = store.read(FileType::Key, &id.to_hex())?;
        match KeyFileJson::parse(&content).and_then(|key_file| key_file.open(password)) {
            Ok(Some(master_key)) => {
                let config = open_config(&*store, &sealed_config, &master_key)?;
                Ok(Self::assemble(store, master_key, config, Some(*id)))
            }
            Ok(None) => Err(Error::WrongPassword { location: store.location(), key_files: 1 }),
            Err(reason) => Err(Error::damaged(store.location(), FileType::Key, &id.to_hex(), reason)),
        }
    }

    /// Opens a repository without a key file.
    pub fn open_with_master_key(store: Arc<dyn Store>, master_key: MasterKey) -> Result<Self> {
        let config = open_config(&*store, &read_config(&*store)?, &master_key)?;
        Ok(Self::assemble(store, master_key, config, None))
    }

    /// What the repository's key files say about themselves. Junk is left out.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        for (name, content) in read_key_files(self.store(), usize::MAX)?.read {
            if let (Ok(id), Ok(json)) = (name.parse(), KeyFileJson::parse(&content)) {
                let KeyFileJson { created, username, hostname, .. } = json;
                keys.push(KeyInfo { id, created, username, hostname, current: self.inner.key_id == Some(id) });
            }
        }
        keys.sort_by_key(|key| (key.created, key.id));
        Ok(keys)
    }

    /// The key file that the repository was opened with; `None` when it was opened with its master key, or has just been
    /// made.
    pub fn key_id(&self) -> Option<Id> {
        self.inner.key_id
    }

    /// The key files whose names begin with these digits, whatever they hold: what is damaged must be removable.
    pub fn find_keys(&self, prefix: &str) -> Result<Vec<Id>> {
        if prefix.is_empty() {
            return Ok(Vec::new());
        }
        let ids = match prefix.parse::<Id>() {
            // A whole id needs no listing, which may come late.
            Ok(id) => vec![id],
            Err(_) => {
                let mut ids = self.list_ids(FileType::Key)?;
                ids.retain(|id| id.to_hex().starts_with(prefix));
                ids
            }
        };
        self.stored_among(FileType::Key, &ids)
    }

    /// The key files that a password opens this repository with, among those that opening it would try.
    pub fn keys_of(&self, password: &Password) -> Result<Vec<Id>> {
        let mut ids = Vec::new();
        for (name, content) in read_key_files(self.store(), KEY_FILES_MAX)?.read {
            let opened = KeyFileJson::parse(&content).and_then(|key_file| key_file.open(password));
            if let (Ok(id), Ok(Some(master_key))) = (name.parse::<Id>(), opened)
                && *master_key.to_json() == *self.master_key().to_json()
            {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// The sound key files as they stand in the store, and always the one that the repository was opened with. Where one was
    /// removed, the one in its place is waited for: who takes them along has no other way to open what they belong to.
    pub(crate) fn key_files(&self) -> Result<Vec<KeyFile>> {
        let current = self.inner.key_id.map(|id| id.to_hex());
        let mut patience = Patience::default();
        loop {
            let KeyFiles { mut read, have_gone } = read_key_files(self.store(), usize::MAX)?;
            if have_gone && patience.wait() {
                continue;
            }
            // A list may lack the one that a changed password has just made.
            if let Some(current) = &current
                && !read.iter().any(|(name, _)| name == current)
            {
                match self.store().read(FileType::Key, current) {
                    Ok(content) => read.push((current.clone(), content)),
                    Err(levee_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let sound = read.into_iter().filter_map(|(name, content)| {
                let is_current = current.as_ref() == Some(&name);
                sound_key_file(&name, content, is_current)
            });
            return Ok(sound.collect());
        }
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

/// A key file under the name that its content has; `None`, with a warning, when it is damaged. One that the repository was
/// opened with opens it, whatever it is called.
fn sound_key_file(name: &str, content: Vec<u8>, is_current: bool) -> Option<KeyFile> {
    let id = Id::of(&content).to_hex();
    if (id == name || is_current) && KeyFileJson::parse(&content).is_ok() {
        return Some(KeyFile { id, content });
    }
    tracing::warn!("key file {name} is damaged and left out; `levee vault key remove {name}` removes it");
    None
}

/// Key files with their names.
struct KeyFiles {
    read: Vec<(String, Vec<u8>)>,
    /// Some that were listed were removed meanwhile.
    have_gone: bool,
}

/// The key files by name, so many at most.
fn read_key_files(store: &dyn Store, count_max: usize) -> Result<KeyFiles> {
    let mut entries = store.list(FileType::Key)?;
    entries.sort();
    let mut key_files = KeyFiles { read: Vec::new(), have_gone: false };
    for entry in entries {
        if key_files.read.len() == count_max {
            break;
        }
        match store.read(FileType::Key, &entry.name) {
            Ok(content) => key_files.read.push((entry.name, content)),
            // A password that is no more keeps no other from opening the repository.
            Err(levee_store::Error::NotFound { .. }) => key_files.have_gone = true,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(key_files)
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
