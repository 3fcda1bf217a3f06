use std::path::PathBuf;

use clap::Args;
use levee_vault::SnapshotFilter;

/// Which snapshots are meant.
#[derive(Clone, Debug, Args)]
pub struct FilterArguments {
    /// Only snapshots of this host
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,
    /// Only snapshots that have all of these tags
    #[arg(long, value_name = "TAG[,TAG]", value_delimiter = ',')]
    tag: Vec<String>,
    /// Only snapshots of these paths (all of them, and no others)
    #[arg(long, value_name = "PATH")]
    path: Vec<PathBuf>,
}

impl FilterArguments {
    pub fn filter(self) -> anyhow::Result<SnapshotFilter> {
        let tags = self.tag.into_iter().filter(|tag| !tag.is_empty()).collect();
        // Snapshots hold absolute paths.
        let paths = self.path.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
        Ok(SnapshotFilter { host: self.host, tags, paths })
    }
}
