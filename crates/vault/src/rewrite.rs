//! Making snapshots out of snapshots: without some of their files, or under another name or time.

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use levee_store::FileType;
use serde::Serialize;
use serde_json::Value;

use crate::file_time::LocalTime;
use crate::pattern::Patterns;
use crate::session::{Session, SessionOptions};
use crate::tree_rewrite::{Rewrite, Totals, Verdicts};
use crate::vault::{Fields, set_id, set_tags};
use crate::{
    BackupSummary, Compression, Error, FileCount, Id, Lock, LockMode, Node, NodeKind, Progress, Result, Snapshot,
    SnapshotId, SnapshotSelection, Vault,
};

/// What to change.
#[derive(Clone, Debug, Default)]
pub struct RewriteOptions {
    pub selection: SnapshotSelection,
    /// Patterns as for `backup`.
    pub excludes: Vec<String>,
    pub excludes_ignoring_case: Vec<String>,
    /// With any of these, only what matches one stays.
    pub includes: Vec<String>,
    pub includes_ignoring_case: Vec<String>,
    pub new_host: Option<String>,
    pub new_time: Option<Timestamp>,
    /// Count files and bytes for snapshots that say nothing of them.
    pub add_summary: bool,
    /// Remove the old snapshot when the new one stands.
    pub forget: bool,
    /// How long to wait for others' locks.
    pub patience: Duration,
    pub dry_run: bool,
}

/// A snapshot and what has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    pub old: SnapshotId,
    /// `None` when nothing was to be changed, and in a dry run.
    pub new: Option<SnapshotId>,
    pub is_changed: bool,
}

/// The tag of a snapshot that stands beside the one it was made from, as restic has it.
const REWRITE_TAG: &str = "rewrite";

struct Filter<'a> {
    excludes: Patterns,
    includes: Patterns,
    count: FileCount<'a>,
}

impl Verdicts for Filter<'_> {
    fn entry(&mut self, path: &Path, node: &Node) -> Result<Option<Node>> {
        if node.kind == NodeKind::File {
            self.count.file();
        }
        let excluded = self.excludes.matches(path);
        // Below a directory that matches no include there may be what does.
        let included = self.includes.is_empty() || node.kind == NodeKind::Dir || self.includes.matches(path);
        Ok((included && !excluded).then(|| node.clone()))
    }

    fn keeps_empty(&mut self, path: &Path) -> bool {
        self.includes.is_empty() || self.includes.matches(path)
    }

    /// What cannot be read cannot be filtered: repairing is another verb.
    fn unreadable(&mut self, _path: &Path, error: Error) -> Result<()> {
        Err(error)
    }

    /// Nor does anything go that nobody has asked to leave out.
    fn loses(&mut self, path: &Path, what: String) -> Result<()> {
        let reason = format!(
            "{what} would be lost, since this version of Levee cannot write it: leave the snapshot as it is, or rewrite it with the program that made it"
        );
        Err(Error::Target { action: "rewrite", path: path.to_path_buf(), source: io::Error::other(reason) })
    }
}

/// Makes new snapshots of the chosen ones.
pub fn rewrite(vault: &Vault, options: &RewriteOptions, progress: &dyn Progress) -> Result<Vec<Rewritten>> {
    let excludes = Patterns::parse(&options.excludes)?.and_ignoring_case(&options.excludes_ignoring_case)?;
    let includes = Patterns::parse(&options.includes)?.and_ignoring_case(&options.includes_ignoring_case)?;
    let mode = if options.forget { LockMode::Exclusive } else { LockMode::Shared };
    let lock = if options.dry_run { None } else { Some(Lock::take_within(vault, mode, options.patience)?) };
    let mut rewritten = Vec::new();
    let snapshots = vault.select(&options.selection)?;
    let count = FileCount::begin(snapshots.iter().map(|(_, snapshot)| snapshot), progress);
    let mut filter = Filter { excludes, includes, count };
    vault.refresh_index()?;
    for (old, snapshot) in snapshots {
        filter.count.next_snapshot(&snapshot);
        let change = Change {
            vault,
            old,
            snapshot: &snapshot,
            lock: lock.as_ref(),
            new_host: options.new_host.as_deref(),
            new_time: options.new_time,
            add_summary: options.add_summary,
            tag: (!options.forget).then_some(REWRITE_TAG),
        };
        rewritten.push(change.run(&mut filter)?);
    }
    Ok(rewritten)
}

