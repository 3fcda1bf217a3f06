//! What a failover loses, in words.

use std::collections::BTreeMap;

use levee_model::control::{Left, RecoveryPoint};
use levee_model::{AssetName, Position, SiteName};

use crate::plan::Plan;
use crate::render::duration;

/// The loss of a failover, named: which changes are not at the new site, and where they lie.
pub(super) fn describe_left(from: &SiteName, left: &BTreeMap<AssetName, Left>) -> String {
    let describe = |(asset, left): (&AssetName, &Left)| {
        let sent = left.sent.as_ref().map_or("nothing".to_string(), |point| point.position.to_string());
        let behind = match (&left.ends_at, left.sent.as_ref().map(|point| &point.position)) {
            (Some(end), Some(Position::Log(sent))) => {
                format!(", {} bytes of log up to {} were not sent", end.lsn.bytes_since(sent.lsn), end.lsn)
            }
            (Some(end), _) => format!(", its log ends at {}", end.lsn),
            (None, _) => String::new(),
        };
        format!(
            "{asset}: the other site has {sent}{behind}; the rest is in {} ({})",
            left.kept_in.display(),
            left.reason
        )
    };
    let assets: Vec<String> = left.iter().map(describe).collect();
    format!(
        "stopped, not everything was sent from {from}: {}. It is set aside there under a new name, which `levee status` \
         shows",
        assets.join("; ")
    )
}

/// The same where the old site could not be asked: what is known is what it had said before, and how old that is.
pub(super) fn describe_unasked(plan: &Plan, point: &RecoveryPoint) -> String {
    let from = &plan.from;
    let heard = match plan.prediction.source_heard_age_s {
        Some(age_s) => format!("it was last heard of {} before the plan of {:.0}", duration(age_s), plan.made_at),
        None => "the server had not heard of it since its own start".into(),
    };
    let describe = |(asset, chosen): (&AssetName, &levee_model::control::AssetPoint)| {
        let predicted = plan.prediction.assets.iter().find(|predicted| predicted.asset == *asset);
        let end = predicted.and_then(|predicted| predicted.source_end);
        let lost = match (end, &chosen.position) {
            (Some(end), Position::Log(position)) if end > position.lsn => {
                format!(
                    "at least {} bytes of its log, which had come to {end} then, are lost",
                    end.bytes_since(position.lsn)
                )
            }
            (Some(end), Position::Log(_)) => format!("all of its log is here that there was then, up to {end}"),
            _ => "what it had written then is not known".into(),
        };
        let lost =
            if matches!(chosen.position, Position::Snapshot { .. }) { String::new() } else { format!("; {lost}") };
        format!("{asset}: brought back as of {:.3}{lost}", chosen.as_of)
    };
    let assets: Vec<String> = point.assets.iter().map(describe).collect();
    format!(
        "{from} was not asked, {heard}. Everything is lost that was written there after these moments: {}",
        assets.join(". ")
    )
}
