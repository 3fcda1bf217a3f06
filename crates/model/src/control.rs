//! What the server and its agents tell each other.
//!
//! The server says what is wanted (`Desired`) and asks for single actions of a run (`Command`); an
//! agent reports what is so (`AgentStatus`) and how a command ended (`Answer`). They travel as JSON
//! inside the wire's envelopes, so that a plan is shown, stored and sent in one form. No data and no
//! data-plane secret is ever in them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::postgres::Lsn;
use crate::protection::{AppSpec, VaultSpec};
use crate::{AgentId, AppName, AssetName, Epoch, LogPosition, Position, RunId, SiteName, VaultName};

/// What an agent may do for an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The app lives here: this agent reads it and sends copies away.
    Writer,
    /// This agent receives the copies and can bring the app back.
    Recovery,
}

/// The words of a grant: a certificate may act for an app in a role at an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub app: AppName,
    pub agent: AgentId,
    pub site: SiteName,
    pub role: Role,
    pub epoch: Epoch,
    pub issued_at: Timestamp,
}

/// Words that the server has signed. `body` is kept as the exact text under the signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// JSON of a `Grant` or of a `RevocationList`.
    pub body: String,
    /// Base64 of the Ed25519 signature over a line that names the kind of words, and `body`.
    pub signature: String,
}

/// Certificates that are no longer to be trusted. A higher version replaces a lower one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationList {
    pub version: u64,
    /// Serial numbers in lower-case hexadecimal.
    pub serials: Vec<String>,
    pub agents: Vec<AgentId>,
}

/// Where another agent is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub agent: AgentId,
    pub site: SiteName,
    /// Agent-to-agent calls (gRPC over mutual TLS).
    pub wire: SocketAddr,
    /// Repositories (restic REST over mutual TLS).
    pub store: SocketAddr,
}

/// What one agent has to do for one app until it is told otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub app: AppName,
    pub spec: AppSpec,
    pub epoch: Epoch,
    pub site: SiteName,
    pub role: Role,
    /// Warnings up to these moments are known to the operator, and stand no more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub acknowledged: BTreeMap<AssetName, Timestamp>,
    /// The vaults that `spec.copy_to` names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vaults: BTreeMap<VaultName, VaultSpec>,
    /// The agent in the other role; `None` while no agent of that site has joined.
    pub peer: Option<Peer>,
    pub grant: Signed,
}

/// An app that is protected no more. Its data and copies stay where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub app: AppName,
    /// Higher than any at which the app was protected, and lower than any at which it may be again.
    pub epoch: Epoch,
    pub site: SiteName,
    /// What was protected, so that what Levee left in databases can be found.
    pub spec: AppSpec,
}

/// One answer of the DNS nodes, with the epoch of the app at which it was made. Of two for a name, the one with the
/// higher epoch counts, then the one with the higher version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntryRecord {
    pub app: AppName,
    /// Lower-case, with the final dot.
    pub name: String,
    pub ttl_s: u32,
    pub epoch: Epoch,
    /// Grows when the operator changes the app's entries within an epoch.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub version: u64,
    /// The site that writes at this epoch.
    pub site: SiteName,
    /// `None`: the name has been given up, and is not answered any more.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The server's, over all of the above; empty inside plans. Agents take each other's records only with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signature: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Everything that the server wants of one agent. A higher revision replaces a lower one as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    pub revision: u64,
    pub assignments: Vec<Assignment>,
    /// The records that every DNS node answers.
    pub entries: Vec<EntryRecord>,
    /// Apps that this agent served, and that are protected no more.
    #[serde(default)]
    pub removed: Vec<Removed>,
    /// All agents, so that nodes can exchange records without the server.
    pub peers: Vec<Peer>,
    pub revocations: Option<Signed>,
}

/// Where a rebuilt asset is put.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum Place {
    /// The app's own place at the site.
    Live,
    /// A scratch folder and a private socket that nobody else can reach; removed at the end.
    Drill,
}

/// Where an app can be brought back to: every asset with its position.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryPoint {
    pub assets: BTreeMap<AssetName, AssetPoint>,
}

