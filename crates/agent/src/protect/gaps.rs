//! Gaps in a database's archived log, on this host's disk: an open one stays a problem until a base backup from behind
//! it is stored, also when the agent is started anew between; all are kept as history.

use std::path::Path;

use jiff::Timestamp;
use levee_model::control::Gap;
use levee_model::{AssetId, AssetName};

use super::folder::AppFolder;
use crate::durable;

/// The oldest are forgotten beyond this: more of them say no more.
const GAPS_KEPT: usize = 100;

/// How many of them the server is told of, with each status. It keeps what it was told.
const GAPS_TOLD: usize = 10;

/// Every gap of an asset that this agent knows of, oldest first.
pub fn read_gaps(agent_folder: &Path, asset: &AssetId) -> std::io::Result<Vec<Gap>> {
    let path = AppFolder::new(agent_folder, &asset.app).gaps(&asset.asset);
    Ok(durable::read_json(&path)?.unwrap_or_default())
}

/// The newest gaps of an asset, as the server is told of them.
pub(super) fn newest(folder: &AppFolder, asset: &AssetName) -> Vec<Gap> {
    // There are hardly ever any, and an unreadable history is told of where it is written.
    let mut gaps: Vec<Gap> = durable::read_json(&folder.gaps(asset)).ok().flatten().unwrap_or_default();
    gaps.drain(..gaps.len().saturating_sub(GAPS_TOLD));
    gaps
}

/// The gaps of one asset.
pub(super) struct Gaps<'a> {
    pub folder: &'a AppFolder,
    pub asset: &'a AssetId,
}

impl Gaps<'_> {
    /// What the open gap's message is. An unreadable history must not stop the archive.
    pub fn open(&self) -> Option<String> {
        self.read().into_iter().rev().find(|gap| gap.closed_at.is_none()).map(|gap| gap.message)
    }

    /// Notes a gap. One that goes on being noticed is one.
    pub fn note(&self, message: &str, now: Timestamp) {
        let mut gaps = self.read();
        if gaps.last().is_none_or(|last| last.closed_at.is_some() || last.message != message) {
            gaps.push(Gap { noticed_at: now, message: message.into(), closed_at: None, base: None });
        }
        let beyond = gaps.len().saturating_sub(GAPS_KEPT);
        gaps.drain(..beyond);
        self.write(&gaps);
    }

    /// A base backup is stored whose log has no gap: whatever is open is behind it.
    pub fn close(&self, base: &str, now: Timestamp) {
        let mut gaps = self.read();
        let open: Vec<&mut Gap> = gaps.iter_mut().filter(|gap| gap.closed_at.is_none()).collect();
        if open.is_empty() {
            return;
        }
        for gap in open {
            tracing::info!(asset = %self.asset, gap = gap.message, base, "a new base backup lies behind the gap");
            (gap.closed_at, gap.base) = (Some(now), Some(base.into()));
        }
        self.write(&gaps);
    }

    fn read(&self) -> Vec<Gap> {
        let path = self.folder.gaps(&self.asset.asset);
        durable::read_json(&path)
            .unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the history of gaps can't be read");
                None
            })
            .unwrap_or_default()
    }

    fn write(&self, gaps: &[Gap]) {
        let path = self.folder.gaps(&self.asset.asset);
        if let Err(error) = durable::write_json(&path, &gaps) {
            tracing::warn!(path = %path.display(), %error, "the history of gaps can't be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_stays_open_until_a_base_lies_behind_it_and_is_remembered() {
        let root = tempfile::tempdir().unwrap();
        let asset: AssetId = "shop/orders".parse().unwrap();
        let folder = AppFolder::new(root.path(), &asset.app);
        let gaps = Gaps { folder: &folder, asset: &asset };
        let at = |second| Timestamp::from_second(second).unwrap();
        gaps.close("early", at(1));
        assert_eq!((gaps.open(), read_gaps(root.path(), &asset).unwrap()), (None, vec![]));
        gaps.note("0/1 is gone", at(2));
        gaps.note("0/1 is gone", at(3));
        assert_eq!(gaps.open().unwrap(), "0/1 is gone");
        gaps.close("abc", at(4));
        assert_eq!(gaps.open(), None);
        gaps.note("0/9 is gone", at(5));
        let gap = |noticed, message: &str, closed: Option<i64>| Gap {
            noticed_at: at(noticed),
            message: message.into(),
            closed_at: closed.map(at),
            base: closed.map(|_| "abc".into()),
        };
        assert_eq!(
            read_gaps(root.path(), &asset).unwrap(),
            [gap(2, "0/1 is gone", Some(4)), gap(5, "0/9 is gone", None)]
        );
    }
}
