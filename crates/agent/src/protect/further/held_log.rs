//! Which log a copy of a journal holds, and when an older copy may go.
//!
//! Only when the newer one has all of its log, but for what this site's retention has removed and no base backup in the
//! vault needs: without its log a base is worth nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use levee_database::postgres::base::BaseFacts;
use levee_journal::SegmentPlace;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use levee_vault::{Node, SnapshotId, Vault};

use super::super::removals::TrimmedLog;

type Lineage = (SystemIdentifier, TimelineId);

/// The log in one copy of a journal.
#[derive(Debug, Default)]
pub struct HeldLog {
    /// By lineage, then by where each begins.
    segments: BTreeMap<Lineage, BTreeMap<Lsn, Held>>,
}

#[derive(Debug)]
struct Held {
    place: SegmentPlace,
    /// Of its file.
    size_bytes: u64,
}

/// The log without which a base backup can't be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeededLog {
    pub lineage: (SystemIdentifier, TimelineId),
    pub start: Lsn,
    pub stop: Lsn,
}

impl From<&BaseFacts> for NeededLog {
    fn from(facts: &BaseFacts) -> Self {
        let lineage = (facts.system_identifier, facts.timeline);
        Self { lineage, start: facts.start, stop: facts.stop }
    }
}

impl HeldLog {
    pub fn read(vault: &Vault, copy: &SnapshotId) -> levee_vault::Result<Self> {
        let mut held = Self::default();
        for entry in vault.list_tree(copy)? {
            let (path, node): (PathBuf, Node) = entry?;
            let Some(place) = SegmentPlace::of(&path) else { continue };
            let of_lineage = held.segments.entry((place.system_identifier, place.timeline)).or_default();
            let found = Held { place, size_bytes: node.size };
            match of_lineage.get(&place.start) {
                // A tail beside the closed segment that it has become.
                Some(known) if !found.holds(known) => {}
                _ => drop(of_lineage.insert(place.start, found)),
            }
        }
        Ok(held)
    }

    /// Whether all of this log is in closed segments here. How far an open tail reaches, its name does not say.
    pub fn covers(&self, needed: &NeededLog) -> bool {
        let mut reached = needed.start;
        let closed = self.segments.get(&needed.lineage).into_iter().flat_map(BTreeMap::values);
        for (start, end) in closed.filter_map(|held| Some((held.place.start, held.place.end?))) {
            if start <= reached && reached < end {
                reached = end;
            }
        }
        reached > needed.start && reached >= needed.stop
    }

    /// Whether an older copy holds no log that this one lacks, but for what retention has removed at the site and nothing
    /// in the vault needs. `segment_bytes` says how long the segments of a timeline are, where it is known.
    pub fn replaces(
        &self,
        older: &HeldLog,
        trimmed: &[TrimmedLog],
        needed: &[NeededLog],
        segment_bytes: impl Fn(SystemIdentifier, TimelineId) -> Option<u64>,
    ) -> bool {
        older.segments.values().flat_map(BTreeMap::values).all(|held| {
            let place = &held.place;
            let lineage = (place.system_identifier, place.timeline);
            let here = self.segments.get(&lineage).and_then(|of_lineage| of_lineage.get(&place.start));
            let bytes = segment_bytes(place.system_identifier, place.timeline);
            let is_needed = || needed.iter().any(|needed| needed.lineage == lineage && needed.touches(place, bytes));
            here.is_some_and(|here| here.holds(held))
                || (trimmed.iter().any(|trimmed| trimmed.has_taken(place, bytes)) && !is_needed())
        })
    }
}

impl Held {
    /// Whether it has all of another that begins at the same place.
    fn holds(&self, other: &Held) -> bool {
        match (self.place.end, other.place.end) {
            (Some(_), _) => true,
            (None, Some(_)) => false,
            // A journal that was lost and has begun anew has less of it at first.
            (None, None) => self.size_bytes >= other.size_bytes,
        }
    }
}

