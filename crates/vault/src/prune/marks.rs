//! What earlier prunes have noted of packs that no index names.
//!
//! A mark may be forged: whoever may only add to a repository can add an index file with one. It must never have a pack
//! deleted earlier than a prune's own mark allows. So of several marks the latest counts, and marks beside packs, which no
//! prune writes and none would remove, mean nothing.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::Id;
use crate::index_file::IndexFile;
use crate::index_marks::{Marks, Unindexed, VERSION};

/// The marks of all index files together.
#[derive(Default)]
pub(super) struct KnownMarks {
    /// When a prune saw a pack unindexed first, by the mark that says the latest time.
    since: HashMap<Id, Timestamp>,
    has_leaving: bool,
    /// The index files that hold marks and nothing else.
    pub files: Vec<Id>,
}

impl KnownMarks {
    pub fn take(&mut self, file: &Id, content: &IndexFile) {
        let Some(marks) = content.marks.as_ref().filter(|marks| marks.version == VERSION) else { return };
        if !content.packs.is_empty() {
            return;
        }
        self.files.push(*file);
        self.has_leaving |= !marks.leaving.is_empty();
        for Unindexed { since, packs } in &marks.unindexed {
            for pack in packs {
                let known = self.since.entry(*pack).or_insert(*since);
                *known = (*known).max(*since);
            }
        }
    }

    /// Takes in that this prune has marked packs as leaving.
    pub fn note_leaving(&mut self, file: Id) {
        self.files.push(file);
        self.has_leaving = true;
    }

    /// Forgets when a pack was first seen unindexed: it was in an index since.
    pub fn forget(&mut self, pack: &Id) {
        self.since.remove(pack);
    }

    fn since(&self, pack: &Id, now: Timestamp) -> Timestamp {
        // A mark from the future is of a clock that was wrong; the grace begins now.
        self.since.get(pack).copied().filter(|since| *since <= now).unwrap_or(now)
    }

    /// Which of these packs have waited for the time of grace, and since when the others wait.
    pub fn split_due(
        &self,
        unindexed: &[Id],
        grace: SignedDuration,
        now: Timestamp,
    ) -> (Vec<Id>, Vec<(Id, Timestamp)>) {
        let (mut due, mut waiting) = (Vec::new(), Vec::new());
        for pack in unindexed {
            let since = self.since(pack, now);
            if now.duration_since(since) >= grace { due.push(*pack) } else { waiting.push((*pack, since)) }
        }
        (due, waiting)
    }

    /// What the marks ought to say; `None` when that is what they say already.
    pub fn wanted(&self, unindexed: &[Id], now: Timestamp) -> Option<Marks> {
        let same = !self.has_leaving
            && self.since.len() == unindexed.len()
            && unindexed.iter().all(|pack| self.since.get(pack).is_some_and(|since| *since <= now))
            && self.files.len() <= 1;
        if same {
            return None;
        }
        let mut by_time: Vec<Unindexed> = Vec::new();
        let mut all: Vec<(Timestamp, Id)> = unindexed.iter().map(|pack| (self.since(pack, now), *pack)).collect();
        all.sort_unstable();
        for (since, pack) in all {
            match by_time.last_mut() {
                Some(last) if last.since == since => last.packs.push(pack),
                _ => by_time.push(Unindexed { since, packs: vec![pack] }),
            }
        }
        Some(Marks { version: VERSION, leaving: Vec::new(), unindexed: by_time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index_file::Packs;

    #[test]
    fn no_forged_mark_makes_a_pack_due_earlier() {
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let hours = SignedDuration::from_hours;
        let pack = Id::of(b"pack");
        let file = |since: Timestamp, packs: Packs| {
            let unindexed = vec![Unindexed { since, packs: vec![pack] }];
            let marks = Marks { version: VERSION, leaving: Vec::new(), unindexed };
            IndexFile { packs, marks: Some(marks), ..IndexFile::default() }
        };
        let own = file(now - hours(2), Vec::new());
        let check = |forged: &IndexFile, files: usize| {
            for order in [[&own, forged], [forged, &own]] {
                let mut known = KnownMarks::default();
                for (number, content) in order.into_iter().enumerate() {
                    known.take(&Id::of(&[number as u8]), content);
                }
                assert_eq!(known.split_due(&[pack], hours(24), now).1, [(pack, now - hours(2))]);
                assert_eq!(known.files.len(), files);
            }
        };
        // One that stands alone goes with the prune's own.
        check(&file(Timestamp::UNIX_EPOCH, Vec::new()), 2);
        check(&file(Timestamp::UNIX_EPOCH, vec![(Id::of(b"other"), Vec::new())]), 1);
    }

    #[test]
    fn packs_are_due_after_the_grace_and_never_by_a_mark_from_the_future() {
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let hours = SignedDuration::from_hours;
        let packs: Vec<Id> = (0..4_u8).map(|number| Id::from_bytes([number; 32])).collect();
        let since = [now - hours(25), now - hours(23), now + hours(2)];
        let unindexed = since.iter().zip(&packs).map(|(since, pack)| Unindexed { since: *since, packs: vec![*pack] });
        let marks = Marks { version: VERSION, leaving: Vec::new(), unindexed: unindexed.collect() };
        let file = IndexFile { marks: Some(marks), ..IndexFile::default() };
        let mut known = KnownMarks::default();
        known.take(&Id::of(b"file"), &file);
        let (due, waiting) = known.split_due(&packs, hours(24), now);
        assert_eq!(due, packs[..1]);
        assert_eq!(waiting, [(packs[1], since[1]), (packs[2], now), (packs[3], now)]);
        assert_eq!(known.split_due(&packs, hours(0), now).0, packs);
        let wanted = known.wanted(&packs, now).unwrap();
        assert_eq!(wanted.unindexed.len(), 3);
        assert_eq!(known.wanted(&packs[..2], now).unwrap().unindexed.len(), 2);
        known.forget(&packs[2]);
        assert_eq!(known.wanted(&packs[..2], now), None);
    }
}
