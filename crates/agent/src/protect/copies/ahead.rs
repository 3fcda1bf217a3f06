//! In which order the copies of a folder came, also by a clock that was ahead: `upkeep/ahead.json`.
//!
//! A copy counts by when it was taken. Where its writer's clock is ahead of this one it counts by when it came. Where
//! both were ahead when it came, and are right again, both times are still to come, and it would stand before everything
//! that comes until then. But it was here when that was seen first, and so counts as of that moment for good: behind what
//! came before, and before what comes after. The same holds when it is this clock that was put back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use levee_model::AssetName;
use levee_model::control::Failure;
use levee_vault::SnapshotId;

use crate::durable;

/// How far a writer's clock may be ahead before it is not asked for the age of its copies: they would stay new for as
/// long.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(24);

/// When each copy was first seen of which both times were to come.
type Seen = BTreeMap<SnapshotId, Timestamp>;

/// Those of all folders of an app.
pub struct Ahead {
    path: PathBuf,
    /// Read at first use. Also keeps writers of the file apart.
    known: Mutex<Option<BTreeMap<AssetName, Seen>>>,
}

impl Ahead {
    pub fn new(path: PathBuf) -> Self {
        Self { path, known: Mutex::default() }
    }

    /// By which moment each copy of a folder stands among the others. `taken_at` has all of them with their writer's
    /// word; `received_at` is asked only where that is of a time to come.
    pub fn ranks(
        &self,
        asset: &AssetName,
        taken_at: &[(SnapshotId, Timestamp)],
        now: Timestamp,
        received_at: impl FnOnce() -> Result<BTreeMap<SnapshotId, Timestamp>, Failure>,
    ) -> Result<BTreeMap<SnapshotId, Timestamp>, Failure> {
        let mut known = self.lock();
        let known = known.get_or_insert_default();
        let before = known.get(asset).cloned().unwrap_or_default();
        let mut seen = before.clone();
        let is_to_come = |(id, taken_at): &(SnapshotId, Timestamp)| *taken_at > now && !before.contains_key(id);
        let received_at = if taken_at.iter().any(is_to_come) { received_at()? } else { BTreeMap::new() };
        let ranks = rank(taken_at, &received_at, &mut seen, now);
        if seen != before {
            known.insert(asset.clone(), seen);
            known.retain(|_, seen| !seen.is_empty());
            if let Err(error) = durable::write_json(&self.path, known) {
                tracing::warn!(path = %self.path.display(), %error, "which copies came from ahead can't be noted");
            }
        }
        Ok(ranks)
    }

    /// When a copy was first seen of which both times were to come.
    pub fn seen_at(&self, asset: &AssetName, copy: &SnapshotId) -> Option<Timestamp> {
        self.lock().as_ref()?.get(asset)?.get(copy).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<AssetName, Seen>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_with(|| {
            let read = durable::read_json(&self.path).unwrap_or_else(|error| {
                tracing::warn!(path = %self.path.display(), %error, "which copies came from ahead can't be read");
                None
            });
            read.unwrap_or_default()
        });
        known
    }
}

/// The moment that a copy is of. `came_at`, by when it was here, is asked only where its writer's word is no help.
pub fn as_of(
    taken_at: Timestamp,
    now: Timestamp,
    came_at: impl FnOnce() -> Result<Option<Timestamp>, Failure>,
) -> Result<Timestamp, Failure> {
    match taken_at.duration_since(now) <= AHEAD_MAX {
        true => Ok(taken_at),
        false => Ok(came_at()?.map_or(now, |came_at| now.min(came_at))),
    }
}

