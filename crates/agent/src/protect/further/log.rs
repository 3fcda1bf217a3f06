//! A database's journal in a further vault: one snapshot of its folder, which a newer one replaces.
//!
//! Together with the base backups there it is enough to restore the database: bases are copied first, then the log that
//! reaches their ends, and an older snapshot goes only when the newer one has all of its log, but for what this site's
//! retention has removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;
use levee_journal::{FileToCopy, LogJournal, SegmentPlace};
use levee_model::control::Failure;
use levee_model::postgres::{SystemIdentifier, TimelineId};
use levee_vault::{
    Chunking, FileTime, Node, NodeKind, NodeMeta, SWAP_PATIENCE, SnapshotId, SnapshotOptions, SnapshotWriter, Vault,
};

use super::super::app::{failure, in_full};
use super::super::removals::TrimmedLog;

/// How often it is begun anew because log was trimmed on the way.
const ATTEMPTS_MAX: usize = 5;
/// As the journal itself has them: it is sealed, and the user of a database that is rebuilt reads it.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// Why a journal was not copied.
pub enum Trouble {
    /// With the vault.
    There(levee_vault::Error),
    Here(Failure),
}

impl From<levee_vault::Error> for Trouble {
    fn from(error: levee_vault::Error) -> Self {
        Self::There(error)
    }
}

/// What is to be copied, and how it is called.
pub struct LogCopy<'a> {
    pub journal: &'a LogJournal,
    pub host: &'a str,
    pub tag: String,
}

impl LogCopy<'_> {
    /// Copies the journal as it is now. Closed segments that the last copy has are taken over from there, unread.
    pub fn store(&self, vault: &Vault, before: Option<&SnapshotId>) -> Result<SnapshotId, Trouble> {
        let mut known: BTreeMap<PathBuf, Node> = BTreeMap::new();
        if let Some(before) = before {
            for entry in vault.list_tree(before)? {
                let (path, node) = entry?;
                known.insert(path, node);
            }
        }
        let mut attempts = 1;
        loop {
            match self.attempt(vault, before, &known) {
                Err(Attempt::Trimmed) if attempts < ATTEMPTS_MAX => attempts += 1,
                Err(Attempt::Trimmed) => {
                    let reason = "it was trimmed again and again meanwhile";
                    return Err(Trouble::Here(failure(format!("cannot copy the journal: {reason}"))));
                }
                Err(Attempt::Failed(trouble)) => return Err(trouble),
                Ok(stored) => return Ok(stored),
            }
        }
    }

    fn attempt(
        &self,
        vault: &Vault,
        before: Option<&SnapshotId>,
        known: &BTreeMap<PathBuf, Node>,
    ) -> Result<SnapshotId, Attempt> {
        let files = self.journal.files_to_copy()?;
        let mut writer = SnapshotWriter::begin(
            vault,
            SnapshotOptions {
                host: Some(self.host.into()),
                tags: vec![self.tag.clone()],
                paths: vec![self.journal.dir().to_path_buf()],
                parent: before.copied(),
                patience: SWAP_PATIENCE,
                ..SnapshotOptions::default()
            },
        )?;
        for mut file in files {
            let meta = NodeMeta::new(FILE_MODE, Timestamp::try_from(file.modified).unwrap_or(Timestamp::UNIX_EPOCH));
            if let Some(parent) = file.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                writer.directory(parent, &NodeMeta::new(FOLDER_MODE, Timestamp::UNIX_EPOCH))?;
            }
            let known = known.get(&file.path).filter(|node| is_same(&file, node, meta.mtime));
            if let Some(known) = known
                && writer.known_file(&file.path, known)?
            {
                continue;
            }
            let path = file.path.clone();
            let mut content = file.open()?;
            writer.file(&path, &meta, &mut content, Chunking::Content)?;
        }
        let summary = writer.finish()?;
        summary
            .snapshot_id
            .ok_or_else(|| Attempt::Failed(Trouble::Here(failure("cannot copy the journal: no snapshot came of it"))))
    }
}

/// How an attempt to copy a journal ended early.
enum Attempt {
    /// A file was trimmed between listing and reading it.
    Trimmed,
    Failed(Trouble),
}

impl From<levee_journal::Error> for Attempt {
    fn from(error: levee_journal::Error) -> Self {
        if error.is_not_found() {
            return Attempt::Trimmed;
        }
        Attempt::Failed(Trouble::Here(failure(format!("cannot copy the journal: {}", in_full(&error)))))
    }
}

impl From<levee_vault::Error> for Attempt {
    fn from(error: levee_vault::Error) -> Self {
        Attempt::Failed(Trouble::There(error))
    }
}

fn is_same(file: &FileToCopy, node: &Node, modified: FileTime) -> bool {
    file.is_final && node.kind == NodeKind::File && node.size == file.size_bytes && node.mtime == modified
}

