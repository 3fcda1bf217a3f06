//! Which of an agent's words are kept beyond the life of this process, and when they are written. No clock of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_model::control::{AgentStatus, Role};
use levee_model::{AppName, AssetName};

use crate::contact::{Contact, Word};

/// A database's newest point moves with every word, once a second. Written no more often than this, all the assets of
/// an agent cost one durable transaction of the state in this time, half of what the samples of their ages cost. A
/// server that is killed forgets no more than this of them.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// A word that says nothing new is written for its moment alone, which nobody needs to the second.
const SEEN_EVERY: Duration = Duration::from_secs(60);

/// An agent that has just started says that nothing is there until it has opened and listed its copies, which for a
/// large repository takes minutes. Until then its words may not take back what it said before it ended.
const SETTLED_AFTER: Duration = Duration::from_secs(300);

/// The words of one connection.
pub struct Words {
    since: Instant,
    wrote_at: Option<Instant>,
    latest: Vec<Contact>,
    written: BTreeMap<(AppName, AssetName), Written>,
}

struct Written {
    at: Instant,
    seen_at: Timestamp,
    word: Word,
}

/// What is to be written now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    pub contacts: Vec<Contact>,
    /// Whether the agent has been there for long enough to know what it has.
    pub is_settled: bool,
}

impl Words {
    pub fn new(now: Instant) -> Self {
        Self { since: now, wrote_at: None, latest: Vec::new(), written: BTreeMap::new() }
    }

    /// Takes in a status that came at `seen_at`.
    pub fn hear(&mut self, status: &AgentStatus, seen_at: Timestamp, now: Instant) -> Due {
        // A writer's word on what is kept elsewhere is none.
        let kept_here = status.assets.iter().filter(|asset| asset.role == Role::Recovery);
        self.latest = kept_here.map(|asset| Contact::new(&status.agent, asset, seen_at)).collect();
        if self.wrote_at.is_some_and(|at| now.saturating_duration_since(at) < WRITE_EVERY) {
            return Due::default();
        }
        let is_due = |contact: &Contact, known: Option<&Written>| {
            known
                .is_none_or(|known| known.word != contact.word || now.saturating_duration_since(known.at) >= SEEN_EVERY)
        };
        self.take(now, is_due)
    }

    /// What was said last and is not written yet, when the agent has gone.
    pub fn rest(&mut self, now: Instant) -> Due {
        self.take(now, |contact, known| known.is_none_or(|known| known.seen_at != contact.seen_at))
    }

    fn take(&mut self, now: Instant, is_due: impl Fn(&Contact, Option<&Written>) -> bool) -> Due {
        let key = |contact: &Contact| (contact.app.clone(), contact.asset.clone());
        let due = self.latest.iter().filter(|contact| is_due(contact, self.written.get(&key(contact))));
        let contacts: Vec<Contact> = due.cloned().collect();
        if contacts.is_empty() {
            return Due::default();
        }
        self.wrote_at = Some(now);
        for contact in &contacts {
            let written = Written { at: now, seen_at: contact.seen_at, word: contact.word.clone() };
            self.written.insert(key(contact), written);
        }
        // No more is remembered than the agent speaks of.
        let known: BTreeSet<(AppName, AssetName)> = self.latest.iter().map(key).collect();
        self.written.retain(|names, _| known.contains(names));
        Due { contacts, is_settled: now.saturating_duration_since(self.since) >= SETTLED_AFTER }
    }
}

#[cfg(test)]
mod tests {
    use levee_model::control::{AssetPoint, AssetState, AssetStatus};
    use levee_model::{Epoch, Position};

    use super::*;

    /// An agent that is listened to, second by second.
    struct Scene {
        words: Words,
        begun: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let begun = Instant::now();
            Self { words: Words::new(begun), begun }
        }

        fn moment(&self, second: u64) -> Instant {
            self.begun + Duration::from_secs(second)
        }