fn rank(
    taken_at: &[(SnapshotId, Timestamp)],
    received_at: &BTreeMap<SnapshotId, Timestamp>,
    seen: &mut Seen,
    now: Timestamp,
) -> BTreeMap<SnapshotId, Timestamp> {
    let here: BTreeSet<SnapshotId> = taken_at.iter().map(|(id, _)| *id).collect();
    seen.retain(|id, _| here.contains(id));
    let to_come = taken_at.iter().filter(|(id, taken_at)| *taken_at > now && !seen.contains_key(id));
    let to_come = to_come.filter_map(|(id, _)| Some((*received_at.get(id)?, *id)));
    let mut from_ahead: Vec<(Timestamp, SnapshotId)> = to_come.filter(|(at, _)| *at > now).collect();
    from_ahead.sort();
    // Among themselves they keep the order in which they came.
    for (nanosecond, (_, id)) in (0..).zip(from_ahead) {
        seen.insert(id, now.checked_add(SignedDuration::from_nanos(nanosecond)).unwrap_or(now));
    }
    let rank = |(id, taken_at): &(SnapshotId, Timestamp)| {
        let came_at = received_at.get(id).filter(|_| *taken_at > now);
        (*id, *seen.get(id).or(came_at).unwrap_or(taken_at))
    };
    taken_at.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_vault::Id;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap()
    }

    fn id(number: usize) -> SnapshotId {
        SnapshotId(Id::of(&number.to_le_bytes()))
    }

    /// The order, by numbers from 0, of copies (taken, received) when the clock shows this hour.
    fn check(ahead: &Ahead, copies: &[(i64, i64)], now: i64, expected: &[usize]) {
        let asset = "documents".parse().unwrap();
        let taken_at: Vec<_> = copies.iter().enumerate().map(|(number, (taken, _))| (id(number), at(*taken))).collect();
        let received_at =
            copies.iter().enumerate().map(|(number, (_, received))| (id(number), at(*received))).collect();
        let ranks = ahead.ranks(&asset, &taken_at, at(now), || Ok(received_at)).unwrap();
        let mut order: Vec<usize> = (0..copies.len()).collect();
        order.sort_by_key(|number| ranks[&id(*number)]);
        assert_eq!(order, expected, "{copies:?} {now}");
    }

    fn in_folder(folder: &tempfile::TempDir) -> Ahead {
        Ahead::new(folder.path().join("upkeep/ahead.json"))
    }

    #[test]
    fn copies_stand_in_the_order_in_which_they_were_taken() {
        let folder = tempfile::tempdir().unwrap();
        let ahead = in_folder(&folder);
        check(&ahead, &[(3, 4), (1, 9), (5, 6)], 10, &[1, 0, 2]);
        // A writer's clock that is ahead, or one that says so.
        check(&ahead, &[(3, 4), (900, 5), (6, 6)], 10, &[0, 1, 2]);
        assert!(!folder.path().join("upkeep").exists(), "there is nothing to note");
    }

    #[test]
    fn what_came_while_both_clocks_were_ahead_does_not_stand_before_what_comes_after() {
        let folder = tempfile::tempdir().unwrap();
        let (before, by_it) = ([(1, 1), (2, 2)], [(900, 900), (901, 901)]);
        let all = |after: &[(i64, i64)]| [&before[..], &by_it[..], after].concat();
        let ahead = in_folder(&folder);
        check(&ahead, &all(&[]), 902, &[0, 1, 2, 3]);
        // The clocks are right again.
        check(&ahead, &all(&[]), 3, &[0, 1, 2, 3]);
        check(&ahead, &all(&[(4, 4)]), 5, &[0, 1, 2, 3, 4]);
        // Also to another process, and once those times have come.
        let ahead = in_folder(&folder);
        check(&ahead, &all(&[(4, 4), (6, 6)]), 7, &[0, 1, 2, 3, 4, 5]);
        check(&ahead, &all(&[(4, 4), (6, 6)]), 1000, &[0, 1, 2, 3, 4, 5]);
        let asset = "documents".parse().unwrap();
        assert_eq!(ahead.seen_at(&asset, &id(2)), Some(at(3)));
        check(&ahead, &before, 1001, &[0, 1]);
        assert_eq!(ahead.seen_at(&asset, &id(2)), None, "it has gone");
    }

    #[test]
    fn a_clock_that_was_put_back_changes_no_order() {
        let folder = tempfile::tempdir().unwrap();
        let ahead = in_folder(&folder);
        let mut copies = vec![(1, 1), (2, 2), (30, 30), (31, 31)];
        // By a day: the newest two seem to be of a time to come, and are the newest for all that.
        check(&ahead, &copies, 8, &[0, 1, 2, 3]);
        copies.push((33, 9));
        check(&ahead, &copies, 10, &[0, 1, 2, 3, 4]);
        check(&ahead, &copies, 40, &[0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_copy_that_claims_to_be_of_next_year_grows_old() {
        let check = |taken: i64, came: Option<i64>, now: i64, expected: i64| {
            assert_eq!(as_of(at(taken), at(now), || Ok(came.map(at))).unwrap(), at(expected), "{taken} {came:?} {now}");
        };
        check(9000, Some(5), 6, 5);
        check(9000, Some(5), 500, 5);
        check(9000, None, 6, 6);
        // The writer's clock is a little ahead, and ages are told by it.
        check(8, Some(5), 6, 8);
        check(3, Some(5), 6, 3);
    }
}
