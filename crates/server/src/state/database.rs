use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::error::{Result, ServerError};

/// The version of the tables below, kept in SQLite's `user_version`.
const FORMAT: i64 = 1;

/// How long a statement waits for another process that holds the file, such as `levee server backup`.
const BUSY_WAIT: Duration = Duration::from_secs(10);

const TABLES: &str = "
    create table meta (name text primary key, value integer not null) strict, without rowid;
    insert into meta values ('revision', 0), ('compacted', 0), ('lease', 0);
    create table kv (
        key text primary key,
        value blob not null,
        create_revision integer not null,
        mod_revision integer not null,
        lease integer
    ) strict, without rowid;
    create table change (
        revision integer not null,
        position integer not null,
        key text not null,
        value blob,
        primary key (revision, position)
    ) strict, without rowid;
    create table lease (id integer primary key, ttl_s integer not null) strict;
    create table run (
        id text primary key,
        app text not null,
        started_at integer not null,
        summary text not null,
        content text not null
    ) strict, without rowid;
    create index run_by_start on run (started_at);
    create table step (
        run text not null,
        app text not null,
        step text not null,
        ended_at integer not null,
        seconds real not null,
        primary key (run, step)
    ) strict, without rowid;
    create index step_by_app on step (app, step, ended_at);
    create table sample (
        app text not null,
        asset text not null,
        at integer not null,
        age_s real not null,
        primary key (app, asset, at)
    ) strict, without rowid;
    create index sample_by_time on sample (at);
    create table proof (
        run text primary key,
        app text not null,
        at integer not null,
        content text not null
    ) strict, without rowid;
    create index proof_by_app on proof (app, at);
";

/// Tables that came later. A server that does not know them yet leaves them alone.
const LATER_TABLES: &str = "
    create table if not exists gap (
        app text not null,
        asset text not null,
        site text not null,
        noticed_at integer not null,
        content text not null,
        primary key (app, asset, site, noticed_at)
    ) strict, without rowid;
    create table if not exists contact (
        app text not null,
        asset text not null,
        agent text not null,
        seen_at integer not null,
        content text not null,
        primary key (app, asset)
    ) strict, without rowid;
";

/// The state file.
#[derive(Clone)]
pub struct Database {
    /// One connection: every use is one short transaction, and they come one at a time.
    connection: Arc<Mutex<Connection>>,
}

impl Database {
    /// Opens the file, making it when it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = ServerError::state("open the database");
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_WAIT).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
        // A transaction that was acknowledged must survive a power failure.
        connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
        let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        match format {
            0 => connection
                .execute_batch(&format!("begin; {TABLES} pragma user_version = {FORMAT}; commit;"))
                .map_err(failed)?,
            FORMAT => {}
            found => return Err(ServerError::NewerFormat { found, known: FORMAT }),
        }
        connection.execute_batch(LATER_TABLES).map_err(failed)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Writes a whole copy to a file that does not exist yet, with its revisions moved ahead: everything
    /// that agents are told counts as changed there.
    pub fn copy_to(&self, path: &Path, revision_jump: u64) -> Result<()> {
        let failed = ServerError::state("copy the database");
        self.lock().execute("vacuum into ?", [path.to_string_lossy()]).map_err(failed)?;
        let copy = Connection::open(path).map_err(failed)?;
        let jump = revision_jump as i64;
        copy.execute("update meta set value = value + ? where name = 'revision'", [jump]).map_err(failed)?;
        copy.execute_batch(
            "begin;
             update kv set mod_revision = (select value from meta where name = 'revision') where key like 'config/%';
             delete from change;
             update meta set value = (select value from meta where name = 'revision') where name = 'compacted';
             commit;",
        )
        .map_err(failed)?;
        copy.close().map_err(|(_, source)| failed(source))
    }

    /// Runs `work` in one transaction, which is committed durably when it succeeds.
    pub(crate) fn transact<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let failed = ServerError::state(doing);
        let mut connection = self.lock();
        // The write lock is taken at the beginning, so that nothing read in it can be outdated at the end.
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
        let result = work(&transaction).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(result)
    }

    /// Reads without writing anything.
    pub(crate) fn read<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        work(&self.lock()).map_err(ServerError::state(doing))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in between has rolled its transaction back.
        self.connection.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
