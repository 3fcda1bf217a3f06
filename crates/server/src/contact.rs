//! What the keeper of an asset's copies has said of them last, kept beyond the life of this process: when the recovery
//! site is lost is just when somebody asks what it had.
//!
//! It is shown, as of that contact, and used for nothing else. It never makes an asset count as protected or its
//! objective as met, and no plan sees it: what was there once may be gone.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use levee_model::control::{AssetPoint, AssetStatus, VerifiedBackup};
use levee_model::{AgentId, AppName, AssetName, Epoch, VaultName};
use levee_plan::AgentView;
use serde::{Deserialize, Serialize};

use crate::config::{AppRecord, Config};
use crate::control::{AssetView, ContactView};
use crate::error::Result;
use crate::state::History;
use crate::status::{Known, backup};

/// What an agent says of the copies of an asset that it keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    pub epoch: Epoch,
    pub point: Option<AssetPoint>,
    pub verified: Option<VerifiedBackup>,
    /// The newest point in each further vault.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vaults: BTreeMap<VaultName, AssetPoint>,
}

impl Word {
    /// Whether something of what was there before is not named any more.
    pub fn says_less_than(&self, before: &Word) -> bool {
        (before.point.is_some() && self.point.is_none())
            || (before.verified.is_some() && self.verified.is_none())
            || before.vaults.keys().any(|vault| !self.vaults.contains_key(vault))
    }
}

/// Such a word, with whose it is and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    pub app: AppName,
    pub asset: AssetName,
    pub agent: AgentId,
    /// By the server's clock.
    pub seen_at: Timestamp,
    pub word: Word,
}

impl Contact {
    pub fn new(agent: &AgentId, status: &AssetStatus, seen_at: Timestamp) -> Self {
        let word = Word {
            epoch: status.epoch,
            point: status.point.clone(),
            verified: status.verified.clone(),
            vaults: status.vaults.clone(),
        };
        Self { app: status.app.clone(), asset: status.asset.clone(), agent: agent.clone(), seen_at, word }
    }

    /// Whether it comes from the agent that keeps the asset's copies now. The word of another one, or from before a
    /// change of site, is about other copies.
    pub fn is_of_keeper(&self, record: &AppRecord) -> bool {
        record.agents.get(record.spec.peer_of(&record.writer)) == Some(&self.agent)
            && self.word.epoch == record.epoch
            && record.spec.asset_names().any(|asset| *asset == self.asset)
    }
}

/// Those that are worth keeping: one that nobody would be shown is left out, such as of an app that was just removed.
pub fn of_keepers(config: &Config, contacts: Vec<Contact>) -> Vec<Contact> {
    let is_of_keeper =
        |contact: &Contact| config.apps.get(&contact.app).is_some_and(|record| contact.is_of_keeper(&record.value));
    contacts.into_iter().filter(is_of_keeper).collect()
}

/// Forgets what was said of assets and apps that are protected no more: of one that is protected anew, nothing old is
/// told.
pub fn forget_removed(history: &History, config: &Config) -> Result<()> {
    let kept: BTreeSet<(AppName, AssetName)> = history.contact_names()?;
    let is_wanted = |(app, asset): &(AppName, AssetName)| {
        config.apps.get(app).is_some_and(|record| record.value.spec.asset_names().any(|name| name == asset))
    };
    let gone: Vec<(AppName, AssetName)> = kept.into_iter().filter(|names| !is_wanted(names)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    history.forget_contacts(&gone)
}

impl Known<'_> {
    /// Marks what is said of an asset's copies while their keeper is away, and fills in what only an earlier process of
    /// this server has heard. Comes after everything was judged, so that it changes no judgement.
    pub fn add_last_contact(
        &self,
        record: &AppRecord,
        agents: &[AgentView],
        contact: Option<&Contact>,
        asset: &mut AssetView,
    ) {
        let keeper = agents.iter().find(|view| view.site == *record.spec.peer_of(&record.writer));
        // The first word of the keeper takes the place of all that was kept, also when it says less.
        if let Some(view) = keeper.filter(|view| view.status.is_some()) {
            asset.last_contact = view.heard_at.filter(|_| !view.connected).map(|at| self.contact_at(at));
            return;
        }
        let kept = contact.filter(|contact| contact.is_of_keeper(record));
        let Some(Contact { seen_at, word, .. }) = kept else { return };
        let source_now = agents.iter().find(|view| view.site == record.writer).map_or(self.now, |v| v.clock(self.now));
        let age_s = |as_of: Timestamp| source_now.duration_since(as_of).as_secs_f64().max(0.0);
        asset.last_contact = Some(self.contact_at(*seen_at));
        if let Some(point) = &word.point {
            asset.position = Some(point.position.clone());
            asset.as_of = Some(point.as_of);
            asset.age_s = Some(age_s(point.as_of));
            asset.last_good = Some(backup(point, None));
        }
        asset.last_verified = word.verified.as_ref().map(|verified| backup(&verified.point, Some(verified.at)));
        for (vault, copy) in &mut asset.vaults {
            if let Some(point) = word.vaults.get(vault) {
                copy.as_of = Some(point.as_of);
                copy.age_s = Some(age_s(point.as_of));
            }
        }
    }

    fn contact_at(&self, seen_at: Timestamp) -> ContactView {
        ContactView { seen_at, age_s: self.now.duration_since(seen_at).as_secs_f64().max(0.0) }
    }
}

#[cfg(test)]
mod tests {
    use levee_model::Position;

    use super::*;

    fn point(second: i64) -> AssetPoint {
        let at = Timestamp::from_second(second).unwrap();
        AssetPoint { position: Position::Snapshot { id: "5a".into(), taken_at: at }, as_of: at }
    }

    #[test]
    fn a_word_says_less_when_something_is_missing_and_not_when_it_is_older() {
        let at = Timestamp::from_second(50).unwrap();
        let full = Word {
            epoch: Epoch(1),
            point: Some(point(9)),
            verified: Some(VerifiedBackup { point: point(5), at }),
            vaults: BTreeMap::from([("far".parse().unwrap(), point(7))]),
        };
        let empty = Word { epoch: Epoch(1), point: None, verified: None, vaults: BTreeMap::new() };
        let check = |word: &Word, before: &Word, expected: bool| {
            assert_eq!(word.says_less_than(before), expected, "{word:?} after {before:?}");
        };
        check(&empty, &full, true);
        check(&full, &empty, false);
        check(&full, &full, false);
        check(&empty, &empty, false);
        check(&Word { point: None, ..full.clone() }, &full, true);
        check(&Word { verified: None, ..full.clone() }, &full, true);
        check(&Word { vaults: BTreeMap::new(), ..full.clone() }, &full, true);
        // A clock that was put right, or a copy that was found to be damaged: another one is named, and counts.
        check(&Word { point: Some(point(1)), ..full.clone() }, &full, false);
    }
}
