use std::collections::BTreeMap;

use jiff::Timestamp;
use levee_model::control::{AgentStatus, AssetStatus, Role};
use levee_model::protection::AppSpec;
use levee_model::{AgentId, AppName, AssetName, Epoch, SiteName};
use serde::{Deserialize, Serialize};

use crate::plan::{Assertion, Parent, StepId};

/// Everything that a plan is made from.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    pub app: &'a AppName,
    pub spec: &'a AppSpec,
    /// The app's epoch and writer, and the revision of its record.
    pub parent: Parent,
    /// One agent for each site that has one: the agent that serves this app there.
    pub agents: &'a [AgentView],
    pub measurements: &'a Measurements,
    /// The operator's word that the old site can write no more.
    pub assertion: Option<Assertion>,
    pub now: Timestamp,
}

/// What is known of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    pub agent: AgentId,
    pub site: SiteName,
    /// Whether it can be reached now.
    pub connected: bool,
    /// The newest status, however old.
    pub status: Option<AgentStatus>,
    /// How far the agent's clock was ahead of the server's when that status came, in milliseconds.
    #[serde(default)]
    pub clock_ahead_ms: i64,
    /// When that status came, by the server's clock.
    #[serde(default)]
    pub heard_at: Option<Timestamp>,
}

impl AgentView {
    /// What the agent's clock shows at `now` of the server.
    pub fn clock(&self, now: Timestamp) -> Timestamp {
        now.checked_add(jiff::SignedDuration::from_millis(self.clock_ahead_ms)).unwrap_or(now)
    }
}

/// What the steps of an app took in earlier runs: the median, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurements {
    pub seconds: BTreeMap<StepId, f64>,
}

impl Inputs<'_> {
    pub(crate) fn epoch(&self) -> Epoch {
        self.parent.epoch
    }

    pub(crate) fn agent_at(&self, site: &SiteName) -> Option<&AgentView> {
        self.agents.iter().find(|view| view.site == *site)
    }

    /// What the agent at a site says of an asset in a role at the app's present epoch. A word from an
    /// older epoch is about another writer, and does not count.
    pub(crate) fn asset_at(&self, site: &SiteName, asset: &AssetName, role: Role) -> Option<&AssetStatus> {
        self.agent_at(site)?.status.as_ref()?.assets.iter().find(|status| {
            status.app == *self.app
                && status.asset == *asset
                && status.role == role
                && status.epoch == self.parent.epoch
        })
    }
}
