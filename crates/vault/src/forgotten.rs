//! What is kept of forgotten snapshots, so that they can be brought back while their data stand.
//!
//! Records stand in index files that name no pack, in a field of Levee's own, as the marks of a prune do (see
//! `index_marks`). A record holds the snapshot's file as it stood in the store: brought back, it has its old name.
//! When restic writes the indexes anew, the records go, and with them the way back; nothing else is lost by it.
//!
//! A record may be forged: whoever may only add to a repository can add an index file with one. It must never end the way
//! back of a true one. So a record without the file that it is of means nothing, and of several records of a snapshot
//! each time is the one that keeps them the longest. What stands beside packs no Levee has written.
//!
//! ```json
//! {"packs":[],"levee_forgotten":{"version":1,"snapshots":[{"id":"SNAPSHOT","forgotten":"TIME","pruned":"TIME","file":"BASE64"}]}}
//! ```

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use levee_store::FileType;
use serde::{Deserialize, Serialize};

use crate::index_file::{self, IndexFile};
use crate::{Id, Result, Snapshot, SnapshotId, Vault};

/// Records of a later version are passed over: what they say may mean something else.
const VERSION: u32 = 1;
/// Some megabytes of index file.
const RECORDS_PER_FILE: usize = 4000;

/// The records of one index file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forgotten {
    version: u32,
    snapshots: Vec<Record>,
}

/// One forgotten snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: Id,
    #[serde(with = "crate::file_time::as_timestamp")]
    pub forgotten: Timestamp,
    /// The first prune since: what it takes out of the index is deleted a grace later at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<Timestamp>,
    /// Base64 of the snapshot's file.
    file: String,
}

impl Record {
    /// Takes a snapshot down that is about to be removed.
    pub fn of(vault: &Vault, id: &SnapshotId, now: Timestamp) -> Result<Self> {
        let sealed = vault.store().read(FileType::Snapshot, &id.0.to_hex())?;
        Ok(Self { id: id.0, forgotten: now, pruned: None, file: STANDARD.encode(sealed) })
    }

    /// The snapshot's file as it stood in the store, and what it says.
    pub fn open(&self, vault: &Vault) -> Result<(Vec<u8>, Snapshot)> {
        let damaged = |reason: &str| vault.damaged(FileType::Snapshot, &self.id.to_hex(), reason);
        let sealed = STANDARD.decode(&self.file).map_err(|_| damaged("its record is not the base64 of a file"))?;
        if Id::of(&sealed) != self.id {
            return Err(damaged("its record does not have the hash that is its name"));
        }
        let json = vault.open_file(FileType::Snapshot, &self.id, sealed.clone())?;
        let snapshot =
            serde_json::from_slice(&json).map_err(|_| damaged("its record is not the JSON of a snapshot"))?;
        Ok((sealed, snapshot))
    }

    /// Whether it has the snapshot's file, as far as its name tells.
    fn has_file(&self) -> bool {
        STANDARD.decode(&self.file).is_ok_and(|sealed| Id::of(&sealed) == self.id)
    }

    /// Puts two records of one snapshot together, so that neither shortens what the other grants.
    fn merge(&mut self, other: &Record) {
        // Forgotten, brought back, and forgotten again: the last time counts.
        self.forgotten = self.forgotten.max(other.forgotten);
        self.pruned = self.pruned.zip(other.pruned).map(|(one, two)| one.max(two));
    }

    /// Whether a prune may have deleted a part of the data by now.
    fn is_over(&self, grace: SignedDuration, now: Timestamp) -> bool {
        // A time from the future is of a clock that was wrong; the grace begins when it is there.
        self.pruned.is_some_and(|pruned| now.duration_since(pruned) >= grace)
    }
}

/// Stores records, each durable when it returns.
pub(crate) fn write(vault: &Vault, records: &[Record]) -> Result<Vec<Id>> {
    let file = |records: &[Record]| {
        let forgotten = Forgotten { version: VERSION, snapshots: records.to_vec() };
        vault.write_file_json(FileType::Index, &index_file::encode_forgotten(&forgotten)?)
    };
    records.chunks(RECORDS_PER_FILE).map(file).collect()
}

/// The records of all index files together.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownForgotten {
    records: BTreeMap<Id, Record>,
    /// The index files that hold records and nothing else.
    pub files: Vec<Id>,
    /// A record stands in several files.
    has_doubled: bool,
    /// There is a record that can bring nothing back.
    has_worthless: bool,
}

