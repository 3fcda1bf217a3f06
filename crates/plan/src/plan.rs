//! What a plan is: data that is shown before it is carried out, and then carried out exactly.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use levee_model::control::{Action, EntryRecord, Place};
use levee_model::{AppName, AssetName, Epoch, SiteName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::prediction::Prediction;
use crate::run::Facts;

/// The SHA-256 of a plan's content, in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct PlanId(pub String);

impl fmt::Display for PlanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

/// The name of a step inside its plan, such as `rebuild-orders`.
///
/// The same work has the same name in every kind of plan, so that measurements of one serve the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct StepId(pub String);

impl StepId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanKind {
    /// The writing site is lost: bring the app back at the other one.
    Failover,
    /// Both sites are well: move the app, with nothing lost and a short interruption.
    Switchover,
    /// Rebuild the app in isolation, ask it questions, and remove it again.
    Drill,
    /// Bring the copies of an app back to where they should be after a change of site.
    Reprotect,
}

impl PlanKind {
    pub fn as_str(self) -> &'static str {
        match self {
            PlanKind::Failover => "failover",
            PlanKind::Switchover => "switchover",
            PlanKind::Drill => "drill",
            PlanKind::Reprotect => "reprotect",
        }
    }

    /// Whether the app's writer changes.
    pub fn moves(self) -> bool {
        matches!(self, PlanKind::Failover | PlanKind::Switchover)
    }
}

impl fmt::Display for PlanKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// The state that a plan was made from. A plan whose parent is no longer the app's state is stale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Parent {
    /// The revision at which the app's record was last changed.
    pub revision: u64,
    pub epoch: Epoch,
    pub writer: SiteName,
}

/// The operator's word that a site can write no more. It takes the place of its agent's own answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assertion {
    /// `old_site_is_down`, or `new_site_is_down` of a run that is given up.
    pub statement: String,
    /// Whose token it was.
    pub by: String,
    pub at: Timestamp,
}

impl Assertion {
    pub fn old_site_is_down(by: impl Into<String>, at: Timestamp) -> Self {
        Self { statement: "old_site_is_down".into(), by: by.into(), at }
    }

    pub fn new_site_is_down(by: impl Into<String>, at: Timestamp) -> Self {
        Self { statement: "new_site_is_down".into(), by: by.into(), at }
    }
}

/// An immutable plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    pub id: PlanId,
    pub kind: PlanKind,
    pub app: AppName,
    /// The site that writes when the plan is made.
    pub from: SiteName,
    /// The site that the plan works at.
    pub to: SiteName,
    /// The epoch when the plan is made. Steps after the cut-over carry the next one.
    pub epoch: Epoch,
    pub parent: Parent,
    pub made_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion: Option<Assertion>,
    /// In an order in which they could be done one after the other.
    pub steps: Vec<Step>,
    /// The app's entries as they are at `to`; empty when the plan does not move the app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<EntryRecord>,
    pub prediction: Prediction,
    /// What the operator should know before saying yes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Everything of a plan but its id.
#[derive(Serialize)]
struct Content<'a> {
    kind: PlanKind,
    app: &'a AppName,
    from: &'a SiteName,
    to: &'a SiteName,
    epoch: Epoch,
    parent: &'a Parent,
    made_at: Timestamp,
    assertion: &'a Option<Assertion>,
    steps: &'a [Step],
    entries: &'a [EntryRecord],
    prediction: &'a Prediction,
    warnings: &'a [String],
}

impl Plan {
    /// The id that belongs to this content.
    pub fn content_id(&self) -> PlanId {
        let content = Content {
            kind: self.kind,
            app: &self.app,
            from: &self.from,
            to: &self.to,
            epoch: self.epoch,
            parent: &self.parent,
            made_at: self.made_at,
            assertion: &self.assertion,
            steps: &self.steps,
            entries: &self.entries,
            prediction: &self.prediction,
            warnings: &self.warnings,
        };
        let json = serde_json::to_vec(&content).unwrap_or_default();
        PlanId(hex::encode(Sha256::digest(json)))
    }

    /// Whether the plan was made from this state.
    pub fn is_fresh(&self, parent: &Parent) -> bool {
        self.parent == *parent
    }

    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == *id)
    }

    /// The step at which the writer changes. Before it a run can be aborted, after it only forward.
    pub fn cut_over(&self) -> Option<&Step> {
        self.steps.iter().find(|step| matches!(step.work, Work::AdvanceEpoch { .. }))
    }

    /// Seconds along the longest chain of steps from `first` on, by the steps' expected durations. `None`
    /// when nothing was measured yet.
    pub fn expected_s(&self, first: Option<&StepId>) -> Option<f64> {
        let mut ends: BTreeMap<&StepId, f64> = BTreeMap::new();
        let mut any = false;
        for step in &self.steps {
            let begin = step
                .after
                .iter()
                .filter_map(|id| ends.get(id))
                .fold(None, |latest: Option<f64>, end| Some(latest.map_or(*end, |latest| latest.max(*end))));
            let counts = first.is_none() || first == Some(&step.id) || begin.is_some();
            if counts && step.when == When::Done {
                any |= step.expected_s.is_some();
                ends.insert(&step.id, begin.unwrap_or(0.0) + step.expected_s.unwrap_or(0.0));
            }
        }
        any.then(|| ends.values().fold(0.0, |longest: f64, end| longest.max(*end)))
    }
}

