use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use levee_model::control::{AssetState, EntryRecord, RecoveryPoint};
use levee_model::protection::{CopyCount, Objective};
use levee_model::{AgentId, AppName, AssetName, Epoch, Position, RunId, SiteName, VaultName};
use levee_plan::ProbeResult;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AgentSummary;

/// How the whole fleet, or one app, stands. Ordered from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Protected, and the recovery point is as young as asked for.
    Protected,
    /// Protected, but older than asked for, or something needs attention.
    Degraded,
    /// Could not be brought back, wholly or to a state worth it.
    Unprotected,
}

impl Health {
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Protected => "protected",
            Health::Degraded => "degraded",
            Health::Unprotected => "unprotected",
        }
    }
}

/// How everything stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FleetStatus {
    /// The server's clock.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// That of the app that is off worst; `protected` when there is none.
    pub health: Health,
    pub apps: Vec<AppStatus>,
    pub agents: Vec<AgentSummary>,
}

/// How an app stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AppStatus {
    #[schema(value_type = String)]
    pub app: AppName,
    #[schema(value_type = String)]
    pub home: SiteName,
    #[schema(value_type = String)]
    pub recovery: SiteName,
    /// The site where the app lives now.
    #[schema(value_type = String)]
    pub writer: SiteName,
    #[schema(value_type = u64)]
    pub epoch: Epoch,
    /// `recovery_point` and `recovery_time` as in the protection file, such as `10s`.
    #[schema(value_type = Object)]
    pub objective: Objective,
    pub health: Health,
    /// The age of the oldest asset's recovery point, in seconds; null when one has none.
    pub recovery_point_age_s: Option<f64>,
    /// Whether that age is within the objective. Null when there is none, and when an asset's is known from before a
    /// restart of the server alone.
    pub meets_objective: Option<bool>,
    /// The site whose vault stands beside the writer and is frozen until the app is protected elsewhere.
    #[schema(value_type = Option<String>)]
    pub vault_frozen_at: Option<SiteName>,
    pub assets: Vec<AssetView>,
    /// What the entries answer, as the server has published it.
    pub entries: Vec<EntryView>,
    pub last_proof: Option<Proof>,
    #[schema(value_type = Option<String>)]
    pub open_run: Option<RunId>,
    /// How epoch and writer came to be what they are, when the server took them over from the agents.
    #[serde(default)]
    pub adopted: Option<AdoptedView>,
    /// Old data that were moved out of the way, with what was never sent.
    #[serde(default)]
    pub set_aside: Vec<SetAside>,
    pub problems: Vec<String>,
}