/// Making one snapshot out of another.
pub(crate) struct Change<'a> {
    pub vault: &'a Vault,
    pub old: SnapshotId,
    pub snapshot: &'a Snapshot,
    /// None for a dry run.
    pub lock: Option<&'a Lock>,
    pub new_host: Option<&'a str>,
    pub new_time: Option<Timestamp>,
    /// Give it a summary when it has none.
    pub add_summary: bool,
    /// A tag for the new snapshot, which stands beside the old one; without one it takes its place.
    pub tag: Option<&'a str>,
}

impl Change<'_> {
    pub fn run<V: Verdicts>(&self, verdicts: &mut V) -> Result<Rewritten> {
        let root = self.vault.root_of(&self.old)?;
        let session = match self.lock {
            None => None,
            Some(_) => {
                let options = SessionOptions { compression: Compression::Auto, dry_run: false };
                Some(Session::begin(self.vault, options, &[])?)
            }
        };
        let mut rewrite = Rewrite { vault: self.vault, session: session.as_ref(), verdicts, totals: Totals::default() };
        let (tree, totals) = match rewrite.root(root) {
            Ok(tree) => (tree, rewrite.totals),
            Err(error) => {
                return Err(match session {
                    Some(session) => session.abort(error),
                    None => error,
                });
            }
        };
        let lacks_summary = self.add_summary && self.snapshot.summary.is_none();
        let is_changed = tree != root || self.new_host.is_some() || self.new_time.is_some() || lacks_summary;
        if let Some(session) = session {
            session.finish()?;
        }
        let Some(lock) = self.lock.filter(|_| is_changed) else {
            return Ok(Rewritten { old: self.old, new: None, is_changed });
        };
        // One that is still listed after it was forgotten must not come to life again under another name.
        if !self.vault.is_stored(FileType::Snapshot, &self.old.0)? {
            return Ok(Rewritten { old: self.old, new: None, is_changed: false });
        }
        let fields = self.fields(tree, totals)?;
        lock.check()?;
        let new = self.vault.write_snapshot_fields(&fields)?;
        if self.tag.is_none() {
            self.vault.remove_snapshot(&self.old)?;
        }
        Ok(Rewritten { old: self.old, new: Some(new), is_changed })
    }

    fn fields(&self, tree: Id, totals: Totals) -> Result<Fields> {
        let mut fields = self.vault.snapshot_fields(&self.old)?;
        set_id(&mut fields, "tree", tree);
        set_id(&mut fields, "original", self.old.0);
        if let Some(host) = self.new_host {
            fields.insert("hostname".into(), Value::String(host.into()));
        }
        if let Some(time) = self.new_time {
            // With this machine's distance from UTC, as a backup notes it and restic notes it here: policies count days by
            // it.
            let time = LocalTime { time: time.into(), offset: LocalTime::offset_here(time) };
            fields.insert("time".into(), to_value(&time)?);
        }
        if let Some(tag) = self.tag.filter(|tag| !self.snapshot.tags.iter().any(|known| known == tag)) {
            let mut tags = self.snapshot.tags.clone();
            tags.push(tag.into());
            set_tags(&mut fields, &tags);
        }
        if self.add_summary && self.snapshot.summary.is_none() {
            // What making it took is not known; when is.
            let time = self.new_time.unwrap_or(self.snapshot.time);
            let summary = BackupSummary { ended_at: time, ..BackupSummary::new(time) }.for_snapshot();
            fields.insert("summary".into(), to_value(&summary)?);
        }
        if let Some(Value::Object(summary)) = fields.get_mut("summary") {
            summary.insert("total_files_processed".into(), totals.files.into());
            summary.insert("total_bytes_processed".into(), totals.bytes.into());
        }
        Ok(fields)
    }
}

fn to_value(part: &impl Serialize) -> Result<Value> {
    serde_json::to_value(part).map_err(|error| Error::System { action: "write JSON", source: error.into() })
}
