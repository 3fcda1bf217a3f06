//! What agents have said last of the copies that they keep.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use levee_model::{AgentId, AppName, AssetName};
use rusqlite::{OptionalExtension, params};

use super::history::{History, parse};
use crate::contact::{Contact, Word};
use crate::error::{Result, ServerError};

fn name(app: &AppName, asset: &AssetName) -> String {
    format!("the last contact about {app}/{asset}")
}

impl History {
    /// Takes over what an agent says. While it is not settled, a word that says less than the one before from the same
    /// agent is left out, moment and all: what is kept goes on being true as of its own.
    pub fn put_contacts(&self, contacts: &[Contact], is_settled: bool) -> Result<()> {
        if contacts.is_empty() {
            return Ok(());
        }
        let text = |contact: &Contact| {
            serde_json::to_string(&contact.word)
                .map_err(|source| ServerError::Damaged { key: name(&contact.app, &contact.asset), source })
        };
        let contents: Vec<String> = contacts.iter().map(text).collect::<Result<_>>()?;
        self.database().transact("keep what agents have said", |transaction| {
            for (contact, content) in contacts.iter().zip(&contents) {
                let (app, asset, agent) = (contact.app.as_str(), contact.asset.as_str(), contact.agent.as_str());
                let before: Option<String> = transaction
                    .prepare_cached("select content from contact where app = ? and asset = ? and agent = ?")?
                    .query_row([app, asset, agent], |row| row.get(0))
                    .optional()?;
                // One that can't be read has nothing to lose, and is replaced.
                let before = before.and_then(|text| serde_json::from_str::<Word>(&text).ok());
                if !is_settled && before.is_some_and(|before| contact.word.says_less_than(&before)) {
                    continue;
                }
                transaction
                    .prepare_cached(
                        "insert or replace into contact (app, asset, agent, seen_at, content) values (?, ?, ?, ?, ?)",
                    )?
                    .execute(params![app, asset, agent, contact.seen_at.as_microsecond(), content])?;
            }
            Ok(())
        })
    }

    /// What was said last of an app's assets.
    pub fn contacts(&self, app: &AppName) -> Result<BTreeMap<AssetName, Contact>> {
        let rows: Vec<(String, String, i64, String)> =
            self.database().read("read the last contacts", |connection| {
                let mut statement =
                    connection.prepare_cached("select asset, agent, seen_at, content from contact where app = ?")?;
                statement
                    .query_map([app.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                    .collect()
            })?;
        let contact = |(asset, agent, seen_at, content): (String, String, i64, String)| -> Result<_> {
            let asset = AssetName::new(asset)?;
            let word = parse(&content, || name(app, &asset))?;
            let (app, agent) = (app.clone(), AgentId::new(agent)?);
            Ok((asset.clone(), Contact { app, asset, agent, seen_at: moment(seen_at), word }))
        };
        let or_warn = |read: Result<_>| {
            read.inspect_err(|error| tracing::warn!(%app, "what an agent said last is passed over: {error}")).ok()
        };
        // One that another version wrote must not keep the status of all others from being told.
        Ok(rows.into_iter().map(contact).filter_map(or_warn).collect())
    }

    /// When each agent that keeps copies was last heard.
    pub fn last_contacts(&self) -> Result<BTreeMap<AgentId, Timestamp>> {
        let rows: Vec<(String, i64)> = self.database().read("read the last contacts", |connection| {
            let mut statement = connection.prepare_cached("select agent, max(seen_at) from contact group by agent")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        rows.into_iter().map(|(agent, seen_at)| Ok((AgentId::new(agent)?, moment(seen_at)))).collect()
    }

    /// The assets of which something is kept.
    pub fn contact_names(&self) -> Result<BTreeSet<(AppName, AssetName)>> {
        let rows: Vec<(String, String)> = self.database().read("list the last contacts", |connection| {
            let mut statement = connection.prepare_cached("select app, asset from contact")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        rows.into_iter().map(|(app, asset)| Ok((AppName::new(app)?, AssetName::new(asset)?))).collect()
    }

    pub fn forget_contacts(&self, gone: &[(AppName, AssetName)]) -> Result<()> {
        self.database().transact("forget old contacts", |transaction| {
            let mut statement = transaction.prepare_cached("delete from contact where app = ? and asset = ?")?;
            for (app, asset) in gone {
                statement.execute([app.as_str(), asset.as_str()])?;
            }
            Ok(())
        })
    }
}

fn moment(microsecond: i64) -> Timestamp {
    Timestamp::from_microsecond(microsecond).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use levee_model::control::{AssetPoint, VerifiedBackup};
    use levee_model::{Epoch, Position};

    use super::super::Database;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn point(second: i64) -> AssetPoint {
        AssetPoint { position: Position::Snapshot { id: "5a".into(), taken_at: at(second) }, as_of: at(second) }
    }

    fn contact(asset: &str, agent: &str, second: i64, has_copies: bool) -> Contact {
        let word = Word {
            epoch: Epoch(1),
            point: has_copies.then(|| point(second - 1)),
            verified: has_copies.then(|| VerifiedBackup { point: point(second - 5), at: at(second - 2) }),
            vaults: has_copies.then(|| ("far".parse().unwrap(), point(second - 3))).into_iter().collect(),
        };
        let (app, asset, agent) = ("shop".parse().unwrap(), asset.parse().unwrap(), agent.parse().unwrap());
        Contact { app, asset, agent, seen_at: at(second), word }
    }

    #[test]
    fn contacts_outlive_the_process_and_go_with_their_assets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let open = || History::new(Database::open(&path).unwrap());
        let app: AppName = "shop".parse().unwrap();
        let (orders, documents) = (contact("orders", "west-1", 100, true), contact("documents", "west-1", 90, true));
        open().put_contacts(&[orders.clone(), documents.clone()], true).unwrap();

        let history = open();
        let of_shop = [&orders, &documents].map(|contact| (contact.asset.clone(), contact.clone()));
        assert_eq!(history.contacts(&app).unwrap(), BTreeMap::from(of_shop));
        assert!(history.contacts(&"other".parse().unwrap()).unwrap().is_empty());
        assert_eq!(history.last_contacts().unwrap(), BTreeMap::from([(orders.agent.clone(), at(100))]));

        let names = |contact: &Contact| (contact.app.clone(), contact.asset.clone());
        assert_eq!(history.contact_names().unwrap(), BTreeSet::from([names(&orders), names(&documents)]));
        history.forget_contacts(&[names(&documents)]).unwrap();
        assert_eq!(history.contact_names().unwrap(), BTreeSet::from([names(&orders)]));
    }

    #[test]
    fn an_agent_that_has_just_started_takes_nothing_back_and_one_that_is_settled_does() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::new(Database::open(&folder.path().join("state")).unwrap());
        let app: AppName = "shop".parse().unwrap();
        let check = |said: Contact, is_settled: bool, expected: &Contact| {
            history.put_contacts(&[said], is_settled).unwrap();
            assert_eq!(history.contacts(&app).unwrap().get(&expected.asset), Some(expected));
        };
        let first = contact("orders", "west-1", 100, true);
        check(first.clone(), false, &first);
        check(contact("orders", "west-1", 110, false), false, &first);
        let newer = contact("orders", "west-1", 120, true);
        check(newer.clone(), false, &newer);
        let nothing = contact("orders", "west-1", 130, false);
        check(nothing.clone(), true, &nothing);
        // What another agent keeps is no word on this one's copies.
        check(newer.clone(), true, &newer);
        let other = contact("orders", "west-2", 140, false);
        check(other.clone(), false, &other);
    }
}