/// One asset's share of a recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssetPoint {
    pub position: Position,
    /// The moment at the source up to which everything is contained, on the source's clock.
    pub as_of: Timestamp,
}

/// One thing that an agent does for a run. Every action first looks whether its work is done, so
/// that it can be sent again after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// At the old site: end the app's writing for good. The database is stopped cleanly, a last
    /// copy of the files is sent, and `stopped` is durable before it is answered.
    /// With `may_leave` what cannot be sent in a short while is left where it is, and named.
    /// Answers with `Done::Stopped`.
    Stop {
        #[serde(default)]
        may_leave: bool,
    },
    /// At the new site: refuse every stream and command older than the command's epoch, durably.
    /// Answers with `Done::Point`: the newest complete point of every asset.
    Seal,
    /// At the new site: wait until these positions are durable here. Answers with `Done::Point`.
    Await { point: RecoveryPoint },
    /// The newest complete recovery point that this site could rebuild now. Answers with `Done::Point`.
    ChoosePoint,
    /// Rebuild an asset at its position. Databases are left stopped, ready to be started.
    Rebuild { asset: AssetName, position: Position, place: Place },
    /// Keep an asset replaying (or mirrored) as the data arrive, so that a switchover is short.
    Stage { asset: AssetName },
    /// Wait until a staged asset has taken in everything up to the position.
    CatchUp { asset: AssetName, position: Position },
    /// Start the asset through the start gate; a standby is promoted. Answers with `Done::Started`.
    /// With `by_hand` the operator has rebuilt it, and what lies in its place is taken for it.
    Start {
        asset: AssetName,
        place: Place,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_hand: bool,
    },
    /// Ask the asset's probe questions. Answers with `Done::Probed`.
    Probe { asset: AssetName, place: Place },
    /// Answer this record from now on, unless a higher epoch is already known.
    SwitchEntry { record: EntryRecord },
    /// Remove everything that the run's drill has made: processes, ports, files.
    CleanUp,
    /// Move the old data of a returned site out of the way, never overwriting anything.
    SetAside,
}

/// An action to carry out, addressed to one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Unique; the answer repeats it, and a repeated command is answered from what is known.
    pub id: String,
    pub run: RunId,
    pub app: AppName,
    /// Refused when the agent knows a higher one for the app.
    pub epoch: Epoch,
    /// The revision of `Desired` that it rests on: an agent that has taken over an older one answers that it may be tried
    /// again. 0 when the sender does not say.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
    pub action: Action,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub command: String,
    pub result: Result<Done, Failure>,
    /// How long the action took, in seconds.
    pub seconds: f64,
}

/// What an action has brought about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "done", rename_all = "snake_case")]
pub enum Done {
    Nothing,
    Stopped {
        /// What of the stopped app is durable at the other site.
        point: RecoveryPoint,
        /// What is not, and stays at the stopped site. Only after `Stop` with `may_leave`.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        left: BTreeMap<AssetName, Left>,
    },
    Point {
        point: RecoveryPoint,
    },
    Rebuilt {
        bytes: u64,
        copy_s: f64,
        /// Base backups that turned out to be damaged, and what was used in their place, in words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        passed_over: Option<String>,
    },
    Started {
        timeline: Option<u32>,
        replay_s: f64,
    },
    Probed {
        passed: bool,
        detail: String,
    },
    SetAside {
        #[schema(value_type = Vec<String>)]
        moved_to: Vec<PathBuf>,
    },
}

/// The last changes of a stopped asset that the other site does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Left {
    /// Where they lie at the stopped site. They are set aside when the site returns, and never started.
    #[schema(value_type = String)]
    pub kept_in: PathBuf,
    /// Where the stopped asset's log ends. `None` for a folder, and for a database that had not stopped cleanly.
    pub ends_at: Option<LogPosition>,
    /// What the other site had acknowledged; `None` when nothing was acknowledged to this agent.
    pub sent: Option<AssetPoint>,
    /// Why the rest could not be sent.
    pub reason: String,
}

