//! Who sent which snapshot, and when it came: what retention counts by.
//!
//! ```text
//! SNAPSHOT AGENT TIME     one line for each, as this site authenticated the sender
//! ```
//! Times and names inside a snapshot are the writer's word. A line that a crash has cut off is passed over; for a
//! snapshot without one the time of its file counts, and an unknown writer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use levee_model::AgentId;
use levee_store::{Error, FileType, LocalStore, Result, Store};
use levee_vault::forget::Arrival;
use levee_vault::{SnapshotId, Vault};

use crate::durable;

/// More lines than this of snapshots that are gone, and the file is written anew.
const GONE_LINES_MAX: usize = 1000;

/// The record of one repository.
pub struct Arrivals {
    path: PathBuf,
    /// Read at first use. Held while a line is added, so that lines do not mix.
    known: Mutex<Option<BTreeMap<SnapshotId, (AgentId, Timestamp)>>>,
}

impl Arrivals {
    pub fn new(path: PathBuf) -> Self {
        Self { path, known: Mutex::default() }
    }

    fn with_known<T>(
        &self,
        work: impl FnOnce(&mut BTreeMap<SnapshotId, (AgentId, Timestamp)>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match &mut *known {
            Some(known) => known,
            None => known.insert(self.read()?),
        };
        work(known)
    }

    fn read(&self) -> io::Result<BTreeMap<SnapshotId, (AgentId, Timestamp)>> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut known = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            let parsed = (|| {
                let id = words.next()?.parse().ok()?;
                Some((id, (AgentId::new(words.next()?).ok()?, words.next()?.parse().ok()?)))
            })();
            if let Some((id, arrival)) = parsed {
                // What came first is when it came.
                known.entry(id).or_insert(arrival);
            }
        }
        Ok(known)
    }

    /// Notes a snapshot that has just become durable. Not synced: without its line the time of the file counts, which
    /// is the same.
    fn note(&self, id: SnapshotId, from: &AgentId, at: Timestamp) -> io::Result<()> {
        self.with_known(|known| {
            if known.contains_key(&id) {
                return Ok(());
            }
            std::fs::create_dir_all(self.path.parent().unwrap_or(&self.path))?;
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
            // Begins with an end of line, in case a crash has cut the last one off.
            file.write_all(format!("\n{id} {from} {at}").as_bytes())?;
            known.insert(id, (from.clone(), at));
            Ok(())
        })
    }

    /// When each snapshot that is there came, and from whom.
    pub fn of(&self, store: &LocalStore) -> Result<Vec<Arrival>> {
        let files = store.received(FileType::Snapshot)?;
        let arrivals = self.with_known(|known| {
            let arrivals: Vec<Arrival> = files
                .iter()
                .filter_map(|file| {
                    let id: SnapshotId = file.name.parse().ok()?;
                    let (writer, received_at) = match known.get(&id) {
                        Some((agent, at)) => (agent.to_string(), *at),
                        None => (String::new(), file.received_at),
                    };
                    Some(Arrival { id, received_at, writer })
                })
                .collect();
            let there: BTreeSet<SnapshotId> = arrivals.iter().map(|arrival| arrival.id).collect();
            if known.len() > there.len() + GONE_LINES_MAX {
                known.retain(|id, _| there.contains(id));
                let lines = known.iter().map(|(id, (agent, at))| format!("\n{id} {agent} {at}"));
                durable::write(&self.path, lines.collect::<String>().as_bytes())?;
            }
            Ok(arrivals)
        });
        arrivals.map_err(|source| Error::Io {
            location: self.path.display().to_string(),
            action: "read",
            file_type: FileType::Snapshot,
            name: String::new(),
            source,
        })
    }
}

/// The repository as one authenticated writer uses it.
pub struct ReceivingStore {
    pub store: LocalStore,
    /// The same, opened with this site's own key. Without it nothing is taken in that it would have to be looked at for.
    pub vault: Option<Vault>,
    pub arrivals: std::sync::Arc<Arrivals>,
    pub from: AgentId,
}

