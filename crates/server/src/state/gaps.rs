//! Gaps in archived logs, kept beyond the agents that have told of them: what can't be restored is asked for when a site
//! is lost.

use levee_model::control::Gap;
use levee_model::{AppName, AssetName, SiteName};
use rusqlite::params;

use super::history::{History, parse};
use crate::control::GapView;
use crate::error::{Result, ServerError};

/// More of an asset are not kept; the oldest say the least.
const GAPS_KEPT: u32 = 100;

impl History {
    /// Takes over what an agent says of an asset's gaps.
    pub fn put_gaps(&self, app: &AppName, asset: &AssetName, site: &SiteName, gaps: &[Gap]) -> Result<()> {
        let damaged = |source| ServerError::Damaged { key: format!("a gap of {app}/{asset}"), source };
        let contents: Vec<(i64, String)> = gaps
            .iter()
            .map(|gap| Ok((gap.noticed_at.as_microsecond(), serde_json::to_string(gap)?)))
            .collect::<serde_json::Result<_>>()
            .map_err(damaged)?;
        self.database().transact("keep gaps", |transaction| {
            for (noticed_at, content) in &contents {
                transaction.execute(
                    "insert or replace into gap (app, asset, site, noticed_at, content) values (?, ?, ?, ?, ?)",
                    params![app.as_str(), asset.as_str(), site.as_str(), noticed_at, content],
                )?;
            }
            transaction
                .execute(
                    "delete from gap where app = ?1 and asset = ?2 and noticed_at < (select noticed_at from gap \
                     where app = ?1 and asset = ?2 order by noticed_at desc limit 1 offset ?3)",
                    params![app.as_str(), asset.as_str(), GAPS_KEPT - 1],
                )
                .map(drop)
        })
    }

    /// The newest gaps of an asset, oldest first.
    pub fn gaps(&self, app: &AppName, asset: &AssetName, limit: u32) -> Result<Vec<GapView>> {
        let rows: Vec<(String, String)> = self.database().read("read gaps", |connection| {
            let mut statement = connection.prepare_cached(
                "select site, content from gap where app = ? and asset = ? order by noticed_at desc limit ?",
            )?;
            statement
                .query_map(params![app.as_str(), asset.as_str(), limit], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        let view = |(site, content): (String, String)| {
            let Gap { noticed_at, message, closed_at, base } = parse(&content, || format!("a gap of {app}/{asset}"))?;
            Ok(GapView { site: SiteName::new(site)?, noticed_at, message, closed_at, base })
        };
        rows.into_iter().rev().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::Database;
    use super::*;

    #[test]
    fn gaps_are_kept_and_closed_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::new(Database::open(&folder.path().join("state")).unwrap());
        let (app, asset, site) = ("shop".parse().unwrap(), "orders".parse().unwrap(), "east".parse().unwrap());
        let gap = |second: i64, closed: bool| {
            let at = |second| Timestamp::from_second(second).unwrap();
            let (closed_at, base) = (closed.then(|| at(second + 1)), closed.then(|| "abc".to_string()));
            Gap { noticed_at: at(second), message: format!("gone at {second}"), closed_at, base }
        };
        history.put_gaps(&app, &asset, &site, &[gap(1, true), gap(5, false)]).unwrap();
        history.put_gaps(&app, &asset, &site, &[gap(5, true)]).unwrap();
        let kept = history.gaps(&app, &asset, 10).unwrap();
        let told: Vec<(&str, bool)> = kept.iter().map(|gap| (&*gap.message, gap.closed_at.is_some())).collect();
        assert_eq!(told, [("gone at 1", true), ("gone at 5", true)]);
        for second in 10..10 + i64::from(GAPS_KEPT) {
            history.put_gaps(&app, &asset, &site, &[gap(second, true)]).unwrap();
        }
        let kept = history.gaps(&app, &asset, GAPS_KEPT + 5).unwrap();
        assert_eq!((kept.len(), &*kept[0].message), (GAPS_KEPT as usize, "gone at 10"));
        assert_eq!(history.gaps(&app, &asset, 2).unwrap()[1].message, format!("gone at {}", 9 + GAPS_KEPT));
    }
}
