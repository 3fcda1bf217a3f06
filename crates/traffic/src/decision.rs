use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use levee_model::control::EntryRecord;
use levee_model::{AppName, Epoch, SiteName};

/// Whether a node may hand out the address of a record that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Answer the address.
    Answer,
    /// Say SERVFAIL, so that a resolver asks the next node and caches nothing.
    Withhold,
}

/// What a node knows of the place it stands at: its own site, and which apps that site may write now.
///
/// The agent sets it from what it holds durably (its role, the epoch of its start gate); it needs
/// neither the server nor another node for that. Clones share one state.
///
/// A node with no site (the server's own) has no address of its own to be careful about, and answers
/// every record as last known.
#[derive(Clone, Debug, Default)]
pub struct SiteView {
    site: Option<SiteName>,
    /// The highest epoch at which this site may write each app. Read for every query and written by
    /// the agent, each for the length of a look-up.
    rights: Arc<RwLock<BTreeMap<AppName, Epoch>>>,
}

impl SiteView {
    /// A node at a site. Until `allow` is called the site may write nothing.
    pub fn at(site: SiteName) -> Self {
        Self { site: Some(site), rights: Arc::default() }
    }

    /// A node that stands at no protected site.
    pub fn without_site() -> Self {
        Self::default()
    }

    /// This site may write the app, up to and including this epoch.
    pub fn allow(&self, app: AppName, epoch: Epoch) {
        self.rights.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(app, epoch);
    }

    /// This site may not write the app any more: it has stopped, or a higher epoch is known.
    pub fn forbid(&self, app: &AppName) {
        self.rights.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(app);
    }

    /// Whether this site may write the app at this epoch.
    pub fn may_write(&self, app: &AppName, epoch: Epoch) -> bool {
        let rights = self.rights.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        rights.get(app).is_some_and(|highest| *highest >= epoch)
    }

    /// `decide` for this node.
    pub(crate) fn decide(&self, record: &EntryRecord) -> Decision {
        decide(self.site.as_ref(), record, self.may_write(&record.app, record.epoch))
    }
}

/// The rule for partitions: a node answers its *own* site's address only while that site may write
/// the app; every other address as last known.
///
/// It holds whether or not the node can reach anyone, so it needs no notion of being isolated: a node
/// that is cut off simply stops learning. A node cut off at the old writer's site thus goes on sending
/// its clients to that one writer, or to nobody once the writer was stopped, and never to two; a node
/// cut off anywhere else goes on with what it knew, and the loss of the server withdraws nothing.
///
/// `may_write` is whether the node's own site may write the record's app at the record's epoch.
pub fn decide(own_site: Option<&SiteName>, record: &EntryRecord, may_write: bool) -> Decision {
    match own_site {
        Some(own_site) if *own_site == record.site && !may_write => Decision::Withhold,
        _ => Decision::Answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(site: &str, epoch: u64) -> EntryRecord {
        EntryRecord {
            app: "shop".parse().unwrap(),
            name: "shop.test.".into(),
            ttl_s: 1,
            epoch: Epoch(epoch),
            version: 0,
            site: site.parse().unwrap(),
            address: Some([127, 0, 0, 2].into()),
            signature: String::new(),
        }
    }

    #[test]
    fn the_partition_rule() {
        use Decision::{Answer, Withhold};
        let east: SiteName = "east".parse().unwrap();
        let cases = [
            // node at, record's site, own site may write, expected
            (Some(&east), "east", true, Answer),
            (Some(&east), "east", false, Withhold),
            (Some(&east), "west", true, Answer),
            (Some(&east), "west", false, Answer),
            (None, "east", false, Answer),
            (None, "west", true, Answer),
        ];
        for (own, at, may_write, expected) in cases {
            assert_eq!(decide(own, &record(at, 1), may_write), expected, "{own:?} {at} {may_write}");
        }
    }

    #[test]
    fn a_right_to_write_covers_its_epoch_and_older_ones_only() {
        let view = SiteView::at("east".parse().unwrap());
        let shop: AppName = "shop".parse().unwrap();
        assert_eq!(view.decide(&record("east", 1)), Decision::Withhold);
        view.allow(shop.clone(), Epoch(3));
        // A record from before two changes of writer still names this site, which writes again.
        assert_eq!(view.decide(&record("east", 1)), Decision::Answer);
        assert_eq!(view.decide(&record("east", 3)), Decision::Answer);
        assert_eq!(view.decide(&record("east", 4)), Decision::Withhold);
        assert_eq!(view.decide(&record("west", 4)), Decision::Answer);
        view.forbid(&shop);
        assert_eq!(view.decide(&record("east", 3)), Decision::Withhold);
        assert!(!view.may_write(&"other".parse().unwrap(), Epoch(1)));
    }
}
