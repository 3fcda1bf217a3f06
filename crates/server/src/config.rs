//! The part of the state that says what is wanted: apps and where they live, agents, entries, revocations.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use jiff::Timestamp;
use levee_model::control::{EntryRecord, Peer, RevocationList};
use levee_model::protection::{AppSpec, SiteSpec, VaultSpec};
use levee_model::{AgentId, AppName, AssetName, Epoch, SiteName, VaultName};
use levee_plan::Parent;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::removal::RemovedApp;
use crate::state::Store;

/// Everything that agents are told about lies below this prefix; its newest change is the revision of
/// what is wanted.
pub const PREFIX: &str = "config/";
const APP: &str = "config/app/";
const ENTRY: &str = "config/entry/";
const SITE: &str = "config/site/";
const VAULT: &str = "config/vault/";
const AGENT: &str = "config/agent/";
const REMOVED: &str = "config/removed/";
pub const REVOCATIONS: &str = "config/revocations";

pub fn app_key(app: &AppName) -> String {
    format!("{APP}{app}")
}

pub fn entry_key(app: &AppName) -> String {
    format!("{ENTRY}{app}")
}

pub fn removed_key(app: &AppName) -> String {
    format!("{REMOVED}{app}")
}

pub fn site_key(site: &SiteName) -> String {
    format!("{SITE}{site}")
}

pub fn vault_key(vault: &VaultName) -> String {
    format!("{VAULT}{vault}")
}

pub fn agent_key(agent: &AgentId) -> String {
    format!("{AGENT}{agent}")
}

/// An app: what was applied, and where it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRecord {
    pub spec: AppSpec,
    pub epoch: Epoch,
    pub writer: SiteName,
    /// When the epoch began; the grants of the epoch carry it.
    pub epoch_since: Timestamp,
    /// The agent that serves the app at each of its sites.
    pub agents: BTreeMap<SiteName, AgentId>,
    /// How epoch and writer came to be what they are, when no run of this server made them so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adopted>,
    /// Warnings that an operator has looked at, by the moment since when they stood.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub acknowledged: BTreeMap<AssetName, Timestamp>,
}

/// An operator has had the server take over what the agents knew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    pub epoch_before: Epoch,
    pub writer_before: SiteName,
    pub by: String,
    pub at: Timestamp,
}

/// What the entries of an app answer. It follows the epoch only when a run has brought the app up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub epoch: Epoch,
    pub site: SiteName,
    /// Grows when the entries themselves are changed within the epoch.
    #[serde(default)]
    pub version: u64,
    /// Names that the app was reached by and has given up.
    #[serde(default)]
    pub withdrawn: BTreeSet<String>,
}

/// An agent that has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    pub site: SiteName,
    pub joined_at: Timestamp,
    /// The certificates that it may hold, and when they end.
    pub certificates: BTreeMap<String, Timestamp>,
    /// Where other agents reach it, as it said last.
    #[serde(default)]
    pub addresses: Option<Addresses>,
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub wire: SocketAddr,
    pub store: SocketAddr,
    pub dns: Option<SocketAddr>,
}

/// A record and the revision of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revised<T> {
    pub value: T,
    pub revision: u64,
}

/// What is wanted, read at one revision.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The newest change of anything in it.
    pub revision: u64,
    pub apps: BTreeMap<AppName, Revised<AppRecord>>,
    pub entries: BTreeMap<AppName, Revised<Published>>,
    pub removed: BTreeMap<AppName, RemovedApp>,
    pub agents: BTreeMap<AgentId, Revised<AgentRecord>>,
    /// What sites share with each other, as it was applied.
    pub places: BTreeMap<SiteName, SiteSpec>,
    /// The vaults beside the sites, as they were applied.
    pub vaults: BTreeMap<VaultName, VaultSpec>,
    pub revocations: RevocationList,
}

impl Config {
    pub fn read(store: &Store) -> Result<Self> {
        let mut config = Config::default();
        for kv in store.range(PREFIX)?.values {
            config.revision = config.revision.max(kv.mod_revision);
            if kv.key.starts_with(APP) {
                let record = Revised { value: kv.parse()?, revision: kv.mod_revision };
                config.apps.insert(AppName::new(kv.name(APP))?, record);
            } else if kv.key.starts_with(ENTRY) {
                let published = Revised { value: kv.parse()?, revision: kv.mod_revision };
                config.entries.insert(AppName::new(kv.name(ENTRY))?, published);
            } else if kv.key.starts_with(REMOVED) {
                config.removed.insert(AppName::new(kv.name(REMOVED))?, kv.parse()?);
            } else if kv.key.starts_with(AGENT) {
                let record = Revised { value: kv.parse()?, revision: kv.mod_revision };
                config.agents.insert(AgentId::new(kv.name(AGENT))?, record);
            } else if kv.key.starts_with(SITE) {
                config.places.insert(SiteName::new(kv.name(SITE))?, kv.parse()?);
            } else if kv.key.starts_with(VAULT) {
                config.vaults.insert(VaultName::new(kv.name(VAULT))?, kv.parse()?);
            } else if kv.key == REVOCATIONS {
                config.revocations = kv.parse()?;
            }
        }
        Ok(config)
    }

