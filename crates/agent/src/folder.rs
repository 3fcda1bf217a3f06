//! An agent's own folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use levee_model::control::{Desired, Signed};
use levee_model::{AgentId, SiteName};
use levee_wire::{AgentKey, Credentials, Fingerprint, GrantKey, Identity, certificates_from_pem, certificates_to_pem};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::durable;
use crate::error::{Error, Result};
use crate::protect::folder::AppFolder;

/// Where an agent's things lie.
///
/// ```text
/// agent.json         who this agent is, and its servers
/// identity.pem       certificate and private key (0600); replaced as a whole at each renewal
/// joining-key.pem    while joining only
/// ca.pem             the certificate authority of this Levee
/// grant-key          public key that verifies the server's grants
/// revocations.json   newest revocation list, as the server signed it
/// desired.json       what the server wants, by which the agent works when the server is away
/// answers.json       how recent commands ended
/// epochs.json        highest epoch of each app that a peer told of
/// records.json       what the DNS node answers
/// secrets/NAME       passwords (0600)
/// hooks/             the operator's commands before and after each copy; made by the operator alone
/// apps/APP/          see `protect`
/// lock               held while an agent runs
/// ```
#[derive(Clone, Debug)]
pub struct AgentFolder {
    root: PathBuf,
}

/// What `agent.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub agent: AgentId,
    pub site: SiteName,
    pub servers: Vec<String>,
}

