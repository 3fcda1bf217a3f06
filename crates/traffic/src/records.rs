use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hickory_proto::rr::{LowerName, Name};
use levee_model::Epoch;
use levee_model::control::EntryRecord;

use crate::TrafficError;

/// What became of a record that was handed to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// It is answered from now on, and durable where the node keeps a file.
    Accepted,
    /// It was already so.
    Known,
    /// A higher epoch or version is known, or the same at another site: the epoch that stands is given.
    Stale { known: Epoch },
    /// The name already belongs to another app, whose epochs cannot be compared with this one's.
    Foreign,
}

pub(crate) type RecordMap = BTreeMap<LowerName, EntryRecord>;

/// The records of a DNS node: one for each name, the highest epoch wins, then the highest version. A name that was given
/// up keeps its record, so that nobody who has not heard of it brings the old one back. Clones share one state.
///
/// A change is durable before it is answered. The calls that change something write a file and sync
/// it, which takes some milliseconds.
#[derive(Clone, Debug)]
pub struct Records {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: Option<PathBuf>,
    /// Held while a change is decided, written and put in place, so that changes come one at a time.
    changing: Mutex<()>,
    /// What is answered. Held only to copy or replace the pointer.
    current: RwLock<Arc<RecordMap>>,
}

impl Records {
    /// Records that live as long as the process.
    pub fn in_memory() -> Self {
        Self::with(None, RecordMap::new())
    }

    /// Records that are kept in a JSON file; a file that does not exist is an empty one. Its folder
    /// must exist.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, TrafficError> {
        let path = path.into();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::with(Some(path), RecordMap::new()));
            }
            Err(source) => return Err(TrafficError::File { doing: "read", path, source }),
        };
        let records: Vec<EntryRecord> =
            serde_json::from_slice(&text).map_err(|source| TrafficError::Damaged { path: path.clone(), source })?;
        let mut map = RecordMap::new();
        for record in records {
            let (name, record) = normalised(record)?;
            map.insert(name, record);
        }
        Ok(Self::with(Some(path), map))
    }

    fn with(file: Option<PathBuf>, map: RecordMap) -> Self {
        Self { shared: Arc::new(Shared { file, changing: Mutex::default(), current: RwLock::new(Arc::new(map)) }) }
    }

    /// Takes a record from the server. At an equal epoch the site must be the same; its address and
    /// time to live may have been changed by the operator, and replace the old ones.
    pub fn update(&self, record: EntryRecord) -> Result<Update, TrafficError> {
        let (name, record) = normalised(record)?;
        self.change(|map| {
            let update = compare(map.get(&name), &record);
            if update == Update::Accepted {
                map.insert(name, record);
            }
            update
        })
    }

    /// Takes what another node answers. Only what is strictly newer replaces anything here, so that
    /// nodes that exchange records come to rest. Gives the number of records that were new.
    pub fn merge(&self, records: Vec<EntryRecord>) -> Result<usize, TrafficError> {
        let records = records.into_iter().map(normalised).collect::<Result<Vec<_>, _>>()?;
        self.change(|map| {
            let mut accepted = 0;
            for (name, record) in records {
                let newer = match map.get(&name) {
                    Some(known) if known.app != record.app => takes_over(known, &record),
                    Some(known) => age(known) < age(&record),
                    None => true,
                };
                if newer {
                    map.insert(name, record);
                    accepted += 1;
                }
            }
            accepted
        })
    }

    /// Every record, by name.
    pub fn snapshot(&self) -> Vec<EntryRecord> {
        self.current().values().cloned().collect()
    }

    /// The epoch of each name, as the node reports it to the server: what is in here is answered.
    pub fn confirmed_epochs(&self) -> BTreeMap<String, Epoch> {
        self.current().values().map(|record| (record.name.clone(), record.epoch)).collect()
    }

    pub(crate) fn current(&self) -> Arc<RecordMap> {
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut RecordMap) -> T) -> Result<T, TrafficError> {
        let _one_at_a_time = self.shared.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current();
        let mut after = RecordMap::clone(&before);
        let result = change(&mut after);
        if after != *before {
            if let Some(path) = &self.shared.file {
                write_durably(path, &after).map_err(|source| TrafficError::File {
                    doing: "write",
                    path: path.clone(),
                    source,
                })?;
            }
            *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        }
        Ok(result)
    }
}

fn compare(known: Option<&EntryRecord>, record: &EntryRecord) -> Update {
    match known {
        None => Update::Accepted,
        Some(known) if known.app != record.app && takes_over(known, record) => Update::Accepted,
        Some(known) if known.app != record.app => Update::Foreign,
        Some(known) if known == record => Update::Known,
        Some(known) if age(known) < age(record) => Update::Accepted,
        Some(known) if age(known) == age(record) && known.site == record.site => Update::Accepted,
        Some(known) => Update::Stale { known: known.epoch },
    }
}

fn age(record: &EntryRecord) -> (Epoch, u64) {
    (record.epoch, record.version)
}

/// A name that one app has given up may be another's.
fn takes_over(known: &EntryRecord, record: &EntryRecord) -> bool {
    known.address.is_none() && record.address.is_some()
}