/// Whether an older copy of a journal holds no log that a newer one lacks, but for what retention has removed here.
/// `segment_bytes` says how long the segments of a timeline are, where it is known.
pub fn is_superseded(
    vault: &Vault,
    older: &SnapshotId,
    newer: &SnapshotId,
    trimmed: &[TrimmedLog],
    segment_bytes: impl Fn(SystemIdentifier, TimelineId) -> Option<u64>,
) -> levee_vault::Result<bool> {
    // A tail in the one may be a closed segment in the other.
    let key = |place: &SegmentPlace| (place.system_identifier, place.timeline, place.start);
    let newer: BTreeSet<_> = segments(vault, newer)?.iter().map(key).collect();
    let is_lost = |place: &SegmentPlace| {
        let bytes = segment_bytes(place.system_identifier, place.timeline);
        !newer.contains(&key(place)) && !trimmed.iter().any(|trimmed| trimmed.has_taken(place, bytes))
    };
    Ok(!segments(vault, older)?.iter().any(is_lost))
}

/// The segments that a copy of a journal holds.
fn segments(vault: &Vault, copy: &SnapshotId) -> levee_vault::Result<Vec<SegmentPlace>> {
    let place = |entry: levee_vault::Result<(PathBuf, Node)>| match entry {
        Ok((path, _)) => SegmentPlace::of(&path).map(Ok),
        Err(error) => Some(Err(error)),
    };
    vault.list_tree(copy)?.filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::Arc;

    use levee_journal::{Identity, JournalKeys, Lineage};
    use levee_model::Epoch;
    use levee_model::postgres::{Lsn, SegmentSize};
    use levee_store::LocalStore;
    use levee_vault::Password;

    const SEGMENT: u64 = 1 << 20;

    /// A journal with log in these segments.
    fn journal(dir: &Path, identity: &Identity, from: u64, to: u64) -> LogJournal {
        let journal = LogJournal::open(dir, JournalKeys::of_identity(identity.clone())).unwrap();
        let lineage = Lineage {
            system_identifier: SystemIdentifier(7),
            timeline: TimelineId(1),
            epoch: Epoch(1),
            segment_size: SegmentSize::new(SEGMENT).unwrap(),
        };
        let mut writer = journal.writer_at_end(lineage, Lsn(from * SEGMENT)).unwrap();
        while writer.end() < Lsn(to * SEGMENT + 100) {
            let bytes = (to * SEGMENT + 100 - writer.end().0).min(SEGMENT / 2) as usize;
            writer.append(writer.end(), &vec![7; bytes]).unwrap();
            writer.flush().unwrap();
        }
        drop(writer);
        journal
    }

    #[test]
    fn an_older_copy_of_the_log_goes_only_when_a_newer_one_has_all_of_it() {
        let (dir, identity) = (tempfile::tempdir().unwrap(), Identity::generate());
        let journal = |name: &str, from: u64, to: u64| journal(&dir.path().join(name), &identity, from, to);
        let store = Arc::new(LocalStore::new(dir.path().join("vault")));
        let vault = Vault::init(store, &Password::new("open")).unwrap();
        let copy = |journal: &LogJournal, before: Option<&SnapshotId>| {
            let log = LogCopy { journal, host: "w1", tag: "levee-log:shop/orders".into() };
            log.store(&vault, before).unwrap_or_else(|trouble| match trouble {
                Trouble::There(error) => panic!("{error}"),
                Trouble::Here(failure) => panic!("{}", failure.message),
            })
        };
        let check = |older: &SnapshotId, newer: &SnapshotId, trimmed: &[TrimmedLog], expected: bool| {
            let superseded = is_superseded(&vault, older, newer, trimmed, |_, _| Some(SEGMENT)).unwrap();
            assert_eq!(superseded, expected, "{trimmed:?}");
        };
        let whole = copy(&journal("journal", 3, 6), None);
        let longer = copy(&journal("journal", 3, 7), Some(&whole));
        check(&whole, &longer, &[], true);
        check(&longer, &whole, &[], false);

        // The journal is lost, and begins anew further on.
        let anew = copy(&journal("anew", 6, 8), Some(&longer));
        let trimmed = |keep_from: u64, keep: Vec<(Lsn, Lsn)>| TrimmedLog {
            system_identifier: SystemIdentifier(7),
            timeline: TimelineId(1),
            keep_from: Lsn(keep_from * SEGMENT),
            keep,
        };
        check(&longer, &anew, &[], false);
        check(&longer, &anew, &[trimmed(5, vec![])], false);
        check(&longer, &anew, &[trimmed(6, vec![])], true);
        check(&longer, &anew, &[trimmed(6, vec![(Lsn(4 * SEGMENT), Lsn(4 * SEGMENT + 9))])], false);
    }
}
