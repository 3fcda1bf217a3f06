//! What is known of each asset, written by the threads that work on it and read for the status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use levee_model::control::{AssetPoint, AssetState, VerifiedBackup};
use levee_model::postgres::Lsn;
use levee_model::{AssetName, VaultName};
use tokio::sync::Notify;

/// Longer than the pause between two attempts, and than one that is about to fail.
const TROUBLE_PAUSE_MAX: SignedDuration = SignedDuration::from_secs(15);

/// The changing part of an asset's status.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub state: AssetState,
    pub point: Option<AssetPoint>,
    pub source_lsn: Option<Lsn>,
    /// The newest backup whose data were read back and checked here.
    pub verified: Option<VerifiedBackup>,
    /// What a copy that is due waits behind.
    pub waiting: Option<String>,
    /// When log was last refused here that could not be stored.
    pub refused_at: Option<Instant>,
    /// Since when what arrives looks like ransomware at work.
    pub warned_since: Option<Timestamp>,
    pub problem: Option<String>,
    /// What else is wrong, by what it is about. Unlike `problem` it does not come and go with each attempt.
    pub remarks: BTreeMap<String, String>,
    /// What is worth knowing and no problem.
    pub notes: Vec<String>,
    /// The newest point that could be rebuilt from each further vault alone.
    pub vaults: BTreeMap<VaultName, AssetPoint>,
    /// Since when there has been a problem, whichever words it had.
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trouble {
    since: Timestamp,
    /// When it was last there.
    last: Timestamp,
}

impl Standing {
    /// The problem, and since when there is one.
    pub fn problem_with_since(&self) -> Option<String> {
        let problem = self.problem.as_ref()?;
        Some(match self.trouble {
            Some(trouble) => format!("{problem} (since {})", trouble.since.strftime("%Y-%m-%d %H:%M:%SZ")),
            None => problem.clone(),
        })
    }

    /// The problem and the remarks in one text.
    pub fn all_problems(&self) -> Option<String> {
        let all: Vec<String> = self.problem_with_since().into_iter().chain(self.remarks.values().cloned()).collect();
        Some(all.join("; ")).filter(|text| !text.is_empty())
    }

    /// For how long there has been a problem, when there is one.
    pub fn in_trouble_for(&self, now: Timestamp) -> Option<SignedDuration> {
        self.problem.as_ref()?;
        self.trouble.map(|trouble| now.duration_since(trouble.since))
    }

    /// Each new attempt is without a problem until it fails as well: a short pause does not end a trouble.
    fn note_trouble(&mut self, had_problem: bool, now: Timestamp) {
        let goes_on =
            self.trouble.filter(|trouble| had_problem || now.duration_since(trouble.last) < TROUBLE_PAUSE_MAX);
        if self.problem.is_some() || had_problem {
            self.trouble = Some(Trouble { since: goes_on.map_or(now, |trouble| trouble.since), last: now });
        } else {
            self.trouble = goes_on;
        }
    }
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            state: AssetState::Waiting,
            point: None,
            source_lsn: None,
            verified: None,
            waiting: None,
            refused_at: None,
            warned_since: None,
            problem: None,
            remarks: BTreeMap::new(),
            notes: Vec::new(),
            vaults: BTreeMap::new(),
            trouble: None,
        }
    }
}

/// One app's board. Clones share it.
#[derive(Clone, Debug)]
pub struct Board {
    assets: Arc<Mutex<BTreeMap<AssetName, Standing>>>,
    changed: Arc<Notify>,
}

impl Board {
    pub fn new(changed: Arc<Notify>) -> Self {
        Self { assets: Arc::default(), changed }
    }

    /// Changes an asset's entry. A change of state or problem is sent to the server at once.
    pub fn update(&self, asset: &AssetName, change: impl FnOnce(&mut Standing)) {
        let mut assets = self.assets.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = assets.entry(asset.clone()).or_default();
        let what_matters =
            |entry: &Standing| (entry.state, entry.problem.clone(), entry.remarks.clone(), entry.notes.clone());
        let before = what_matters(entry);
        change(entry);
        entry.note_trouble(before.1.is_some(), Timestamp::now());
        if before != what_matters(entry) {
            self.changed.notify_one();
        }
    }

    pub fn problem(&self, asset: &AssetName, problem: impl ToString) {
        let problem = problem.to_string();
        self.update(asset, |entry| {
            if entry.problem.as_ref() != Some(&problem) {
                tracing::warn!(%asset, problem);
            }
            entry.problem = Some(problem);
        });
    }

    /// Says something lasting of an asset under a name, or takes it back.
    pub fn remark(&self, asset: &AssetName, about: &str, remark: Option<String>) {
        self.update(asset, |entry| match remark {
            Some(remark) => {
                if entry.remarks.get(about) != Some(&remark) {
                    tracing::warn!(%asset, about, remark);
                }
                entry.remarks.insert(about.to_string(), remark);
            }
            None => drop(entry.remarks.remove(about)),
        });
    }

    /// Forgets what was known of all assets but these.
    pub fn keep_only(&self, named: &BTreeSet<AssetName>) {
        self.assets.lock().unwrap_or_else(PoisonError::into_inner).retain(|asset, _| named.contains(asset));
    }

    /// Forgets what was known in an earlier role.
    pub fn clear(&self) {
        self.assets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.changed.notify_one();
    }

    /// Something else of the status has changed that the server should hear of at once.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    pub fn get(&self, asset: &AssetName) -> Standing {
        self.assets.lock().unwrap_or_else(PoisonError::into_inner).get(asset).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_no_more_has_nothing_to_show_when_it_is_named_again() {
        let board = Board::new(Arc::default());
        let [orders, music]: [AssetName; 2] = ["orders", "music"].map(|name| name.parse().unwrap());
        [&orders, &music].into_iter().for_each(|asset| board.problem(asset, "no answer"));
        board.keep_only(&BTreeSet::from([orders.clone()]));
        assert_eq!(board.get(&music), Standing::default());
        assert_eq!(board.get(&orders).problem.as_deref(), Some("no answer"));
    }

    #[test]
    fn a_trouble_lasts_over_the_pauses_between_attempts() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let mut standing = Standing::default();
        let mut note = |second: i64, problem: Option<&str>| {
            let had_problem = standing.problem.is_some();
            standing.problem = problem.map(str::to_string);
            standing.note_trouble(had_problem, at(second));
            standing.trouble.filter(|_| problem.is_some()).map(|trouble| trouble.since)
        };
        assert_eq!(note(0, Some("reset")), Some(at(0)));
        assert_eq!(note(2, None), None);
        assert_eq!(note(7, Some("no answer")), Some(at(0)), "the next attempt has failed too");
        assert_eq!(note(300, Some("no answer")), Some(at(0)));
        assert_eq!(note(301, None), None);
        assert_eq!(note(400, Some("reset")), Some(at(400)), "it was well in between");
        assert_eq!(standing.problem_with_since().unwrap(), "reset (since 2027-01-15 08:06:40Z)");
    }
}
