//! Copies in a further vault that could not be mended: what this site has is damaged as well, or what was brought was not all.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use levee_model::VaultName;
use levee_vault::{Id, SnapshotId};

use super::super::upkeep::prune::Retry;

/// Each rests for longer every time, since a try has the operator's commands around it. The first rest is short: a repair
/// there may just be under way.
#[derive(Default)]
pub struct NotMended {
    /// What was damaged there when it was last looked at. With another damage what was tried says nothing any more.
    packs: HashSet<Id>,
    /// By the ids that they have at this site.
    tried: BTreeMap<SnapshotId, Tried>,
}

#[derive(Default)]
struct Tried {
    retry: Retry,
    reason: String,
}

impl NotMended {
    pub fn note(&mut self, id: &SnapshotId, reason: String, now: Timestamp) {
        let tried = self.tried.entry(*id).or_default();
        tried.retry.note(false, now);
        tried.reason = reason;
    }

    pub fn rests(&self, id: &SnapshotId, now: Timestamp) -> bool {
        self.tried.get(id).is_some_and(|tried| !tried.retry.is_time(now))
    }

    pub fn forget(&mut self, id: &SnapshotId) {
        self.tried.remove(id);
    }

    /// Forgets what is not to be mended any more, and everything once other packs are damaged there than before. When they
    /// were last found so does not matter: that changes by the minute.
    pub fn look(&mut self, damaged: &HashSet<Id>, to_mend: &BTreeSet<SnapshotId>) {
        if self.packs != *damaged {
            self.tried.clear();
            self.packs = damaged.clone();
        }
        self.tried.retain(|id, _| to_mend.contains(id));
    }

    pub fn text(&self, vault: &VaultName) -> Option<String> {
        let (id, Tried { reason, .. }) = self.tried.first_key_value()?;
        let others = match self.tried.len() - 1 {
            0 => String::new(),
            others => format!("; and {others} more"),
        };
        Some(format!("snapshot {} could not be brought anew to vault {vault}: {reason}{others}", id.short()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn snapshot(name: &str) -> SnapshotId {
        SnapshotId(Id::of(name.as_bytes()))
    }

    #[test]
    fn what_cannot_be_mended_is_tried_less_and_less_often() {
        let (id, packs) = (snapshot("base"), HashSet::from([Id::of(b"pack")]));
        let to_mend = BTreeSet::from([id]);
        let mut not_mended = NotMended::default();
        let (mut now_s, mut tries) = (0, 0);
        // For a day it is looked every ten seconds what the damage hits.
        while now_s < 24 * 3600 {
            not_mended.look(&packs, &to_mend);
            if !not_mended.rests(&id, at(now_s)) {
                tries += 1;
                not_mended.note(&id, "it is damaged".into(), at(now_s));
                assert!(not_mended.rests(&id, at(now_s + 9)));
                assert!(!not_mended.rests(&id, at(now_s + 600)), "somebody may mend it here");
            }
            now_s += 10;
        }
        assert!((140..155).contains(&tries), "{tries} tries");
        assert!(!not_mended.rests(&snapshot("other"), at(now_s)), "it holds no other up");
    }

    #[test]
    fn it_is_tried_at_once_after_a_repair_there_and_said_until_it_is_mended() {
        let (one, other) = (snapshot("one"), snapshot("other"));
        let (before, after) = (HashSet::from([Id::of(b"pack")]), HashSet::from([Id::of(b"another")]));
        let vault: VaultName = "far".parse().unwrap();
        let mut not_mended = NotMended::default();
        not_mended.look(&before, &BTreeSet::from([one, other]));
        assert_eq!(not_mended.text(&vault), None);
        for id in [one, other] {
            not_mended.note(&id, "it is damaged".into(), at(0));
        }
        not_mended.look(&before, &BTreeSet::from([one, other]));
        assert!(not_mended.rests(&one, at(1)) && not_mended.rests(&other, at(1)));
        let text = not_mended.text(&vault).unwrap();
        assert!(text.contains("vault far: it is damaged; and 1 more"), "{text}");
        // One is whole, as is seen by its copy or by what the damage hits.
        not_mended.forget(&one);
        let text = not_mended.text(&vault).unwrap();
        assert!(text.contains(&other.short()) && !text.contains("more"), "{text}");
        not_mended.look(&before, &BTreeSet::from([one]));
        assert_eq!(not_mended.text(&vault), None);

        not_mended.note(&one, "it is damaged".into(), at(2));
        not_mended.look(&after, &BTreeSet::from([one]));
        assert!(!not_mended.rests(&one, at(2)));
    }
}