/// Held by the one process that may work with the folder.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl AgentFolder {
    pub fn new(root: impl Into<PathBuf>) -> AgentFolder {
        AgentFolder { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    pub(crate) fn answers(&self) -> PathBuf {
        self.root.join("answers.json")
    }

    pub(crate) fn epochs(&self) -> PathBuf {
        self.root.join("epochs.json")
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.root.join("records.json")
    }

    fn desired(&self) -> PathBuf {
        self.root.join("desired.json")
    }

    fn revocations(&self) -> PathBuf {
        self.root.join("revocations.json")
    }

    fn membership(&self) -> PathBuf {
        self.root.join("agent.json")
    }

    fn identity(&self) -> PathBuf {
        self.root.join("identity.pem")
    }

    fn joining_key_path(&self) -> PathBuf {
        self.root.join("joining-key.pem")
    }

    fn authority(&self) -> PathBuf {
        self.root.join("ca.pem")
    }

    fn grant_key(&self) -> PathBuf {
        self.root.join("grant-key")
    }

    /// Makes the folder that everything lies in. Others pass through it to what is meant for them, as the user of a
    /// database that is rebuilt here does to its log. They see no names, and secrets are readable by their owner alone.
    fn create_root(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o711).create(&self.root)
    }

    /// Makes a folder that only its owner can enter.
    pub(crate) fn create_private(path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    /// Removes what an agent that was killed had begun to write.
    fn remove_unfinished(&self) {
        durable::remove_unfinished(&self.root);
        durable::remove_unfinished(&self.secrets());
        for app in AppFolder::all(&self.root) {
            durable::remove_unfinished(app.root());
            durable::remove_unfinished(&app.upkeep());
            for vault in fs::read_dir(app.all_further()).into_iter().flatten().flatten() {
                durable::remove_unfinished(&vault.path());
            }
        }
    }

    /// Makes the folder if needed and takes its lock, which is free again when the process ends, however it does.
    pub(crate) fn lock(&self) -> Result<FolderLock> {
        let path = self.root.join("lock");
        let failed = |source| Error::File { doing: "lock", path: path.clone(), source };
        self.create_root().map_err(failed)?;
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                self.remove_unfinished();
                Ok(FolderLock { _file: file })
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::FolderInUse { folder: self.root.clone() }),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Who the agent is; `None` before it has joined.
    pub fn read_membership(&self) -> Result<Option<Membership>> {
        read_json(&self.membership())
    }

    /// The key to join with: kept from an earlier attempt, whose answer may have been lost, or made now.
    pub(crate) fn joining_key(&self) -> Result<AgentKey> {
        let path = self.joining_key_path();
        if path.exists() {
            let pem = levee_wire::private_file::read_secret(&path).map_err(Error::Identity)?;
            return AgentKey::from_pem(&pem).map_err(Error::Identity);
        }
        let key = AgentKey::generate().map_err(Error::Identity)?;
        write(&path, key.to_pem().as_bytes())?;
        Ok(key)
    }

    /// Keeps what joining has brought. `agent.json` comes last: with it the agent has joined.
    pub(crate) fn keep_joined(
        &self,
        membership: &Membership,
        identity: &Identity,
        key: &AgentKey,
        grant_key: &GrantKey,
        revocations: Option<&Signed>,
    ) -> Result<()> {
        let authority = identity.chain().last().cloned();
        write(&self.authority(), certificates_to_pem(&Vec::from_iter(authority)).as_bytes())?;
        write(&self.grant_key(), hex::encode(grant_key.as_bytes()).as_bytes())?;
        if let Some(revocations) = revocations {
            self.keep_revocations(revocations)?;
        }
        self.keep_identity(identity, key)?;
        write_json(&self.membership(), membership)?;
        match fs::remove_file(self.joining_key_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::File { doing: "remove", path: self.joining_key_path(), source: error })
            }
            _ => Ok(()),
        }
    }

    /// Replaces certificate and key together, so that they always fit.
    pub(crate) fn keep_identity(&self, identity: &Identity, key: &AgentKey) -> Result<()> {
        let pem = Zeroizing::new(format!("{}{}", identity.chain_pem(), *key.to_pem()));
        write(&self.identity(), pem.as_bytes())
    }

    /// The authority that the agent belongs to; `None` before it has joined.
    pub(crate) fn read_authority(&self) -> Result<Option<Fingerprint>> {
        if !self.authority().exists() {
            return Ok(None);
        }
        let pem = levee_wire::private_file::read(&self.authority()).map_err(Error::Identity)?;
        let certificates = certificates_from_pem(&pem).map_err(Error::Identity)?;
        Ok(certificates.first().map(Fingerprint::of))
    }

    /// Everything that the agent proves itself with and judges others by.
    pub fn read_credentials(&self) -> Result<Credentials> {
        let pem = levee_wire::private_file::read_secret(&self.identity()).map_err(Error::Identity)?;
        let identity = Identity::from_pem(&pem, &pem).map_err(Error::Identity)?;
        let authority = levee_wire::private_file::read(&self.authority()).map_err(Error::Identity)?;
        let authority = certificates_from_pem(&authority).map_err(Error::Identity)?.remove(0);
        let grant_key = levee_wire::private_file::read(&self.grant_key()).map_err(Error::Identity)?;
        let grant_key = hex::decode(grant_key.trim()).unwrap_or_default();
        let grant_key = GrantKey::from_bytes(&grant_key).map_err(Error::Identity)?;
        let credentials = Credentials::new(authority, identity, grant_key).map_err(Error::Identity)?;
        if let Some(signed) = read_json::<Signed>(&self.revocations())? {
            credentials.revoke(&signed).map_err(Error::Identity)?;
        }
        Ok(credentials)
    }

    pub(crate) fn keep_revocations(&self, signed: &Signed) -> Result<()> {
        write_json(&self.revocations(), signed)
    }

    /// What the server wanted last.
    pub fn read_desired(&self) -> Result<Option<Desired>> {
        read_json(&self.desired())
    }

    pub(crate) fn keep_desired(&self, desired: &Desired) -> Result<()> {
        write_json(&self.desired(), desired)
    }
}

pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    durable::write(path, content).map_err(|source| Error::File { doing: "write", path: path.into(), source })
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    durable::write_json(path, value).map_err(|source| Error::File { doing: "write", path: path.into(), source })
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    durable::read_json(path).map_err(|source| Error::File { doing: "read", path: path.into(), source })
}