/// Who carries a step out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "at", content = "site", rename_all = "snake_case")]
pub enum Executor {
    /// The agent that serves the app at this site.
    Agent(SiteName),
    Server,
    /// Every DNS node.
    Nodes,
}

impl fmt::Display for Executor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Executor::Agent(site) => formatter.pad(site.as_str()),
            Executor::Server => formatter.pad("server"),
            Executor::Nodes => formatter.pad("DNS nodes"),
        }
    }
}

/// When a step may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// When all steps before it are done.
    #[default]
    Done,
    /// When all steps before it have ended, in whatever way. Cleaning up is such a step.
    Ended,
}

/// Whether an operator may say that a step was done by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "skip", content = "why", rename_all = "snake_case")]
pub enum SkipRule {
    ByHand,
    /// Skipping it is the operator's assertion that the old site can write no more, and is recorded as that.
    AsAssertion,
    Never(String),
}

/// One action of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    pub id: StepId,
    pub title: String,
    #[serde(flatten)]
    pub at: Executor,
    pub work: Work,
    /// The epoch that its commands carry.
    pub epoch: Epoch,
    pub after: Vec<StepId>,
    #[serde(default)]
    pub when: When,
    #[serde(flatten)]
    pub skip: SkipRule,
    /// What it took the last times, or what its bytes should take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_s: Option<f64>,
}

/// What a step does. Positions are not in it: they are read when the run gets there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "work", rename_all = "snake_case")]
pub enum Work {
    /// The old agent ends the app's writing, durably. With `or_assertion` the run goes on without its
    /// answer after `patience_s` seconds: the operator's word stands in for it. With `may_leave` it does not
    /// wait for a link that is cut: what the other site does not have then is lost, within what the plan says.
    Stop {
        or_assertion: bool,
        patience_s: u32,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        may_leave: bool,
    },
    /// The operator's assertion is recorded: nobody is there to be asked.
    Assert,
    /// In one durable transition, and only while the app's epoch is the one before: the epoch becomes
    /// `to`, `writer` may write, and its vault is frozen until the app is protected elsewhere.
    AdvanceEpoch {
        to: Epoch,
        writer: SiteName,
    },
    /// The new site refuses the older epochs, durably.
    Seal,
    /// The old site's last positions become durable at the new site.
    AwaitStopped,
    /// Staged assets come near enough that the rest is caught up in moments.
    AwaitClose {
        age_ms_max: BTreeMap<AssetName, u64>,
    },
    /// The newest complete recovery point is read, and everything after goes by it.
    ChoosePoint,
    Rebuild {
        asset: AssetName,
        place: Place,
    },
    Stage {
        asset: AssetName,
    },
    /// A staged asset takes in everything up to the run's point.
    CatchUp {
        asset: AssetName,
    },
    Start {
        asset: AssetName,
        place: Place,
    },
    Probe {
        asset: AssetName,
        place: Place,
    },
    SwitchEntry {
        records: Vec<EntryRecord>,
    },
    SetAside,
    /// Every asset's recovery side has opened its data with its own keys.
    AwaitProtected {
        assets: Vec<AssetName>,
    },
    CleanUp,
    /// What the drill has shown is recorded.
    RecordProof,
}

impl Work {
    /// Whether it only waits or looks, so that a run that ends need not wait for it.
    pub(crate) fn may_be_left(&self) -> bool {
        matches!(
            self,
            Work::AwaitClose { .. }
                | Work::AwaitProtected { .. }
                | Work::AwaitStopped
                | Work::CatchUp { .. }
                | Work::Stage { .. }
                | Work::ChoosePoint
        )
    }

    /// The action that the agent is asked for; `None` when an agent does not do this work alone, or the
    /// run has not read the position that it needs.
    pub fn action(&self, facts: &Facts) -> Option<Action> {
        let position = |asset: &AssetName| {
            let point = facts.point.as_ref()?;
            point.assets.get(asset).map(|asset_point| asset_point.position.clone())
        };
        Some(match self {
            Work::Stop { may_leave, .. } => Action::Stop { may_leave: *may_leave },
            Work::Seal => Action::Seal,
            Work::AwaitStopped => Action::Await { point: facts.point.clone()? },
            Work::ChoosePoint => Action::ChoosePoint,
            Work::Rebuild { asset, place } => {
                Action::Rebuild { asset: asset.clone(), position: position(asset)?, place: place.clone() }
            }
            Work::Stage { asset } => Action::Stage { asset: asset.clone() },
            Work::CatchUp { asset } => Action::CatchUp { asset: asset.clone(), position: position(asset)? },
            Work::Start { asset, place } => {
                Action::Start { asset: asset.clone(), place: place.clone(), by_hand: false }
            }
            Work::Probe { asset, place } => Action::Probe { asset: asset.clone(), place: place.clone() },
            Work::SetAside => Action::SetAside,
            Work::CleanUp => Action::CleanUp,
            Work::Assert
            | Work::AdvanceEpoch { .. }
            | Work::AwaitClose { .. }
            | Work::SwitchEntry { .. }
            | Work::AwaitProtected { .. }
            | Work::RecordProof => return None,
        })
    }
}