        /// The agent names assets with the second at which the newest copy of each was taken. The names of those that
        /// are written, and whether the agent is settled.
        fn hear(&mut self, second: u64, points: &[(&str, Role, i64)]) -> (Vec<String>, bool) {
            let asset = |(asset, role, point_s): &(&str, Role, i64)| {
                let as_of = Timestamp::from_second(*point_s).unwrap();
                let position = Position::Snapshot { id: "5a".into(), taken_at: as_of };
                AssetStatus {
                    app: "shop".parse().unwrap(),
                    asset: asset.parse().unwrap(),
                    role: *role,
                    epoch: Epoch(1),
                    state: AssetState::Protected,
                    point: Some(AssetPoint { position, as_of }),
                    source_lsn: None,
                    problem: None,
                    notes: Vec::new(),
                    verified: None,
                    waiting: None,
                    warned_since: None,
                    gaps: Vec::new(),
                    vaults: BTreeMap::new(),
                }
            };
            let seen_at = Timestamp::from_second(i64::try_from(second).unwrap()).unwrap();
            let status = AgentStatus {
                agent: "west-1".parse().unwrap(),
                site: "west".parse().unwrap(),
                wire: "127.0.0.1:1".parse().unwrap(),
                store: "127.0.0.1:2".parse().unwrap(),
                dns: None,
                version: "test".into(),
                now: seen_at,
                revision: 1,
                assets: points.iter().map(asset).collect(),
                entries: BTreeMap::new(),
                known: BTreeMap::new(),
                released: BTreeMap::new(),
            };
            let now = self.moment(second);
            named(self.words.hear(&status, seen_at, now))
        }

        fn rest(&mut self, second: u64) -> (Vec<String>, bool) {
            let now = self.moment(second);
            named(self.words.rest(now))
        }
    }

    fn named(due: Due) -> (Vec<String>, bool) {
        (due.contacts.iter().map(|contact| contact.asset.to_string()).collect(), due.is_settled)
    }

    fn written(names: &[&str]) -> (Vec<String>, bool) {
        (names.iter().map(|name| name.to_string()).collect(), false)
    }

    #[test]
    fn what_moves_each_second_is_written_every_ten() {
        let mut scene = Scene::new();
        let seconds: Vec<u64> = (0..45)
            .filter(|second| {
                let point_s = i64::try_from(*second).unwrap();
                let (names, _) = scene.hear(*second, &[("orders", Role::Recovery, point_s)]);
                !names.is_empty()
            })
            .collect();
        assert_eq!(seconds, [0, 10, 20, 30, 40]);
    }

    #[test]
    fn what_stands_still_is_written_for_its_moment_alone_and_what_comes_then_at_once() {
        let mut scene = Scene::new();
        let still = |point_s: i64| [("orders", Role::Recovery, point_s), ("documents", Role::Recovery, 5)];
        assert_eq!(scene.hear(0, &still(5)), written(&["orders", "documents"]));
        for second in 1..30 {
            assert_eq!(scene.hear(second, &still(5)), written(&[]), "at {second}");
        }
        assert_eq!(scene.hear(30, &still(30)), written(&["orders"]));
        assert_eq!(scene.hear(59, &still(30)), written(&[]));
        assert_eq!(scene.hear(60, &still(30)), written(&["documents"]));
        assert_eq!(scene.hear(90, &still(30)), written(&["orders"]));
    }

    #[test]
    fn the_last_word_is_written_when_the_agent_has_gone() {
        let mut scene = Scene::new();
        assert_eq!(scene.rest(0), written(&[]));
        assert_eq!(scene.hear(0, &[("orders", Role::Recovery, 0)]), written(&["orders"]));
        assert_eq!(scene.rest(1), written(&[]));
        assert_eq!(scene.hear(3, &[("orders", Role::Recovery, 3)]), written(&[]));
        assert_eq!(scene.rest(4), written(&["orders"]));
        assert_eq!(scene.rest(5), written(&[]));
    }

    #[test]
    fn a_writer_has_no_word_on_copies_and_an_agent_settles() {
        let mut scene = Scene::new();
        assert_eq!(scene.hear(0, &[("orders", Role::Writer, 0)]), written(&[]));
        assert_eq!(scene.hear(299, &[("orders", Role::Recovery, 0)]), written(&["orders"]));
        assert_eq!(scene.hear(310, &[("orders", Role::Recovery, 1)]), (vec!["orders".to_string()], true));
    }
}
