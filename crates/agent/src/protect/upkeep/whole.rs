//! The newest copy of a folder that lacks nothing: those that came after it may all lack what could not be read any more.

use std::collections::BTreeSet;

use levee_model::AssetName;
use levee_model::control::Failure;
use levee_vault::SnapshotId;
use levee_vault::forget::Arrival;

use super::super::app::App;
use super::super::tags;

/// The newest of these, the oldest first, that lacks nothing by its tags and that this site has opened with its own keys.
/// `is_no_help` names those that are known to be damaged, or that came at a time which is not yet.
///
/// The tags are the writer's word: a false one keeps a copy too many, or none for its sake, and makes none go.
pub fn newest(
    app: &App,
    asset: &AssetName,
    arrivals: &[Arrival],
    is_no_help: impl Fn(&SnapshotId) -> bool,
) -> Result<Option<SnapshotId>, Failure> {
    let vault = app.copies.vault()?;
    let listed = app.copies.snapshots_with_tag(&tags::files(&app.name, asset))?;
    let lacking = listed.into_iter().filter(|(_, snapshot)| tags::lacking(&snapshot.tags).is_some());
    let lacking: BTreeSet<SnapshotId> = lacking.map(|(id, _)| id).collect();
    let is_of_use = |id: &SnapshotId| !is_no_help(id) && app.copies.open_with_own_keys(&vault, id).is_ok();
    Ok(newest_of(arrivals, &lacking, is_of_use))
}

fn newest_of(
    arrivals: &[Arrival],
    lacking: &BTreeSet<SnapshotId>,
    is_of_use: impl Fn(&SnapshotId) -> bool,
) -> Option<SnapshotId> {
    let newest_first = arrivals.iter().rev().map(|arrival| arrival.id);
    newest_first.filter(|id| !lacking.contains(id)).find(is_of_use)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn id(number: u64) -> SnapshotId {
        format!("{number:064x}").parse().unwrap()
    }

    #[test]
    fn the_newest_that_lacks_nothing_and_opens_is_found() {
        // Four arrivals, the oldest first; of these numbers something is lacking, and those open.
        let check = |lacking: &[u64], opening: &[u64], expected: Option<u64>| {
            let arrival = |number: u64| Arrival {
                id: id(number),
                received_at: Timestamp::from_second(1_800_000_000 + number as i64).unwrap(),
                writer: "east-1".into(),
            };
            let arrivals: Vec<Arrival> = (0..4).map(arrival).collect();
            let lacking = lacking.iter().copied().map(id).collect();
            let opens = |other: &SnapshotId| opening.iter().any(|number| id(*number) == *other);
            assert_eq!(newest_of(&arrivals, &lacking, opens), expected.map(id), "{lacking:?} of {opening:?}");
        };
        check(&[], &[0, 1, 2, 3], Some(3));
        check(&[2, 3], &[0, 1, 2, 3], Some(1));
        check(&[1, 3], &[0, 1, 2, 3], Some(2));
        // One that is damaged is of no use.
        check(&[2, 3], &[0, 2, 3], Some(0));
        check(&[0, 1, 2, 3], &[0, 1, 2, 3], None);
    }
}
