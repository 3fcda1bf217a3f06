use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Database;
use super::lease::LeaseId;
use super::watch::{ChangedKey, Watch};
use crate::error::{Result, ServerError};

/// How many revisions of changes are kept for those who watch: a run of some dozens of steps many times
/// over, and some megabytes. One that falls further behind reads anew.
const CHANGES_KEPT: u64 = 1_000;

/// The transactional interface: keys with revisions, compared and changed in one step.
#[derive(Clone)]
pub struct Store {
    database: Database,
    /// The newest committed revision, for those who wait for changes.
    newest: Arc<watch::Sender<u64>>,
    /// When each lease ends. On the monotonic clock, so it starts anew with the process.
    deadlines: Arc<Mutex<BTreeMap<LeaseId, Instant>>>,
}

/// A key and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Vec<u8>,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    /// The value, read as JSON.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.value).map_err(|source| ServerError::Damaged { key: self.key.clone(), source })
    }

    /// The part of the key after a prefix.
    pub fn name<'a>(&'a self, prefix: &str) -> &'a str {
        self.key.strip_prefix(prefix).unwrap_or(&self.key)
    }
}

/// What must hold for a transaction to do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was last changed at this revision.
    ModRevision(String, u64),
    Absent(String),
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put { key: String, value: Vec<u8>, lease: Option<LeaseId> },
    Delete { key: String },
}

impl Op {
    /// Puts a value as JSON.
    pub fn put(key: impl Into<String>, value: &impl Serialize) -> Result<Op> {
        let key = key.into();
        let value = serde_json::to_vec(value).map_err(|source| ServerError::Damaged { key: key.clone(), source })?;
        Ok(Op::Put { key, value, lease: None })
    }

    pub fn delete(key: impl Into<String>) -> Op {
        Op::Delete { key: key.into() }
    }

    pub fn under(self, lease: LeaseId) -> Op {
        match self {
            Op::Put { key, value, .. } => Op::Put { key, value, lease: Some(lease) },
            delete => delete,
        }
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Whether every comparison held, and the changes are durable.
    pub succeeded: bool,
    /// The revision of the state after it.
    pub revision: u64,
}

/// Keys below a prefix, at one revision of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub revision: u64,
    pub values: Vec<KeyValue>,
}

impl Store {
    pub fn new(database: Database, now: Instant) -> Result<Self> {
        let (revision, leases) = database.read("read the newest revision", |connection| {
            let revision: u64 = meta(connection, "revision")?;
            let mut statement = connection.prepare("select id, ttl_s from lease")?;
            let rows = statement.query_map([], |row| Ok((LeaseId(row.get(0)?), row.get::<_, u64>(1)?)))?;
            Ok((revision, rows.collect::<rusqlite::Result<Vec<_>>>()?))
        })?;
        // A lease starts in full: while the server was down nobody could keep it alive.
        let deadlines = leases.into_iter().map(|(id, ttl_s)| (id, now + Duration::from_secs(ttl_s))).collect();
        let (newest, _) = watch::channel(revision);
        Ok(Self { database, newest: Arc::new(newest), deadlines: Arc::new(Mutex::new(deadlines)) })
    }

    /// Does all of `ops`, durably, when all of `compares` hold, and nothing otherwise.
    pub fn txn(&self, compares: &[Compare], ops: &[Op]) -> Result<Transaction> {
        let outcome = self.database.transact("change it", |transaction| {
            let revision: u64 = meta(transaction, "revision")?;
            for compare in compares {
                let (key, expected) = match compare {
                    Compare::ModRevision(key, revision) => (key, Some(*revision)),
                    Compare::Absent(key) => (key, None),
                };
                let found: Option<u64> = transaction
                    .prepare_cached("select mod_revision from kv where key = ?")?
                    .query_row([key], |row| row.get(0))
                    .optional()?;
                if found != expected {
                    return Ok(Transaction { succeeded: false, revision });
                }
            }
            if ops.is_empty() {
                return Ok(Transaction { succeeded: true, revision });
            }
            let revision = revision + 1;
            for (position, op) in ops.iter().enumerate() {
                apply(transaction, revision, position, op)?;
            }
            set_meta(transaction, "revision", revision)?;
            let oldest = revision.saturating_sub(CHANGES_KEPT);
            transaction.prepare_cached("delete from change where revision <= ?")?.execute([oldest])?;
            let compacted: u64 = meta(transaction, "compacted")?;
            set_meta(transaction, "compacted", compacted.max(oldest))?;
            Ok(Transaction { succeeded: true, revision })
        })?;
        self.newest.send_if_modified(|newest| {
            let changed = *newest < outcome.revision;
            *newest = outcome.revision.max(*newest);
            changed
        });
        Ok(outcome)
    }