/// What the server knew before an operator had it take over the agents' epochs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptedView {
    #[schema(value_type = u64)]
    pub epoch_before: Epoch,
    #[schema(value_type = String)]
    pub writer_before: SiteName,
    pub by: String,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// Old data at a site. They are never started or overwritten, and somebody removes them by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetAside {
    #[schema(value_type = String)]
    pub site: SiteName,
    #[schema(value_type = String)]
    pub path: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AssetView {
    #[schema(value_type = String)]
    pub asset: AssetName,
    /// `postgres` or `files`.
    pub kind: String,
    pub protected: bool,
    /// What the recovery side says; the writer's word when that side says nothing. One of `waiting`,
    /// `copying`, `received`, `protected`, `staged`, `unprotected`, `stopped`, `failed`.
    #[schema(value_type = String)]
    pub state: AssetState,
    #[schema(value_type = Option<Object>)]
    pub position: Option<Position>,
    /// The moment at the source up to which everything is contained.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<Timestamp>,
    /// How old the recovery point is now, in seconds, by the source's clock.
    pub age_s: Option<f64>,
    /// How much of the source's log is not at the recovery site yet, in bytes.
    pub log_behind_bytes: Option<u64>,
    /// The newest backup that is complete and durable at the recovery site, and opens there.
    #[serde(default)]
    pub last_good: Option<BackupView>,
    /// The newest backup whose data were read back there and their hashes checked.
    #[serde(default)]
    pub last_verified: Option<BackupView>,
    /// The newest backup that a drill or a move of the app has restored and probed.
    #[serde(default)]
    pub last_proven: Option<BackupView>,
    /// The last contact with the agent at the recovery site, while it is away: recovery point, good and verified backup,
    /// and the copies in vaults are as it said them then. Null while it is there.
    #[serde(default)]
    pub last_contact: Option<ContactView>,
    /// In how many different places the data are: the original, the copy when the asset is protected, and those in
    /// further vaults that count. `copies`, `disks`, `hosts`, `fault_domains`, `zones`, `regions`, `providers`.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub copies: CopyCount,
    /// The copies in the further vaults that the app is copied to, by the vaults' names.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, VaultCopyView>)]
    pub vaults: BTreeMap<VaultName, VaultCopyView>,
    /// Since when what arrives looks like ransomware at work. A problem says why; it stands until it is acknowledged.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub warned_since: Option<Timestamp>,
    /// What a copy that is due waits behind.
    #[serde(default)]
    pub waiting: Option<String>,
    /// What is worth knowing and no problem: differences between the sites that the protection file accepts.
    #[serde(default)]
    pub notes: Vec<String>,
    pub problems: Vec<String>,
    /// The newest gaps in its archived log, oldest first: points within one can't be restored.
    #[serde(default)]
    pub gaps: Vec<GapView>,
}

/// When an agent spoke last of an asset's copies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ContactView {
    /// By the server's clock. To the minute when the server was started since.
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: Timestamp,
    /// How long ago that is now, in seconds.
    pub age_s: f64,
}

/// An asset's copy in a further vault.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VaultCopyView {
    /// The moment at the source up to which everything could be rebuilt from there alone: complete there, and opened there
    /// by the recovery site. Null while there is none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<Timestamp>,
    /// How old that is now, in seconds, by the source's clock.
    pub age_s: Option<f64>,
    /// Whether it counts as a copy: it is as new as the one at the recovery site, or not older than the vault's `within`.
    pub counts: bool,
}

/// A gap in an asset's archived log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GapView {
    /// The site that wrote then.
    #[schema(value_type = String)]
    pub site: SiteName,
    #[schema(value_type = String, format = DateTime)]
    pub noticed_at: Timestamp,
    /// From where on the log is missing, and why.
    pub message: String,
    /// When a base backup from behind it was stored; null while there is none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_at: Option<Timestamp>,
    /// That base backup's snapshot.
    pub base: Option<String>,
}

/// A backup of which something was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupView {
    #[schema(value_type = Object)]
    pub position: Position,
    /// The moment at the source up to which everything is contained.
    #[schema(value_type = String, format = DateTime)]
    pub as_of: Timestamp,
    /// When it was verified or proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// The run that has proven it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub run: Option<RunId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntryView {
    #[schema(value_type = Object)]
    pub record: EntryRecord,
    /// Agents whose DNS node does not answer this epoch yet.
    #[schema(value_type = Vec<String>)]
    pub unconfirmed: Vec<AgentId>,
}

/// What a drill of an app has shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Proof {
    #[schema(value_type = String)]
    pub run: RunId,
    #[schema(value_type = String)]
    pub app: AppName,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    #[schema(value_type = String)]
    pub site: SiteName,
    pub passed: bool,
    /// What did not pass.
    pub detail: String,
    #[schema(value_type = Object)]
    pub probes: BTreeMap<AssetName, ProbeResult>,
    /// From the drill's start until every probe had passed, in seconds.
    pub recovery_time_s: Option<f64>,
    /// The age of the oldest asset's point when it was chosen, in seconds.
    pub recovery_point_age_s: Option<f64>,
    #[schema(value_type = Option<Object>)]
    pub point: Option<RecoveryPoint>,
}

/// The age of an asset's recovery point at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    #[schema(value_type = String)]
    pub asset: AssetName,
    pub age_s: f64,
}
