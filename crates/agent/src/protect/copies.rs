//! The recovery side: the repository and the journals that this site owns, and what they hold.

mod ahead;
mod files;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use levee_database::Error as DatabaseError;
use levee_database::postgres::base::{BaseBackup, KnownBases};
use levee_database::postgres::marks;
use levee_database::postgres::restore::{self, RecoveryTarget, RestorePlan};
use levee_journal::{Identity, JournalKeys, LogJournal, Recipient};
use levee_model::control::{AssetPoint, Failure};
use levee_model::postgres::{Lsn, TimelineId};
use levee_model::{AgentId, AppName, AssetId, AssetName, Epoch, LogPosition, Position};
use levee_store::{LocalStore, Store};
use levee_vault::{MasterKey, Password, Snapshot, SnapshotId, Vault};
use zeroize::Zeroizing;

use super::app::{failure, in_full};
use super::arrivals::{Arrivals, ReceivingStore};
use super::damaged::{DamagedBases, Found};
use super::folder::AppFolder;
use super::kit::{Kit, password_for};
use super::{random_password, tags};
use crate::durable;
use ahead::Ahead;

/// Whom the recovery kit's key file names.
const KIT_USER: &str = "levee-recovery-kit";

/// One app's copies at this site.
pub struct Copies {
    app: AppName,
    folder: AppFolder,
    /// Opened at first use. Reopened when the repository is created.
    vault: Mutex<Option<Vault>>,
    /// One open journal per asset in this process, shared by sessions, readers and the status.
    journals: Mutex<BTreeMap<AssetName, Arc<LogJournal>>>,
    /// Snapshots that this site has opened with its own keys, so that each is checked once.
    opened: Mutex<BTreeMap<SnapshotId, ()>>,
    /// What the base backups of each database say of themselves: the watch asks every moment, and they never change.
    bases: Mutex<BTreeMap<AssetName, KnownBases>>,
    pub damaged: DamagedBases,
    arrivals: Arc<Arrivals>,
    /// Which copies of folders came by a clock that was ahead.
    ahead: Ahead,
    /// Held while the recovery kit's identity is made or used up, so that there is only one.
    kit: Mutex<()>,
}

impl Copies {
    pub fn new(app: AppName, folder: AppFolder) -> Self {
        Self {
            app,
            arrivals: Arc::new(Arrivals::new(folder.arrivals())),
            ahead: Ahead::new(folder.upkeep().join("ahead.json")),
            damaged: DamagedBases::new(folder.clone()),
            folder,
            vault: Mutex::default(),
            journals: Mutex::default(),
            opened: Mutex::default(),
            bases: Mutex::default(),
            kit: Mutex::default(),
        }
    }

    pub fn store(&self) -> Arc<dyn Store> {
        Arc::new(LocalStore::new(self.folder.repository()))
    }

    /// The repository as its writer uses it: what it sends is noted under its name.
    pub fn receiving(&self, from: &AgentId) -> Arc<dyn Store> {
        let store = LocalStore::new(self.folder.repository());
        let vault = if self.exists() { self.vault().ok() } else { None };
        Arc::new(ReceivingStore { store, vault, arrivals: self.arrivals.clone(), from: from.clone() })
    }

    /// Who sent which snapshot, and when.
    pub fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Whether a repository has been created here.
    pub fn exists(&self) -> bool {
        self.folder.repository().join("config").exists()
    }

    /// The key files by which this site and its recovery kit open the repository; never the writer's.
    pub fn own_key_files(&self) -> Result<Vec<levee_vault::KeyFile>, Failure> {
        let cannot = |error: &dyn std::error::Error| {
            failure(format!("cannot read the repository's key files: {}", in_full(error)))
        };
        let keys = self.vault()?.keys().map_err(|error| cannot(&error))?;
        let own = keys.into_iter().filter(|key| key.current || key.username == KIT_USER).map(|key| {
            let (id, store) = (key.id.to_string(), self.store());
            let content = store.read(levee_store::FileType::Key, &id).map_err(|error| cannot(&error))?;
            Ok(levee_vault::KeyFile { id, content })
        });
        own.collect()
    }