impl NeededLog {
    fn touches(&self, place: &SegmentPlace, segment_bytes: Option<u64>) -> bool {
        let end = place.end.unwrap_or(Lsn(place.start.0.saturating_add(segment_bytes.unwrap_or(u64::MAX))));
        self.start < end && place.start <= self.stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::Arc;

    use levee_journal::{Identity, JournalKeys, LogJournal};
    use levee_model::Epoch;
    use levee_model::postgres::SegmentSize;
    use levee_store::LocalStore;
    use levee_testing::random::noise;
    use levee_vault::Password;

    use super::super::log::{LogCopy, Trouble};

    const SEGMENT: u64 = 1 << 20;
    const LINEAGE: Lineage = (SystemIdentifier(7), TimelineId(1));

    /// A journal with log in these segments, and so many bytes of the one behind.
    fn journal(dir: &Path, identity: &Identity, from: u64, to: u64, tail: u64) -> LogJournal {
        let journal = LogJournal::open(dir, JournalKeys::of_identity(identity.clone())).unwrap();
        let lineage = levee_journal::Lineage {
            system_identifier: LINEAGE.0,
            timeline: LINEAGE.1,
            epoch: Epoch(1),
            segment_size: SegmentSize::new(SEGMENT).unwrap(),
        };
        let mut writer = journal.writer_at_end(lineage, Lsn(from * SEGMENT)).unwrap();
        while writer.end() < Lsn(to * SEGMENT + tail) {
            let bytes = (to * SEGMENT + tail - writer.end().0).min(SEGMENT / 2) as usize;
            // Not to be compressed, so that more log is a larger file.
            writer.append(writer.end(), &noise(writer.end().0, bytes)).unwrap();
            writer.flush().unwrap();
        }
        drop(writer);
        journal
    }

    fn needed(start: u64, stop: u64) -> NeededLog {
        NeededLog { lineage: LINEAGE, start: Lsn(start), stop: Lsn(stop) }
    }

    #[test]
    fn an_older_copy_of_the_log_goes_only_when_a_newer_one_has_all_of_it() {
        let (dir, identity) = (tempfile::tempdir().unwrap(), Identity::generate());
        let made =
            |name: &str, from: u64, to: u64, tail: u64| journal(&dir.path().join(name), &identity, from, to, tail);
        let store = Arc::new(LocalStore::new(dir.path().join("vault")));
        let vault = Vault::init(store, &Password::new("open")).unwrap();
        let copy = |journal: &LogJournal, before: Option<&SnapshotId>| {
            let log = LogCopy { journal, host: "w1", tag: "levee-log:shop/orders".into() };
            log.store(&vault, before).unwrap_or_else(|trouble| match trouble {
                Trouble::There(error) => panic!("{error}"),
                Trouble::Here(failure) => panic!("{}", failure.message),
            })
        };
        let held = |copy: &SnapshotId| HeldLog::read(&vault, copy).unwrap();
        let trimmed = |keep_from: u64, keep: Vec<(Lsn, Lsn)>| TrimmedLog {
            system_identifier: LINEAGE.0,
            timeline: LINEAGE.1,
            keep_from: Lsn(keep_from * SEGMENT),
            keep,
        };
        let check = |older: &HeldLog, newer: &HeldLog, trimmed: &[TrimmedLog], needed: &[NeededLog], expected: bool| {
            let replaces = newer.replaces(older, trimmed, needed, |_, _| Some(SEGMENT));
            assert_eq!(replaces, expected, "{trimmed:?} {needed:?}");
        };
        let first = copy(&made("journal", 3, 6, 100), None);
        let second = copy(&made("journal", 3, 7, 9000), Some(&first));
        let (whole, longer) = (held(&first), held(&second));
        check(&whole, &longer, &[], &[], true);
        check(&longer, &whole, &[], &[], false);

        // The journal is lost, and begins anew further on.
        let anew = held(&copy(&made("anew", 6, 8, 100), Some(&second)));
        check(&longer, &anew, &[], &[], false);
        check(&longer, &anew, &[trimmed(5, vec![])], &[], false);
        check(&longer, &anew, &[trimmed(6, vec![])], &[], true);
        check(&longer, &anew, &[trimmed(6, vec![(Lsn(4 * SEGMENT), Lsn(4 * SEGMENT + 9))])], &[], false);
        // A base that is still there needs what the site has trimmed.
        check(&longer, &anew, &[trimmed(6, vec![])], &[needed(4 * SEGMENT + 5, 4 * SEGMENT + 9)], false);
        check(&longer, &anew, &[trimmed(6, vec![])], &[needed(6 * SEGMENT + 5, 6 * SEGMENT + 9)], true);
        // In the same segment, of which it has less at first.
        let less = held(&copy(&made("less", 7, 7, 100), Some(&second)));
        check(&longer, &less, &[trimmed(7, vec![])], &[], false);
        let more = held(&copy(&made("more", 7, 7, 20_000), Some(&second)));
        check(&longer, &more, &[trimmed(7, vec![])], &[], true);
    }

    #[test]
    fn log_is_there_for_a_base_when_closed_segments_hold_it_without_a_gap() {
        let mut held = HeldLog::default();
        let mut add = |number: u64, is_closed: bool| {
            let place = SegmentPlace {
                system_identifier: LINEAGE.0,
                timeline: LINEAGE.1,
                start: Lsn(number * SEGMENT),
                end: is_closed.then_some(Lsn((number + 1) * SEGMENT)),
            };
            held.segments.entry(LINEAGE).or_default().insert(place.start, Held { place, size_bytes: 1 });
        };
        for number in [3, 4, 6] {
            add(number, true);
        }
        add(7, false);
        let check = |start: u64, stop: u64, expected: bool| {
            assert_eq!(held.covers(&needed(start, stop)), expected, "{start} {stop}");
        };
        check(3 * SEGMENT + 9, 3 * SEGMENT + 100, true);
        check(3 * SEGMENT + 9, 5 * SEGMENT, true);
        check(3 * SEGMENT + 9, 5 * SEGMENT + 1, false);
        check(4 * SEGMENT, 6 * SEGMENT + 1, false);
        check(5 * SEGMENT + 1, 6 * SEGMENT + 1, false);
        check(6 * SEGMENT + 1, 7 * SEGMENT + 1, false);
        check(2 * SEGMENT, 2 * SEGMENT, false);
        let other = NeededLog { lineage: (SystemIdentifier(7), TimelineId(2)), ..needed(3 * SEGMENT, 4 * SEGMENT) };
        assert!(!held.covers(&other));
    }
}