impl Store for ReceivingStore {
    levee_store::forward!(store: create, write_tree_pack, read, read_range, size_bytes, list, remove, location);

    fn write(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        self.look_at(file_type, name, content)?;
        self.store.write(file_type, name, content)?;
        if let (FileType::Snapshot, Ok(id)) = (file_type, name.parse())
            && let Err(error) = self.arrivals.note(id, &self.from, Timestamp::now())
        {
            tracing::warn!(snapshot = name, %error, "who sent a snapshot could not be noted; the time of its file counts");
        }
        Ok(())
    }
}

impl ReceivingStore {
    /// Refuses what this site can't read, and what only its own prunes may say.
    fn look_at(&self, file_type: FileType, name: &str, content: &[u8]) -> Result<()> {
        let (location, action, name) = (self.location(), "store", name.to_string());
        match &self.vault {
            Some(vault) => vault.look_at_received(file_type, content).map_err(|reason| {
                tracing::warn!(from = %self.from, %file_type, name, reason, "a file was refused");
                Error::Denied { location, action, file_type, name, reason }
            }),
            None if file_type == FileType::Data => Ok(()),
            None => {
                let reason = "the repository can't be opened at this site".to_string();
                Err(Error::Unreachable { location, action, file_type, name, reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::Arc;

    use levee_vault::{Chunking, NodeMeta, Password, SnapshotOptions, SnapshotWriter};

    /// The files of snapshots that have not come yet.
    fn snapshots(vault: &Vault, store: &LocalStore) -> [Vec<u8>; 3] {
        [1, 2, 3].map(|mode| {
            let mut writer = SnapshotWriter::begin(vault, SnapshotOptions::default()).unwrap();
            let meta = NodeMeta::new(mode, Timestamp::UNIX_EPOCH);
            writer.file(Path::new("file"), &meta, &mut &b"content"[..], Chunking::Content).unwrap();
            let id = writer.finish().unwrap().snapshot_id.unwrap();
            let content = store.read(FileType::Snapshot, &id.to_string()).unwrap();
            vault.remove_snapshot(&id).unwrap();
            content
        })
    }

    #[test]
    fn the_first_arrival_counts_and_outlives_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path().join("repository"));
        let vault = Vault::init(Arc::new(store.clone()), &Password::new("password")).unwrap();
        let [one, two, three] = snapshots(&vault, &store);
        let path = dir.path().join("arrivals");
        let (east, west) = ("e1".parse::<AgentId>().unwrap(), "w1".parse::<AgentId>().unwrap());
        let send = |from: &AgentId, content: &[u8]| {
            let arrivals = Arc::new(Arrivals::new(path.clone()));
            let vault = Some(vault.clone());
            let receiving = ReceivingStore { store: store.clone(), vault, arrivals, from: from.clone() };
            receiving.write(FileType::Snapshot, &levee_store::content_name(content), content)
        };
        send(&east, &one).unwrap();
        let first = Arrivals::new(path.clone()).of(&store).unwrap();
        assert_eq!((first.len(), first[0].writer.as_str()), (1, "e1"));
        // Sent again by another, it is still the first one's.
        send(&west, &one).unwrap();
        assert_eq!(Arrivals::new(path.clone()).of(&store).unwrap(), first);
        // A crash in the middle of a line, and a snapshot that was never noted.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"\n0123456789abcdef0123").unwrap();
        store.write(FileType::Snapshot, &levee_store::content_name(&two), &two).unwrap();
        send(&west, &three).unwrap();
        // What opens with no key is not taken in at all.
        assert!(matches!(send(&west, b"junk"), Err(Error::Denied { .. })));
        let mut writers: Vec<String> =
            Arrivals::new(path.clone()).of(&store).unwrap().into_iter().map(|arrival| arrival.writer).collect();
        writers.sort();
        assert_eq!(writers, ["", "e1", "w1"]);
    }
}