/// Why an action failed: what was being done, to what, why, and what the operator can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    pub message: String,
    /// Whether trying again, with nothing changed, may succeed.
    pub transient: bool,
}

/// What an agent says of itself, every second and at each change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub agent: AgentId,
    pub site: SiteName,
    pub wire: SocketAddr,
    pub store: SocketAddr,
    pub dns: Option<SocketAddr>,
    pub version: String,
    /// The agent's own clock, so that the server can name one that is off.
    pub now: Timestamp,
    /// The revision of `Desired` that this agent works by.
    pub revision: u64,
    pub assets: Vec<AssetStatus>,
    /// The epoch of each record that this agent's DNS node answers.
    pub entries: BTreeMap<String, Epoch>,
    /// What this agent holds durably of each app, also of those that the server no longer knows at that epoch.
    #[serde(default)]
    pub known: BTreeMap<AppName, KnownApp>,
    /// Removed apps of which nothing is left in any database here.
    #[serde(default)]
    pub released: BTreeMap<AppName, Epoch>,
}

/// What a site is for one app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The app is written here.
    Writer,
    /// The app is being stopped: it may not be started any more, and its last changes are on their way.
    Stopping,
    /// Its writing here has ended for good at this epoch.
    Stopped,
    /// Copies arrive here.
    Recovery,
    /// A run is bringing the app here: streams of older epochs are refused.
    Sealed,
}

/// What an agent holds durably of one app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownApp {
    pub epoch: Epoch,
    pub phase: Phase,
    /// The highest epoch that the agent at the other site has told of.
    pub heard: Option<Epoch>,
    /// Where old data were moved out of the way and still are, newest last.
    pub set_aside: Vec<PathBuf>,
}

/// What an agent knows of one asset, from its own side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetStatus {
    pub app: AppName,
    pub asset: AssetName,
    pub role: Role,
    pub epoch: Epoch,
    pub state: AssetState,
    /// What is complete and durable at the recovery side. Reported by both sides; the recovery
    /// side's word is the one that counts.
    pub point: Option<AssetPoint>,
    /// Where the source's log ends, as the writer last saw it.
    pub source_lsn: Option<Lsn>,
    /// What is wrong, and what to do about it.
    pub problem: Option<String>,
    /// What is worth knowing and no problem: differences between the sites that the operator has accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The newest backup whose data the recovery side has read back and checked.
    #[serde(default)]
    pub verified: Option<VerifiedBackup>,
    /// What a copy that is due waits behind.
    #[serde(default)]
    pub waiting: Option<String>,
    /// Since when what arrives looks like ransomware at work; `problem` says why.
    #[serde(default)]
    pub warned_since: Option<Timestamp>,
    /// The newest gaps in the log that this agent has archived, oldest first; also when another site writes now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// The newest point that could be rebuilt from each further vault alone: copied there by this site as the recovery
    /// side, complete, and opened there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vaults: BTreeMap<VaultName, AssetPoint>,
}

/// A backup all of whose data were read from where they are stored, with the right hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedBackup {
    pub point: AssetPoint,
    /// When the last of it had been read.
    pub at: Timestamp,
}

/// A piece of a database's log that was gone at the source before it was stored: points on either side of it can be
/// restored, and none within.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub noticed_at: Timestamp,
    /// From where on the log is missing, why, and what stays restorable.
    pub message: String,
    /// When a base backup from behind it was stored.
    pub closed_at: Option<Timestamp>,
    /// That base backup's snapshot.
    pub base: Option<String>,
}

/// How far the protection of an asset has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AssetState {
    /// Nothing that could be restored is here yet.
    Waiting,
    /// A first copy is on its way.
    Copying,
    /// Data arrive, but the recovery side has not opened them with its own keys yet.
    Received,
    /// The recovery side has opened its data with its own keys, and they go on arriving.
    Protected,
    /// A standby replays what arrives.
    Staged,
    /// The asset is written here, and is not yet protected elsewhere.
    Unprotected,
    /// Stopped for good at this epoch; another site writes.
    Stopped,
    /// See `problem`.
    Failed,
}
