use jiff::Timestamp;
use levee_model::{AppName, RunId, SiteName};
use levee_plan::{PlanId, PlanKind, Run, RunState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What to plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// `failover`, `switchover`, `drill` or `reprotect`.
    #[schema(value_type = String)]
    pub kind: PlanKind,
    #[schema(value_type = String)]
    pub app: AppName,
    /// Where to; needed for failover and switchover. A drill and a reprotect know their site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub to: Option<SiteName>,
    /// The operator's word that the old site can write no more.
    #[serde(default)]
    pub old_site_is_down: bool,
}

/// What to run: a plan that was shown, or a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunOrder {
    /// The plan's id, or its first characters (at least 6).
    #[schema(value_type = String)]
    Plan(PlanId),
    New(PlanRequest),
}

/// Which runs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// Only those that have not ended.
    #[serde(default)]
    pub open: bool,
    /// The newest so many; 50 when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunSummary {
    #[schema(value_type = String)]
    pub id: RunId,
    #[schema(value_type = String)]
    pub kind: PlanKind,
    #[schema(value_type = String)]
    pub app: AppName,
    #[schema(value_type = String)]
    pub from: SiteName,
    #[schema(value_type = String)]
    pub to: SiteName,
    /// `running`, `blocked`, `stopping`, `done`, `failed` or `aborted`.
    #[schema(value_type = String)]
    pub state: RunState,
    pub requested_by: String,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// How to wait for a run to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunWait {
    /// The `mark` of the answer before; without it the run is answered at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// How long to wait, in seconds, at most 60; 25 when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<u32>,
}

/// A run as it stands, with a mark to ask for what comes after. When nothing has changed in time, the
/// same mark comes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunChange {
    pub mark: String,
    #[schema(value_type = Object)]
    pub run: Run,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    pub step: String,
}

/// A step was done by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SkipRequest {
    pub step: String,
    /// What was done; it is recorded with the run.
    pub reason: String,
}
