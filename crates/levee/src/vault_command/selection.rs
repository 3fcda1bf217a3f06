//! `--host`, `--tag` and `--path` as restic takes them: each can be repeated.

use std::path::PathBuf;

use clap::Args;
use levee_vault::SnapshotSelection;

/// Which snapshots are meant, and among which `latest` is the newest.
#[derive(Clone, Debug, Default, Args)]
pub struct FilterArguments {
    /// Only snapshots of this host (can be repeated)
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Vec<String>,
    /// Only snapshots that have all of these tags (can be repeated; '' for those without tags)
    #[arg(long, value_name = "TAG[,TAG]")]
    tag: Vec<String>,
    /// Only snapshots that include this path (can be repeated)
    #[arg(long, value_name = "PATH")]
    path: Vec<PathBuf>,
}

impl FilterArguments {
    pub fn selection(&self) -> anyhow::Result<SnapshotSelection> {
        self.selection_of(&[])
    }

    /// The same for snapshots that are named.
    pub fn selection_of(&self, ids: &[String]) -> anyhow::Result<SnapshotSelection> {
        selection(&self.host, &self.tag, &self.path, ids)
    }
}

/// The same, for commands in which `-H` is another flag or snapshots come last.
#[derive(Clone, Debug, Default, Args)]
pub struct SelectionArguments {
    /// Only snapshots of this host (can be repeated)
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Only snapshots that have all of these tags (can be repeated; '' for those without tags)
    #[arg(long, value_name = "TAG[,TAG]")]
    tag: Vec<String>,
    /// Only snapshots that include this path (can be repeated)
    #[arg(long, value_name = "PATH")]
    path: Vec<PathBuf>,
    /// Only these snapshots: `latest` or the first digits of an id
    #[arg(value_name = "SNAPSHOT")]
    ids: Vec<String>,
}

impl SelectionArguments {
    pub fn selection(&self) -> anyhow::Result<SnapshotSelection> {
        selection(&self.host, &self.tag, &self.path, &self.ids)
    }

    pub fn has_filter(&self) -> bool {
        !(self.host.is_empty() && self.tag.is_empty() && self.path.is_empty())
    }

    pub fn has_ids(&self) -> bool {
        !self.ids.is_empty()
    }
}

fn selection(
    hosts: &[String],
    tags: &[String],
    paths: &[PathBuf],
    ids: &[String],
) -> anyhow::Result<SnapshotSelection> {
    // Snapshots hold absolute paths.
    let paths = paths.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
    let tag_lists = tags.iter().map(|list| tags_in(list)).collect();
    Ok(SnapshotSelection { hosts: hosts.to_vec(), tag_lists, paths, ids: ids.to_vec() })
}

/// The tags of a list with commas.
pub fn tags_in(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(String::from).collect()
}
