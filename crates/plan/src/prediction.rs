//! What a plan says will happen: what is lost, and how long it takes.

use jiff::Timestamp;
use levee_model::AssetName;
use levee_model::control::{AssetState, Role};
use levee_model::postgres::Lsn;
use levee_model::{Position, SiteName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::inputs::Inputs;

/// What a plan says will happen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prediction {
    pub assets: Vec<AssetPrediction>,
    /// The age of the oldest asset's point when the plan was made, in seconds. `None` when one is unknown.
    pub recovery_point_age_s: Option<f64>,
    /// From the run's start until the app is up and its entries answer, in seconds; for a switchover the
    /// length of the interruption. `None` when nothing was measured yet.
    pub recovery_time_s: Option<f64>,
    /// How long before the plan the site where the app lives was last heard of, in seconds: what is said of its end is
    /// as old. `None` when it never was since the server's start.
    #[serde(default)]
    pub source_heard_age_s: Option<f64>,
}

/// What will happen to one asset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AssetPrediction {
    pub asset: AssetName,
    pub state: Option<AssetState>,
    /// Where it would be brought back to.
    pub position: Option<Position>,
    pub as_of: Option<Timestamp>,
    /// What was written in this long before now may be lost, in seconds.
    pub age_s: Option<f64>,
    /// How much of the source's log was not here when the source was last heard of, in bytes.
    pub log_behind_bytes: Option<u64>,
    /// Where the source's log ended when the source was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_end: Option<Lsn>,
}

/// Rounded to milliseconds, so that the number reads back from JSON as it was written.
pub(crate) fn rounded_s(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

pub(crate) fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    rounded_s(later.duration_since(earlier).as_secs_f64().max(0.0))
}

/// What the recovery site `to` could bring back now.
pub(crate) fn predict(inputs: &Inputs<'_>, to: &SiteName) -> Prediction {
    let from = inputs.spec.peer_of(to);
    // Points are stamped by the source's clock, so they are aged by it.
    let source_now = inputs.agent_at(from).map_or(inputs.now, |view| view.clock(inputs.now));
    let assets: Vec<AssetPrediction> = inputs
        .spec
        .asset_names()
        .map(|asset| {
            let there = inputs.asset_at(to, asset, Role::Recovery);
            let point = there.and_then(|status| status.point.as_ref());
            let source_end = inputs
                .asset_at(from, asset, Role::Writer)
                .and_then(|status| status.source_lsn)
                .max(there.and_then(|status| status.source_lsn));
            let log_behind_bytes = match (source_end, point.map(|point| &point.position)) {
                (Some(end), Some(Position::Log(position))) => Some(end.bytes_since(position.lsn)),
                _ => None,
            };
            AssetPrediction {
                asset: asset.clone(),
                state: there.map(|status| status.state),
                position: point.map(|point| point.position.clone()),
                as_of: point.map(|point| point.as_of),
                age_s: point.map(|point| seconds_between(point.as_of, source_now)),
                log_behind_bytes,
                source_end,
            }
        })
        .collect();
    let recovery_point_age_s =
        assets.iter().map(|asset| asset.age_s).try_fold(0.0, |oldest: f64, age| age.map(|age| oldest.max(age)));
    let heard_at = inputs.agent_at(from).and_then(|view| view.heard_at);
    let source_heard_age_s = heard_at.map(|heard_at| seconds_between(heard_at, inputs.now));
    Prediction { assets, recovery_point_age_s, recovery_time_s: None, source_heard_age_s }
}