    /// The repository, opened with this site's own password.
    pub fn vault(&self) -> Result<Vault, Failure> {
        let mut vault = self.vault.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vault) = &*vault {
            return Ok(vault.clone());
        }
        let path = self.folder.repository_password();
        let password = std::fs::read_to_string(&path).map(Zeroizing::new).map_err(|error| {
            failure(format!("cannot read this site's repository password in {}: {error}", path.display()))
        })?;
        let opened = Vault::open(self.store(), &Password::new(password.trim())).map_err(|error| {
            let advice = match error {
                levee_vault::Error::WrongPassword { .. } => format!(
                    ". It is another repository than the one of {}: put back the one that belongs to it, or that file",
                    path.display()
                ),
                _ => String::new(),
            };
            failure(format!("cannot open the repository with this site's own key: {}{advice}", in_full(&error)))
        })?;
        *vault = Some(opened.clone());
        Ok(opened)
    }

    /// Creates the repository with the writer's master key, a key file of the writer's, one of this
    /// site's own, and one for the recovery kit.
    pub fn create(&self, request: NewRepository<'_>) -> Result<(), Failure> {
        let mut vault = self.vault.lock().unwrap_or_else(PoisonError::into_inner);
        if self.exists() {
            drop(vault.take());
            drop(vault);
            let same = self.vault()?.master_key().to_json() == request.master_key.to_json();
            return if same {
                self.forget_kit_identity()
            } else {
                Err(failure(format!(
                    "{} holds a repository with another master key; nothing is replaced by itself: if the copies in it \
                     are no longer needed, move the folder away on the recovery side, and the writer creates a new one",
                    self.folder.repository().display()
                )))
            };
        }
        let io = |what: &'static str| move |error: std::io::Error| failure(format!("cannot write {what}: {error}"));
        let vault_error = |error| failure(format!("cannot create the repository: {}", in_full(&error)));
        let own = random_password();
        let _one_kit = self.kit.lock().unwrap_or_else(PoisonError::into_inner);
        let kit_identity = self.kit_identity()?.to_file_text();
        let kit_identity = kit_identity.lines().last().unwrap_or_default();
        let begun = self.begun_kit_password(kit_identity)?;
        let kit = begun.clone().unwrap_or_else(random_password);
        let key_files = [
            request.writer_key_file,
            request
                .master_key
                .seal_key_file(&Password::new(own.as_str()), request.host, "levee-recovery")
                .map_err(vault_error)?,
            request
                .master_key
                .seal_key_file(&Password::new(kit.as_str()), request.host, KIT_USER)
                .map_err(vault_error)?,
        ];
        let ca_certificate = request.ca_certificate;
        let text = Kit {
            app: &self.app,
            site: request.site,
            host: request.host,
            repository: &self.folder.repository(),
            journal: &self.folder.root().join("journal"),
            password: &kit,
            journal_identity: kit_identity,
            ca_certificate,
            made_at: Timestamp::now(),
        }
        .text();
        // Whatever opens the repository is durable before the repository exists.
        durable::write(&self.folder.repository_password(), own.as_bytes()).map_err(io("the repository password"))?;
        if begun.is_none() {
            durable::write(&self.folder.recovery_kit(), text.as_bytes()).map_err(io("the recovery kit"))?;
        }
        let created = Vault::init_with_keys(self.store(), request.master_key, &key_files).map_err(vault_error)?;
        self.forget_kit_identity()?;
        tracing::warn!(
            app = %self.app,
            "the recovery kit is in {}: print it or move it to a safe place, and delete the file",
            self.folder.recovery_kit().display()
        );
        // Opened anew with the own password at the next use: that it can be opened so is what counts.
        drop(created);
        Ok(())
    }

    /// The keys of the journals: this site's identity, made at first use, and the recovery kit's public key.
    pub fn journal_keys(&self) -> Result<JournalKeys, Failure> {
        let path = self.folder.journal_identity();
        let fail = |error: &dyn std::error::Error| {
            failure(format!("cannot use the journal's identity in {}: {}", path.display(), in_full(error)))
        };
        if !path.exists() {
            let text = Identity::generate().to_file_text();
            durable::write(&path, text.as_bytes()).map_err(|error| fail(&error))?;
        }
        let identity = Identity::read_file(&path).map_err(|error| fail(&error))?;
        let mut keys = JournalKeys::of_identity(identity);
        let _one_kit = self.kit.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.folder.kit_recipient().exists() {
            // The log may come before the repository, and with it the kit, is there.
            self.kit_identity()?;
        }
        let text = std::fs::read_to_string(self.folder.kit_recipient()).map_err(|error| fail(&error))?;
        keys.recipients.push(text.parse::<Recipient>().map_err(|error| fail(&error))?);
        Ok(keys)
    }

    /// The password of a kit that a creation which was cut short has written for this identity. The kit may be printed
    /// already, so there must never be another one.
    fn begun_kit_password(&self, identity: &str) -> Result<Option<Zeroizing<String>>, Failure> {
        let path = self.folder.recovery_kit();
        match std::fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => Ok(password_for(&text, identity).map(|password| Zeroizing::new(password.to_string()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failure(format!("cannot read the recovery kit in {}: {error}", path.display()))),
        }
    }

    /// Once the kit is made, its identity is in it and nowhere else.
    fn forget_kit_identity(&self) -> Result<(), Failure> {
        let path = self.folder.kit_identity();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failure(format!("cannot remove {}, which is in the recovery kit now: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// The identity that goes into the recovery kit, made before anything is sealed for it. `kit` must be held.
    fn kit_identity(&self) -> Result<Identity, Failure> {
        let path = self.folder.kit_identity();
        let fail = |error: &dyn std::error::Error| {
            failure(format!("cannot use the recovery kit's identity in {}: {}", path.display(), in_full(error)))
        };
        if !path.exists() {
            durable::write(&path, Identity::generate().to_file_text().as_bytes()).map_err(|error| fail(&error))?;
        }
        let identity = Identity::read_file(&path).map_err(|error| fail(&error))?;
        durable::write(&self.folder.kit_recipient(), identity.recipient().to_string().as_bytes())
            .map_err(|error| fail(&error))?;
        Ok(identity)
    }

    /// The journal of an asset; created when it is not there yet.
    pub fn journal(&self, asset: &AssetName) -> Result<Arc<LogJournal>, Failure> {
        let mut journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = journals.get(asset) {
            return Ok(journal.clone());
        }
        let folder = self.folder.journal(asset);
        let opened = LogJournal::open(&folder, self.journal_keys()?).map_err(|error| {
            failure(format!("cannot open the journal in {}: {}", folder.display(), in_full(&error)))
        })?;
        // Targets by time and by transaction are then found without reading all of the log.
        let opened = Arc::new(opened.with_marks(marks::finder()));
        journals.insert(asset.clone(), opened.clone());
        Ok(opened)
    }

    /// Refuses older epochs in every journal, durably.
    pub fn seal<'a>(&self, databases: impl Iterator<Item = &'a AssetName>, epoch: Epoch) -> Result<(), Failure> {
        for asset in databases {
            self.journal(asset)?
                .seal(epoch)
                .map_err(|error| failure(format!("cannot seal the journal of {asset}: {}", in_full(&error))))?;
        }
        Ok(())
    }

    pub fn snapshots_with_tag(&self, tag: &str) -> Result<Vec<(SnapshotId, Snapshot)>, Failure> {
        tags::snapshots(&self.vault()?, tag)
            .map_err(|error| failure(format!("cannot list the snapshots: {}", in_full(&error))))
    }

    /// Reads a snapshot's whole tree, and finds every blob that it names in the index, in a pack that is there.
    pub fn open_with_own_keys(&self, vault: &Vault, id: &SnapshotId) -> Result<(), Failure> {
        if self.opened.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id) {
            return Ok(());
        }
        vault.open_snapshot(id).map_err(|error| Failure {
            message: format!("snapshot {id} can't be opened: {}", in_full(&error)),
            transient: !error.is_damage(),
        })?;
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, ());
        Ok(())
    }

    /// Has a snapshot opened anew before it is relied on again: something of it is not there any more.
    pub fn open_anew(&self, id: &SnapshotId) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Base backups of a database that this site has opened, oldest first. One that is known to be damaged is among
    /// them only where there is no other.
    pub fn bases(&self, asset: &AssetName) -> Result<Vec<BaseBackup>, Failure> {
        if !self.exists() {
            return Ok(Vec::new());
        }
        let vault = self.vault()?;
        let mut bases = self.known_bases(&vault, asset)?;
        bases.retain(|base| self.open_base(&vault, asset, base));
        let (sound, damaged): (Vec<_>, Vec<_>) =
            bases.into_iter().partition(|base| !self.damaged.is_damaged(asset, &base.snapshot));
        Ok(if sound.is_empty() { damaged } else { sound })
    }

    /// All base backups of a database that are listed here, the oldest first, also those that can't be opened.
    pub fn listed_bases(&self, asset: &AssetName) -> Result<Vec<ListedBase>, Failure> {
        if !self.exists() {
            return Ok(Vec::new());
        }
        let vault = self.vault()?;
        let listed = |base: BaseBackup| {
            let opens = self.open_base(&vault, asset, &base);
            ListedBase { is_sound: opens && !self.damaged.is_damaged(asset, &base.snapshot), base }
        };
        Ok(self.known_bases(&vault, asset)?.into_iter().map(listed).collect())
    }

    fn known_bases(&self, vault: &Vault, asset: &AssetName) -> Result<Vec<BaseBackup>, Failure> {
        let id = AssetId::new(self.app.clone(), asset.clone());
        let mut all_known = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all_known.entry(asset.clone()).or_default();
        known
            .refresh(vault, &id)
            .map_err(|error| failure(format!("cannot list the base backups of {id}: {}", in_full(&error))))?;
        let (bases, unreadable) = (known.bases(), known.unreadable().clone());
        drop(all_known);
        let present = bases.iter().map(|base| base.snapshot).chain(unreadable.keys().copied()).collect();
        self.damaged.keep_only(asset, &present);
        for (base, unreadable) in unreadable {
            self.damaged.note(asset, &base, unreadable.taken_at, Found::Opening, &unreadable.reason);
        }
        Ok(bases)
    }

    /// Whether all parts of a base backup are there.
    fn open_base(&self, vault: &Vault, asset: &AssetName, base: &BaseBackup) -> bool {
        if !self.damaged.may_open(asset, &base.snapshot) {
            return false;
        }
        match self.open_with_own_keys(vault, &base.snapshot) {
            Ok(()) => {
                self.damaged.opened(asset, &base.snapshot);
                true
            }
            Err(failure) if failure.transient => {
                tracing::warn!(app = %self.app, %asset, snapshot = %base.snapshot, "{}", failure.message);
                false
            }
            Err(failure) => {
                let taken_at = base.facts.started_at;
                self.damaged.note(asset, &base.snapshot, taken_at, Found::Opening, &failure.message);
                false
            }
        }
    }

    /// The newest moment that a database can be rebuilt at, with the base and log that it takes.
    pub fn newest_of_database(&self, asset: &AssetName) -> Result<Option<RestorePlan>, Failure> {
        self.newest_from(asset, &self.bases(asset)?)
    }

    /// The same from these bases alone, the oldest first.
    pub fn newest_from(&self, asset: &AssetName, bases: &[BaseBackup]) -> Result<Option<RestorePlan>, Failure> {
        if bases.is_empty() {
            return Ok(None);
        }
        let journal = self.journal(asset)?;
        let fail = |error: &dyn std::error::Error| failure(format!("cannot restore {asset}: {}", in_full(error)));
        // The newest timeline may not have its base yet; until it has, the older ones stay usable.
        let system_identifier = bases[bases.len() - 1].facts.system_identifier;
        let mut timelines: Vec<TimelineId> = journal
            .lineages()
            .map_err(|error| fail(&error))?
            .into_iter()
            .filter(|(system, _)| *system == system_identifier)
            .map(|(_, timeline)| timeline)
            .collect();
        timelines.sort();
        for timeline in timelines.into_iter().rev() {
            match restore::plan(&journal, bases, &RecoveryTarget::Newest, Some(timeline)) {
                Ok(plan) => return Ok(Some(plan)),
                Err(
                    DatabaseError::NoBase
                    | DatabaseError::LogMissing { .. }
                    | DatabaseError::UnknownTimeline { .. }
                    | DatabaseError::BeforeFirst { .. },
                ) => {}
                Err(error) => return Err(fail(&error)),
            }
        }
        Ok(None)
    }

    /// Where the journal's durable log ends on a position's lineage.
    pub fn journal_end(&self, asset: &AssetName, at: &LogPosition) -> Result<Option<Lsn>, Failure> {
        let extent = self
            .journal(asset)?
            .extent(at.system_identifier, at.timeline)
            .map_err(|error| failure(format!("cannot read the journal of {asset}: {}", in_full(&error))))?;
        Ok(extent.map(|extent| extent.durable_end))
    }

    /// Whether a snapshot is here and opens with this site's own keys.
    pub fn has_snapshot(&self, id: &str) -> Result<bool, Failure> {
        let id: SnapshotId = id.parse().map_err(|_| failure(format!("{id:?} is not the full id of a snapshot")))?;
        if !self.exists() || self.store().size_bytes(levee_store::FileType::Snapshot, &id.to_string()).is_err() {
            return Ok(false);
        }
        self.open_with_own_keys(&self.vault()?, &id)?;
        Ok(true)
    }

    /// The newest complete point of an asset at this site.
    pub fn newest(&self, asset: &AssetName, is_database: bool) -> Result<Option<NewestPoint>, Failure> {
        if is_database {
            let newest =
                |plan: RestorePlan| NewestPoint { point: point_of(&plan), epoch: plan.base.facts.epoch, lacking: None };
            return Ok(self.newest_of_database(asset)?.map(newest));
        }
        let Some((id, snapshot)) = self.newest_files(asset)? else { return Ok(None) };
        let position = Position::Snapshot { id: id.to_string(), taken_at: snapshot.time };
        let as_of = self.as_of(asset, &id, &snapshot)?;
        Ok(Some(NewestPoint {
            point: AssetPoint { position, as_of },
            epoch: tags::epoch_of(&snapshot.tags),
            lacking: tags::lacking(&snapshot.tags),
        }))
    }

    /// The same without what is known beside it.
    pub fn point(&self, asset: &AssetName, is_database: bool) -> Result<Option<AssetPoint>, Failure> {
        Ok(self.newest(asset, is_database)?.map(|newest| newest.point))
    }
}

/// The newest point of an asset.
pub struct NewestPoint {
    pub point: AssetPoint,
    /// The epoch of the writer that it is of.
    pub epoch: Epoch,
    /// How many files could not be read at the source, and so are not in it.
    pub lacking: Option<u64>,
}

/// A base backup of a database that lies here.
pub struct ListedBase {
    pub base: BaseBackup,
    /// It opens with this site's keys, and nothing says that it is damaged.
    pub is_sound: bool,
}

/// The point that a restore of a database comes to.
pub fn point_of(plan: &RestorePlan) -> AssetPoint {
    let position = LogPosition { system_identifier: plan.system_identifier, timeline: plan.timeline, lsn: plan.end };
    AssetPoint { position: Position::Log(position), as_of: plan.as_of.unwrap_or(plan.base.facts.ended_at) }
}

/// What a new repository is made from.
pub struct NewRepository<'a> {
    pub master_key: &'a MasterKey,
    pub writer_key_file: levee_vault::KeyFile,
    pub host: &'a str,
    pub site: &'a levee_model::SiteName,
    pub ca_certificate: &'a str,
}
