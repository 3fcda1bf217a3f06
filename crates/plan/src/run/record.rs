use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use levee_model::AssetName;
use levee_model::control::{Done, Failure, Left, RecoveryPoint};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::plan::Assertion;
use crate::retry::ATTEMPTS_MAX;

/// How one step of a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepRecord {
    #[serde(flatten)]
    pub state: StepState,
    /// How often it was begun.
    pub attempts: u32,
    /// The number of attempts after which the operator is asked.
    pub attempts_allowed: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// What the executor measured for the attempt that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

impl Default for StepRecord {
    fn default() -> Self {
        Self {
            state: StepState::Waiting,
            attempts: 0,
            attempts_allowed: ATTEMPTS_MAX,
            started_at: None,
            ended_at: None,
            seconds: None,
            outcome: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StepState {
    Waiting,
    Running {
        attempt: u32,
    },
    /// It failed for a reason that may pass, and is tried again.
    Backoff {
        until: Timestamp,
        failure: Failure,
    },
    Done,
    Failed {
        failure: Failure,
    },
    /// The operator says that it was done by hand.
    Skipped {
        by: String,
        reason: String,
    },
    /// It will not be done.
    Cancelled,
}

impl StepState {
    pub fn as_str(&self) -> &'static str {
        match self {
            StepState::Waiting => "waiting",
            StepState::Running { .. } => "running",
            StepState::Backoff { .. } => "to be tried again",
            StepState::Done => "done",
            StepState::Failed { .. } => "failed",
            StepState::Skipped { .. } => "skipped",
            StepState::Cancelled => "cancelled",
        }
    }

    /// Whether what comes after may count on it.
    pub fn counts_as_done(&self) -> bool {
        matches!(self, StepState::Done | StepState::Skipped { .. })
    }
}

/// What a step has brought about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    pub done: Done,
    /// What the operator should know of it, such as the nodes that have not confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Outcome {
    pub fn of(done: Done) -> Self {
        Self { done, note: None }
    }
}

/// What was learned on the way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Facts {
    /// Where the old site ended, when it could be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<RecoveryPoint>,
    /// What the old site could not send before it stopped: what this run loses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left: BTreeMap<AssetName, Left>,
    /// Where the app is brought back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<RecoveryPoint>,
    /// The operator's word that stood in for the old agent's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion: Option<Assertion>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub probes: BTreeMap<AssetName, ProbeResult>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted_by: Option<String>,
    /// The new site was lost after the cut-over, and the run with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<GivenUp>,
}

/// Why a run was ended after its cut-over, and what there is to go on with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GivenUp {
    pub assertion: Assertion,
    /// Where the old site's data were set aside, as far as its agent has said.
    #[schema(value_type = Vec<String>)]
    pub set_aside: Vec<PathBuf>,
}

/// What the probe of one asset said, the last time it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProbeResult {
    pub passed: bool,
    pub detail: String,
}