    /// The agents of a site that were not revoked, in order.
    pub fn agents_of<'a>(&'a self, site: &'a SiteName) -> impl Iterator<Item = &'a AgentId> {
        self.agents
            .iter()
            .filter(move |(_, agent)| agent.value.site == *site && agent.value.revoked_at.is_none())
            .map(|(id, _)| id)
    }

    /// The vaults to which an app is copied.
    pub fn vaults_of<'a>(&'a self, spec: &'a AppSpec) -> impl Iterator<Item = (&'a VaultName, &'a VaultSpec)> {
        spec.copy_to.iter().filter_map(|vault| Some((vault, self.vaults.get(vault)?)))
    }

    /// The same for whoever is told of them.
    pub fn vaults_for(&self, spec: &AppSpec) -> BTreeMap<VaultName, VaultSpec> {
        self.vaults_of(spec).map(|(vault, spec)| (vault.clone(), spec.clone())).collect()
    }

    /// The sites where an agent has joined.
    pub fn sites(&self) -> BTreeSet<&SiteName> {
        self.agents.values().filter(|agent| agent.value.revoked_at.is_none()).map(|agent| &agent.value.site).collect()
    }

    pub fn peer(&self, id: &AgentId) -> Option<Peer> {
        let record = &self.agents.get(id)?.value;
        let addresses = record.addresses.filter(|_| record.revoked_at.is_none())?;
        Some(Peer { agent: id.clone(), site: record.site.clone(), wire: addresses.wire, store: addresses.store })
    }

    /// The records that every DNS node answers now, after those of names that were given up: such a name may be
    /// another app's by now.
    pub fn entry_records(&self) -> Vec<EntryRecord> {
        let given_up = self.removed.iter().flat_map(|(app, removed)| removed.entry_records(app));
        let published: Vec<EntryRecord> = self
            .apps
            .iter()
            .filter_map(|(app, record)| Some((app, &record.value.spec, &self.entries.get(app)?.value)))
            .flat_map(|(app, spec, at)| at.records(app, spec))
            .collect();
        let (live, withdrawn): (Vec<_>, Vec<_>) = published.into_iter().partition(|record| record.address.is_some());
        given_up.chain(withdrawn).chain(live).collect()
    }
}

impl Published {
    /// What the entries of an app answer, and the names that they answer no more.
    fn records(&self, app: &AppName, spec: &AppSpec) -> Vec<EntryRecord> {
        let mut records = levee_plan::entry_records(app, spec, &self.site, self.epoch);
        let withdrawn = self.withdrawn.iter().map(|name| EntryRecord {
            app: app.clone(),
            name: name.clone(),
            ttl_s: 0,
            epoch: self.epoch,
            version: 0,
            site: self.site.clone(),
            address: None,
            signature: String::new(),
        });
        records.extend(withdrawn);
        records.into_iter().map(|record| EntryRecord { version: self.version, ..record }).collect()
    }

    /// The same after the operator has changed the entries from one set of names to another.
    pub fn changed(&self, before: &BTreeSet<String>, after: &BTreeSet<String>) -> Published {
        let withdrawn = self.withdrawn.union(before).filter(|name| !after.contains(*name)).cloned().collect();
        Published { version: self.version + 1, withdrawn, ..self.clone() }
    }
}

impl Revised<AppRecord> {
    /// What a plan made now names as its parent.
    pub fn parent(&self) -> Parent {
        Parent { revision: self.revision, epoch: self.value.epoch, writer: self.value.writer.clone() }
    }
}

impl AppRecord {
    /// Keeps the agents that still may serve, and finds one for each site that has none.
    pub fn assign_agents(&mut self, config: &Config) {
        for site in [self.spec.home.clone(), self.spec.recovery.clone()] {
            let kept = self.agents.get(&site).filter(|id| config.agents_of(&site).any(|other| other == *id)).cloned();
            match kept.or_else(|| config.agents_of(&site).next().cloned()) {
                Some(id) => self.agents.insert(site, id),
                None => self.agents.remove(&site),
            };
        }
    }
}
