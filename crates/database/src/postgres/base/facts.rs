use std::collections::BTreeMap;

use jiff::Timestamp;
use levee_engine::postgres::{ConnectOptions, Connection, Row};
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use levee_model::{AssetId, Epoch};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The version of `levee-base.json`.
pub(super) const FORMAT: u32 = 1;

/// What a base backup is, and what a server must be like to take it over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFacts {
    pub format: u32,
    pub asset: AssetId,
    pub epoch: Epoch,
    pub system_identifier: SystemIdentifier,
    /// As `server_version_num`: 150018 is 15.18.
    pub server_version: u32,
    pub timeline: TimelineId,
    /// The redo position: the log is needed from here on.
    pub start: Lsn,
    /// The base is consistent once the log up to here is replayed.
    pub stop: Lsn,
    /// On the source's clock.
    pub started_at: Timestamp,
    /// On the source's clock: the earliest moment that can be restored from this base.
    pub ended_at: Timestamp,
    pub segment_size: SegmentSize,
    pub data_checksums: bool,
    /// Pages that were damaged at the source, where the backup was told to accept them.
    pub damaged_pages: u64,
    pub files: u64,
    pub bytes: u64,
    pub data_directory: String,
    pub tablespaces: Vec<TablespaceFacts>,
    pub databases: Vec<DatabaseFacts>,
    pub configuration: Vec<ConfigurationFile>,
    /// Settings that another server must take over or exceed, and some worth knowing.
    pub settings: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceFacts {
    pub oid: u32,
    /// Where it lies at the source.
    pub location: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    pub name: String,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    /// `c` for libc, `i` for ICU; from version 15 on.
    pub locale_provider: Option<String>,
    /// The collation's version when the database was made; another one here means damaged text indexes.
    pub collation_version: Option<String>,
    /// `None` when the role may not connect there.
    pub extensions: Option<Vec<Extension>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    pub name: String,
    pub version: String,
}

/// A configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationFile {
    /// At the source.
    pub path: String,
    /// In the snapshot.
    pub stored: Option<String>,
    /// Why it is not stored.
    pub missing: Option<String>,
    /// Which of the server's main files it is, under whichever name. Base backups of earlier versions say it of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<MainFile>,
}

/// A file that PostgreSQL has a setting of this name for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MainFile {
    ConfigFile,
    HbaFile,
    IdentFile,
}

impl MainFile {
    pub(crate) fn of_setting(name: &str) -> Option<Self> {
        match name {
            "config_file" => Some(Self::ConfigFile),
            "hba_file" => Some(Self::HbaFile),
            "ident_file" => Some(Self::IdentFile),
            _ => None,
        }
    }
}

/// None of these holds a secret.
const SETTINGS: [&str; 22] = [
    "cluster_name",
    "dynamic_shared_memory_type",
    "hot_standby",
    "huge_pages",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "listen_addresses",
    "log_timezone",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
    "port",
    "server_encoding",
    "shared_buffers",
    "shared_preload_libraries",
    "TimeZone",
    "track_commit_timestamp",
    "wal_level",
];

pub(super) fn settings(connection: &mut Connection) -> Result<BTreeMap<String, String>> {
    let sql = "SELECT name, setting FROM pg_catalog.pg_settings";
    let rows = connection.simple_query(sql).map_err(Error::engine("reading the server's settings"))?;
    let wanted = |row: &Row| {
        let name = row.get(0).filter(|name| SETTINGS.contains(name))?;
        Some((name.to_owned(), row.get(1)?.to_owned()))
    };
    Ok(rows.iter().filter_map(wanted).collect())
}

pub(super) fn clock(connection: &mut Connection) -> Result<Timestamp> {
    const DOING: &str = "reading the server's clock";
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS microseconds";
    let rows = connection.simple_query(sql).map_err(Error::engine(DOING))?;
    let microseconds = rows.first().and_then(|row| row.get(0)?.parse().ok());
    microseconds.and_then(|microseconds| Timestamp::from_microsecond(microseconds).ok()).ok_or_else(|| {
        let source = levee_engine::postgres::Error::Value { doing: DOING, column: "microseconds", value: "?".into() };
        Error::Engine { doing: DOING, source }
    })
}

pub(super) fn databases(options: &ConnectOptions, connection: &mut Connection) -> Result<Vec<DatabaseFacts>> {
    let provider = if connection.server_version().major() >= 15 {
        "datlocprovider::text AS provider, datcollversion AS version"
    } else {
        "NULL AS provider, NULL AS version"
    };
    let sql = format!(
        "SELECT datname, pg_catalog.pg_encoding_to_char(encoding) AS encoding, datcollate, datctype, {provider}, \
         CASE WHEN datallowconn THEN 'on' END AS open FROM pg_catalog.pg_database ORDER BY datname"
    );
    let rows = connection.simple_query(&sql).map_err(Error::engine("listing databases"))?;
    let text = |row: &Row, name| row.by_name(name).unwrap_or("").to_owned();
    let facts = |row: &Row| {
        let name = text(row, "datname");
        let extensions = row.by_name("open").and_then(|_| extensions(&options.with_database(&name)));
        DatabaseFacts {
            encoding: text(row, "encoding"),
            collate: text(row, "datcollate"),
            ctype: text(row, "datctype"),
            locale_provider: row.by_name("provider").map(str::to_owned),
            collation_version: row.by_name("version").map(str::to_owned),
            extensions,
            name,
        }
    };
    Ok(rows.iter().map(facts).collect())
}

/// `None` where the role is not let in: the base is as good without knowing them.
fn extensions(options: &ConnectOptions) -> Option<Vec<Extension>> {
    let sql = "SELECT extname, extversion FROM pg_catalog.pg_extension ORDER BY extname";
    let rows = Connection::connect(options).and_then(|mut connection| connection.simple_query(sql));
    match rows {
        Ok(rows) => {
            let extension =
                |row: &Row| Some(Extension { name: row.get(0)?.to_owned(), version: row.get(1)?.to_owned() });
            Some(rows.iter().filter_map(extension).collect())
        }
        Err(error) => {
            tracing::info!(database = options.database, %error, "the extensions of a database are not known");
            None
        }
    }
}