/// The record with its name in lower case and with the final dot, and that name to look it up by.
fn normalised(mut record: EntryRecord) -> Result<(LowerName, EntryRecord), TrafficError> {
    let mut name = Name::from_ascii(&record.name)
        .map_err(|source| TrafficError::Name { name: record.name.chars().take(300).collect(), source })?;
    name.set_fqdn(true);
    let name = LowerName::new(&name);
    record.name = name.to_string();
    Ok((name, record))
}

fn write_durably(path: &Path, map: &RecordMap) -> std::io::Result<()> {
    let text = serde_json::to_vec_pretty(&map.values().collect::<Vec<_>>())?;
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(app: &str, name: &str, epoch: u64, site: &str, last: u8) -> EntryRecord {
        EntryRecord {
            app: app.parse().unwrap(),
            name: name.into(),
            ttl_s: 1,
            epoch: Epoch(epoch),
            version: 0,
            site: site.parse().unwrap(),
            address: Some([127, 0, 0, last].into()),
            signature: String::new(),
        }
    }

    fn given_up(record: EntryRecord) -> EntryRecord {
        EntryRecord { version: record.version + 1, address: None, ..record }
    }

    #[test]
    fn a_name_that_was_given_up_stays_so_until_something_newer_comes() {
        let live = record("shop", "shop.test.", 5, "west", 3);
        let records = Records::in_memory();
        records.update(live.clone()).unwrap();
        assert_eq!(records.merge(vec![given_up(live.clone())]).unwrap(), 1);
        // Somebody who has not heard of it yet.
        assert_eq!(records.merge(vec![live.clone()]).unwrap(), 0);
        assert_eq!(records.update(live.clone()).unwrap(), Update::Stale { known: Epoch(5) });
        // The app's own, later; and another app, that has the name now.
        for next in [EntryRecord { version: 2, ..live.clone() }, record("other", "shop.test.", 1, "east", 2)] {
            for by_server in [true, false] {
                let records = Records::in_memory();
                records.update(given_up(live.clone())).unwrap();
                if by_server {
                    assert_eq!(records.update(next.clone()).unwrap(), Update::Accepted);
                } else {
                    assert_eq!(records.merge(vec![next.clone()]).unwrap(), 1);
                }
                // What was given up does not come back over it.
                assert_eq!(records.merge(vec![given_up(live.clone()), live.clone()]).unwrap(), 0);
                assert_eq!(records.snapshot(), std::slice::from_ref(&next));
            }
        }
    }

    #[test]
    fn the_highest_epoch_wins() {
        let check = |next: EntryRecord, updated: Update, merged: usize| {
            let known = record("shop", "shop.test.", 5, "west", 3);
            let by_server = Records::in_memory();
            by_server.update(known.clone()).unwrap();
            assert_eq!(by_server.update(next.clone()).unwrap(), updated, "{next:?}");
            let accepted = by_server.snapshot() == [next.clone()];
            assert_eq!(accepted, matches!(updated, Update::Accepted | Update::Known));

            let by_node = Records::in_memory();
            by_node.update(known).unwrap();
            assert_eq!(by_node.merge(vec![next.clone()]).unwrap(), merged, "{next:?}");
        };
        check(record("shop", "shop.test.", 6, "east", 2), Update::Accepted, 1);
        check(record("shop", "shop.test.", 4, "east", 2), Update::Stale { known: Epoch(5) }, 0);
        check(record("shop", "shop.test.", 5, "west", 3), Update::Known, 0);
        check(record("shop", "shop.test.", 5, "west", 9), Update::Accepted, 0);
        check(record("shop", "shop.test.", 5, "east", 2), Update::Stale { known: Epoch(5) }, 0);
        check(record("other", "shop.test.", 9, "east", 2), Update::Foreign, 0);
    }

    #[test]
    fn records_survive_a_restart_and_names_are_normalised() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries.json");
        let records = Records::open(&path).unwrap();
        records.update(record("shop", "Shop.TEST", 1, "east", 2)).unwrap();
        let merged = records
            .merge(vec![record("shop", "shop.test.", 2, "west", 3), record("api", "api.test.", 1, "west", 3)])
            .unwrap();
        assert_eq!(merged, 2);
        let again = Records::open(&path).unwrap();
        assert_eq!(again.snapshot(), records.snapshot());
        let epochs: Vec<_> = again.confirmed_epochs().into_iter().collect();
        assert_eq!(epochs, [("api.test.".to_string(), Epoch(1)), ("shop.test.".to_string(), Epoch(2))]);
    }

    #[test]
    fn what_cannot_be_written_is_not_answered() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("gone");
        std::fs::create_dir(&inside).unwrap();
        let records = Records::open(inside.join("entries.json")).unwrap();
        std::fs::remove_dir(&inside).unwrap();
        let error = records.update(record("shop", "shop.test.", 1, "east", 2)).unwrap_err();
        assert!(error.to_string().contains("entries.json"), "{error}");
        assert!(records.snapshot().is_empty());
    }

    #[test]
    fn bad_names_and_damaged_files_are_named() {
        let records = Records::in_memory();
        let error = records.update(record("shop", "shop..test.", 1, "east", 2)).unwrap_err();
        assert!(matches!(error, TrafficError::Name { .. }), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries.json");
        std::fs::write(&path, "[{").unwrap();
        let error = Records::open(&path).unwrap_err();
        assert!(matches!(error, TrafficError::Damaged { .. }), "{error}");
    }
}
