use std::net::SocketAddr;

use jiff::Timestamp;
use levee_model::protection::AppSpec;
use levee_model::{AgentId, AppName, Epoch, RunId, SiteName};
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