impl KnownForgotten {
    pub fn take(&mut self, file: &Id, content: &IndexFile) {
        let Some(forgotten) = content.forgotten.as_ref().filter(|forgotten| forgotten.version == VERSION) else {
            return;
        };
        if !content.packs.is_empty() || content.marks.is_some() {
            return;
        }
        self.files.push(*file);
        for record in &forgotten.snapshots {
            if !record.has_file() {
                self.has_worthless = true;
                continue;
            }
            match self.records.entry(record.id) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(record.clone());
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    self.has_doubled = true;
                    entry.get_mut().merge(record);
                }
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Whether there is a record of this snapshot.
    pub fn knows(&self, snapshot: &Id) -> bool {
        self.records.contains_key(snapshot)
    }

    /// What the records ought to be after a prune; `None` when that is what they are already.
    pub fn wanted(&self, is_there: impl Fn(&Id) -> bool, grace: SignedDuration, now: Timestamp) -> Option<Vec<Record>> {
        let stays = |record: &&Record| !record.is_over(grace, now) && !is_there(&record.id);
        let seen = |record: &Record| Record { pruned: Some(record.pruned.unwrap_or(now)), ..record.clone() };
        // With no grace the data may go in this very prune.
        let wanted: Vec<Record> =
            self.records.values().filter(stays).map(seen).filter(|record| !record.is_over(grace, now)).collect();
        let is_same = !self.has_doubled && !self.has_worthless && wanted.iter().eq(self.records.values());
        (!is_same).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u8, forgotten: Timestamp, pruned: Option<Timestamp>) -> Record {
        let file = [number];
        Record { id: Id::of(&file), forgotten, pruned, file: STANDARD.encode(file) }
    }

    #[test]
    fn records_have_these_bytes() {
        let time: Timestamp = "2026-11-26T01:02:03Z".parse().unwrap();
        let forgotten =
            Forgotten { version: VERSION, snapshots: vec![record(1, time, None), record(2, time, Some(time))] };
        let (one, two) = (Id::of(&[1]), Id::of(&[2]));
        let expected = format!(
            "{{\"packs\":[],\"levee_forgotten\":{{\"version\":1,\"snapshots\":[\
             {{\"id\":\"{one}\",\"forgotten\":\"2026-11-26T01:02:03Z\",\"file\":\"AQ==\"}},\
             {{\"id\":\"{two}\",\"forgotten\":\"2026-11-26T01:02:03Z\",\"pruned\":\"2026-11-26T01:02:03Z\",\"file\":\"Ag==\"}}]}}}}"
        );
        assert_eq!(String::from_utf8(index_file::encode_forgotten(&forgotten).unwrap()).unwrap(), expected);
        assert_eq!(index_file::decode(expected.as_bytes()).unwrap().forgotten, Some(forgotten));
    }

    #[test]
    fn records_go_a_grace_after_the_first_prune_that_saw_them() {
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().unwrap();
        let hours = SignedDuration::from_hours;
        let mut known = KnownForgotten::default();
        let records = vec![
            record(1, now - hours(90), None),
            record(2, now - hours(90), Some(now - hours(23))),
            record(3, now - hours(90), Some(now - hours(24))),
            record(4, now - hours(1), None),
        ];
        let forgotten = Some(Forgotten { version: VERSION, snapshots: records.clone() });
        known.take(&Id::of(b"file"), &IndexFile { forgotten, ..IndexFile::default() });
        let there = |id: &Id| *id == records[3].id;
        let wanted = known.wanted(there, hours(24), now).unwrap();
        assert_eq!(wanted, [record(1, now - hours(90), Some(now)), records[1].clone()]);
        assert_eq!(known.wanted(there, hours(0), now), Some(Vec::new()));
        let mut next = KnownForgotten::default();
        let forgotten = Some(Forgotten { version: VERSION, snapshots: wanted });
        next.take(&Id::of(b"next"), &IndexFile { forgotten, ..IndexFile::default() });
        assert_eq!(next.wanted(there, hours(24), now), None);
    }

    #[test]
    fn no_forged_record_ends_the_way_back_earlier() {
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().unwrap();
        let hours = SignedDuration::from_hours;
        let later: Timestamp = "9999-01-01T00:00:00Z".parse().unwrap();
        let file = |records: Vec<Record>, packs: index_file::Packs| {
            let forgotten = Some(Forgotten { version: VERSION, snapshots: records });
            IndexFile { packs, forgotten, ..IndexFile::default() }
        };
        let own = record(1, now - hours(90), Some(now - hours(2)));
        let over = record(1, later, Some(now - hours(9000)));
        let check = |forged: &IndexFile, of_the_own: bool| {
            let own_file = file(vec![own.clone()], Vec::new());
            for order in [[&own_file, forged], [forged, &own_file]] {
                let mut known = KnownForgotten::default();
                for (number, content) in order.into_iter().enumerate() {
                    known.take(&Id::of(&[number as u8]), content);
                }
                let wanted = known.wanted(|_| false, hours(24), now);
                let kept = wanted.unwrap_or_else(|| known.iter().cloned().collect());
                assert_eq!(kept.len(), 1);
                assert_eq!((kept[0].pruned, &kept[0].file), (own.pruned, &own.file));
                assert_eq!(kept[0].forgotten == own.forgotten, of_the_own);
            }
        };
        check(&file(vec![over.clone()], Vec::new()), false);
        check(&file(vec![Record { file: "eA==".into(), ..over.clone() }], Vec::new()), true);
        check(&file(vec![Record { file: "no base64".into(), ..over.clone() }], Vec::new()), true);
        check(&file(vec![over], vec![(Id::of(b"pack"), Vec::new())]), true);
    }
}
