use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use levee_model::protection::{AppSpec, VaultSpec};
use levee_model::{AgentId, AppName, AssetName, Epoch, RunId, SiteName, VaultName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A protection file to apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The text of the file, in TOML.
    pub file: String,
    /// Say what would change, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What applying a protection file has done, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApplyReport {
    pub apps: Vec<AppliedApp>,
    /// Sites of which something else is known than before.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub sites: Vec<SiteName>,
    /// Vaults beside the sites of which something else is known than before.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub vaults: Vec<VaultName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppliedApp {
    #[schema(value_type = String)]
    pub app: AppName,
    pub change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Created,
    Updated,
    Unchanged,
}

/// An app as it was applied, and where it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppView {
    #[schema(value_type = String)]
    pub app: AppName,
    /// The app's part of the protection file.
    #[schema(value_type = Object)]
    pub spec: AppSpec,
    /// The vaults that it is copied to, as the protection file has them.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub vaults: BTreeMap<VaultName, VaultSpec>,
    #[schema(value_type = String)]
    pub writer: SiteName,
    #[schema(value_type = u64)]
    pub epoch: Epoch,
    pub revision: u64,
    #[schema(value_type = Option<String>)]
    pub open_run: Option<RunId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteView {
    #[schema(value_type = String)]
    pub site: SiteName,
    #[schema(value_type = Vec<String>)]
    pub agents: Vec<AgentId>,
    /// Whether at least one of its agents is connected.
    pub connected: bool,
    /// The apps that write here.
    #[schema(value_type = Vec<String>)]
    pub writes: Vec<AppName>,
    /// The apps that are kept here for recovery.
    #[schema(value_type = Vec<String>)]
    pub keeps: Vec<AppName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentSummary {
    #[schema(value_type = String)]
    pub agent: AgentId,
    #[schema(value_type = String)]
    pub site: SiteName,
    pub connected: bool,
    pub revoked: bool,
    #[schema(value_type = String, format = DateTime)]
    pub joined_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
    pub version: Option<String>,
    #[schema(value_type = Option<String>)]
    pub wire: Option<SocketAddr>,
    #[schema(value_type = Option<String>)]
    pub store: Option<SocketAddr>,
    #[schema(value_type = Option<String>)]
    pub dns: Option<SocketAddr>,
    /// The revision of the wanted state that the agent works by.
    pub revision: Option<u64>,
    /// The newest revision of the wanted state.
    pub wanted_revision: u64,
    /// How far the agent's clock is ahead of the server's, in milliseconds.
    pub clock_ahead_ms: Option<i64>,
    /// What is wrong, and what to do about it.
    pub problems: Vec<String>,
}

/// How to encrypt a backup of the server: exactly one of the two.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// An `age` recipient: `age1…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// A passphrase; `age -d` asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<String>,
}

impl std::fmt::Debug for BackupRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BackupRequest").field("recipient", &self.recipient).finish_non_exhaustive()
    }
}

/// Ends an app's protection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoveRequest {
    /// The app's name once more.
    #[schema(value_type = String)]
    pub confirm: AppName,
}

/// Says that an operator has looked at a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcknowledgeRequest {
    #[schema(value_type = String)]
    pub asset: AssetName,
}

/// A warning that an operator has looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledged {
    #[schema(value_type = String)]
    pub app: AppName,
    #[schema(value_type = String)]
    pub asset: AssetName,
    /// Since when it stood.
    #[schema(value_type = String, format = DateTime)]
    pub warned_since: Timestamp,
}

/// An app that is protected no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppRemoval {
    #[schema(value_type = String)]
    pub app: AppName,
    /// The site where it lives on, unprotected.
    #[schema(value_type = String)]
    pub writer: SiteName,
    /// Higher than any at which it was protected.
    #[schema(value_type = u64)]
    pub epoch: Epoch,
    /// Data that stay where they are.
    pub remains: Vec<Remains>,
    /// The agents, by site, whose folders keep copies of it, below `apps/APP`.
    #[schema(value_type = Object)]
    pub copies_at: BTreeMap<SiteName, AgentId>,
    /// Agents that have not said yet that nothing of Levee, such as a replication slot, is left in its databases. They
    /// see to it as soon as they can.
    #[schema(value_type = Vec<String>)]
    pub unconfirmed: Vec<AgentId>,
}

/// Data of a removed app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Remains {
    #[schema(value_type = String)]
    pub site: SiteName,
    #[schema(value_type = String)]
    pub asset: AssetName,
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// Whether the app lives there. At the other site it may be a copy, old, or nothing.
    pub in_use: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptRequest {
    /// Only say what would be taken over.
    #[serde(default)]
    pub dry_run: bool,
}

/// What the server has taken over from the agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptReport {
    /// The apps of which the agents know a newer epoch.
    pub apps: Vec<Adoption>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Adoption {
    #[schema(value_type = String)]
    pub app: AppName,
    #[schema(value_type = u64)]
    pub epoch_before: Epoch,
    #[schema(value_type = String)]
    pub writer_before: SiteName,
    #[schema(value_type = u64)]
    pub epoch: Epoch,
    /// Who writes at that epoch; null when it was refused.
    #[schema(value_type = Option<String>)]
    pub writer: Option<SiteName>,
    /// Why it was not taken over.
    pub refused: Option<String>,
}
