//! A database's journal in a further vault: one snapshot of its folder, which a newer one replaces.
//!
//! Together with the base backups there it is enough to restore the database: bases are copied first, then the log that
//! reaches their ends.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use levee_journal::{FileToCopy, LogJournal};
use levee_model::control::Failure;
use levee_vault::{
    Chunking, FileTime, Node, NodeKind, NodeMeta, SWAP_PATIENCE, SnapshotId, SnapshotOptions, SnapshotWriter, Vault,
};

use super::super::app::{failure, in_full};

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