    /// The keys that begin with `prefix`, in order.
    pub fn range(&self, prefix: &str) -> Result<Range> {
        self.database.read("read it", |connection| {
            // One read transaction, so that the revision belongs to the values.
            let transaction = connection.unchecked_transaction()?;
            let revision = meta(&transaction, "revision")?;
            let mut statement = transaction.prepare_cached(
                "select key, value, create_revision, mod_revision, lease from kv where key >= ?1 and substr(key, 1, ?2) = ?1
                 order by key",
            )?;
            let rows = statement.query_map(params![prefix, prefix.chars().count()], key_value)?;
            Ok(Range { revision, values: rows.collect::<rusqlite::Result<_>>()? })
        })
    }

    pub fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.database.read("read it", |connection| {
            connection
                .prepare_cached("select key, value, create_revision, mod_revision, lease from kv where key = ?")?
                .query_row([key], key_value)
                .optional()
        })
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        *self.newest.borrow()
    }

    /// All changes of keys that begin with `prefix`, from revision `from` on, as they come.
    pub fn watch(&self, prefix: impl Into<String>, from: u64) -> Watch {
        Watch::new(self.clone(), self.newest.subscribe(), prefix.into(), from)
    }

    /// The changes from a revision on, by revision. `Compacted` when they are not all kept any more.
    pub(super) fn changes(&self, prefix: &str, from: u64) -> Result<(u64, Vec<ChangedKey>)> {
        let (compacted, revision, changes) = self.database.read("read its changes", |connection| {
            let transaction = connection.unchecked_transaction()?;
            let compacted: u64 = meta(&transaction, "compacted")?;
            let revision: u64 = meta(&transaction, "revision")?;
            let mut statement = transaction.prepare_cached(
                "select revision, key, value from change where revision >= ?1 and substr(key, 1, ?3) = ?2
                 order by revision, position",
            )?;
            let rows = statement.query_map(params![from, prefix, prefix.chars().count()], |row| {
                Ok(ChangedKey { revision: row.get(0)?, key: row.get(1)?, value: row.get(2)? })
            })?;
            Ok((compacted, revision, rows.collect::<rusqlite::Result<Vec<_>>>()?))
        })?;
        if from <= compacted && from != 0 {
            return Err(ServerError::Compacted { oldest: compacted + 1 });
        }
        Ok((revision, changes))
    }

    /// A lease of a length of time, in whole seconds.
    pub fn grant_lease(&self, ttl: Duration, now: Instant) -> Result<LeaseId> {
        let ttl_s = ttl.as_secs().max(1);
        let id = self.database.transact("grant a lease", |transaction| {
            let id: u64 = meta::<u64>(transaction, "lease")? + 1;
            set_meta(transaction, "lease", id)?;
            transaction.execute("insert into lease (id, ttl_s) values (?, ?)", params![id, ttl_s])?;
            Ok(LeaseId(id as i64))
        })?;
        self.lock().insert(id, now + Duration::from_secs(ttl_s));
        Ok(id)
    }

    /// Gives a lease its full length again. `false` when it has ended.
    pub fn keep_alive(&self, id: LeaseId, now: Instant) -> Result<bool> {
        let ttl_s: Option<u64> = self.database.read("read a lease", |connection| {
            connection.query_row("select ttl_s from lease where id = ?", [id.0], |row| row.get(0)).optional()
        })?;
        let Some(ttl_s) = ttl_s else { return Ok(false) };
        self.lock().insert(id, now + Duration::from_secs(ttl_s));
        Ok(true)
    }

    /// Ends the leases whose time is over, and deletes their keys.
    pub fn expire_leases(&self, now: Instant) -> Result<()> {
        let over: Vec<LeaseId> =
            self.lock().iter().filter(|(_, deadline)| **deadline <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.revoke_lease(id)?;
        }
        Ok(())
    }

    /// Ends a lease and deletes its keys.
    pub fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        let keys: Vec<String> = self.database.read("read a lease's keys", |connection| {
            let mut statement = connection.prepare("select key from kv where lease = ?")?;
            statement.query_map([id.0], |row| row.get(0))?.collect()
        })?;
        let ops: Vec<Op> = keys.into_iter().map(Op::delete).collect();
        self.txn(&[], &ops)?;
        self.database.transact("end a lease", |transaction| {
            transaction.execute("delete from lease where id = ?", [id.0]).map(drop)
        })?;
        self.lock().remove(&id);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<LeaseId, Instant>> {
        self.deadlines.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn key_value(row: &rusqlite::Row<'_>) -> rusqlite::Result<KeyValue> {
    Ok(KeyValue {
        key: row.get(0)?,
        value: row.get(1)?,
        create_revision: row.get(2)?,
        mod_revision: row.get(3)?,
        lease: row.get::<_, Option<i64>>(4)?.map(LeaseId),
    })
}

fn apply(transaction: &rusqlite::Transaction<'_>, revision: u64, position: usize, op: &Op) -> rusqlite::Result<()> {
    let (key, value) = match op {
        Op::Put { key, value, lease } => {
            transaction
                .prepare_cached(
                    "insert into kv (key, value, create_revision, mod_revision, lease) values (?1, ?2, ?3, ?3, ?4)
                     on conflict (key) do update set value = ?2, mod_revision = ?3, lease = ?4",
                )?
                .execute(params![key, value, revision, lease.map(|lease| lease.0)])?;
            (key, Some(value))
        }
        Op::Delete { key } => {
            transaction.prepare_cached("delete from kv where key = ?")?.execute([key])?;
            (key, None)
        }
    };
    transaction
        .prepare_cached("insert into change (revision, position, key, value) values (?, ?, ?, ?)")?
        .execute(params![revision, position, key, value])?;
    Ok(())
}

fn meta<T: rusqlite::types::FromSql>(connection: &rusqlite::Connection, name: &str) -> rusqlite::Result<T> {
    connection.prepare_cached("select value from meta where name = ?")?.query_row([name], |row| row.get(0))
}

fn set_meta(transaction: &rusqlite::Transaction<'_>, name: &str, value: u64) -> rusqlite::Result<()> {
    transaction.prepare_cached("update meta set value = ? where name = ?")?.execute(params![value, name]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &tempfile::TempDir) -> Store {
        Store::new(Database::open(&folder.path().join("state.db")).unwrap(), Instant::now()).unwrap()
    }

    fn put(key: &str, value: &str) -> Op {
        Op::Put { key: key.into(), value: value.into(), lease: None }
    }

    #[test]
    fn a_transaction_does_all_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let first = store.txn(&[Compare::Absent("a".into())], &[put("a", "1"), put("b", "1")]).unwrap();
        assert_eq!(first, Transaction { succeeded: true, revision: 1 });
        let refused = store.txn(&[Compare::Absent("a".into())], &[put("b", "2")]).unwrap();
        assert_eq!(refused, Transaction { succeeded: false, revision: 1 });
        let second = store.txn(&[Compare::ModRevision("a".into(), 1)], &[put("a", "2"), Op::delete("b")]).unwrap();
        assert_eq!(second, Transaction { succeeded: true, revision: 2 });
        assert!(!store.txn(&[Compare::ModRevision("a".into(), 1)], &[put("a", "3")]).unwrap().succeeded);
        let range = store.range("").unwrap();
        let seen: Vec<_> =
            range.values.iter().map(|kv| (kv.key.as_str(), kv.create_revision, kv.mod_revision)).collect();
        assert_eq!((range.revision, seen), (2, vec![("a", 1, 2)]));
    }

    #[test]
    fn a_prefix_is_taken_literally() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        store.txn(&[], &[put("app/a_", "1"), put("app/ab", "1"), put("apps", "1"), put("app/é", "1")]).unwrap();
        let keys = |prefix: &str| -> Vec<String> {
            store.range(prefix).unwrap().values.into_iter().map(|kv| kv.key).collect()
        };
        assert_eq!(keys("app/a_"), ["app/a_"]);
        assert_eq!(keys("app/"), ["app/a_", "app/ab", "app/é"]);
        assert_eq!(keys("app/é"), ["app/é"]);
    }

    #[tokio::test]
    async fn a_watch_sees_each_change_once_and_says_when_it_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        store.txn(&[], &[put("x/1", "a")]).unwrap();
        let mut watch = store.watch("x/", 1);
        store.txn(&[], &[put("y", "other"), put("x/2", "b")]).unwrap();
        store.txn(&[], &[Op::delete("x/1")]).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.extend(watch.next().await.unwrap());
        }
        let seen: Vec<_> = seen.into_iter().map(|c| (c.revision, c.key, c.value.is_some())).collect();
        assert_eq!(seen, [(1, "x/1".into(), true), (2, "x/2".into(), true), (3, "x/1".into(), false)]);
        let waiter = tokio::spawn(async move { watch.next().await });
        tokio::task::yield_now().await;
        store.txn(&[], &[put("x/3", "c")]).unwrap();
        assert_eq!(waiter.await.unwrap().unwrap()[0].key, "x/3");

        store.database.transact("test", |t| set_meta(t, "compacted", 3)).unwrap();
        assert!(matches!(store.watch("x/", 2).next().await, Err(ServerError::Compacted { oldest: 4 })));
        assert_eq!(store.watch("x/", 4).next().await.unwrap().len(), 1);
    }

    #[test]
    fn a_lease_takes_its_keys_along_and_starts_in_full_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let store = store(&folder);
        let lease = store.grant_lease(Duration::from_secs(10), start).unwrap();
        store.txn(&[], &[put("plan/1", "p").under(lease), put("keep", "k")]).unwrap();
        store.expire_leases(start + Duration::from_secs(9)).unwrap();
        assert!(store.keep_alive(lease, start + Duration::from_secs(9)).unwrap());
        store.expire_leases(start + Duration::from_secs(18)).unwrap();
        assert!(store.get("plan/1").unwrap().is_some());
        drop(store);
        let later = start + Duration::from_secs(1000);
        let store = Store::new(Database::open(&folder.path().join("state.db")).unwrap(), later).unwrap();
        store.expire_leases(later + Duration::from_secs(9)).unwrap();
        assert!(store.get("plan/1").unwrap().is_some());
        store.expire_leases(later + Duration::from_secs(10)).unwrap();
        assert!(store.get("plan/1").unwrap().is_none() && store.get("keep").unwrap().is_some());
        assert!(!store.keep_alive(lease, later).unwrap());
    }
}
