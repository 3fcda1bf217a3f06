//! Databases: how their log and their base backups are kept, and where they live.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Difference, Period, Retention, Rhythm, Schedule, Size};
use crate::SiteName;

/// A PostgreSQL cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSpec {
    /// Levee is the synchronous standby: a commit returns only when it is durable at the recovery site.
    #[serde(default)]
    pub zero_loss: bool,
    /// How often a new base backup is taken: every day, when nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_every: Option<Period>,
    /// When base backups are taken, instead of `base_every`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_schedule: Option<Schedule>,
    /// How far back any moment can be restored.
    #[serde(default = "Retention::default")]
    pub keep: Retention,
    /// Which base backups stay for longer, each with the log that it takes to be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_bases: Option<Retention>,
    /// How much WAL the replication slot may hold back at the source before it is given up.
    #[serde(default = "PostgresSpec::default_slot_bound")]
    pub slot_bound: Size,
    /// In what the two sites may differ: the status shows it, and it is no problem.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub accepts: BTreeSet<Difference>,
    /// Questions that a rebuilt database must answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe: Vec<SqlProbe>,
    /// Where the cluster lives at each site.
    pub at: BTreeMap<SiteName, PostgresSite>,
}

impl PostgresSpec {
    const BASE_EVERY: Period = Period::from_seconds(24 * 3600);
    /// Without a bound, an archive that stays away fills the source's disk.
    pub const SLOT_BOUND: Size = Size::from_bytes(10 << 30);

    /// When base backups are taken.
    pub fn base_rhythm(&self) -> Rhythm<'_> {
        match &self.base_schedule {
            Some(schedule) => Rhythm::At(schedule),
            None => Rhythm::Every(self.base_every.unwrap_or(Self::BASE_EVERY)),
        }
    }

    fn default_slot_bound() -> Size {
        Self::SLOT_BOUND
    }
}

/// A question in SQL and, when given, the one value that it must return.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlProbe {
    #[serde(default = "default_database")]
    pub database: String,
    pub sql: String,
    /// The first column of the first row, as text. Without it any answer without an error passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
}

fn default_database() -> String {
    "postgres".into()
}

/// One site's place for a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSite {
    pub data_directory: PathBuf,
    /// The folder of `postgres` and `pg_ctl`; found by itself when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binaries: Option<PathBuf>,
    pub address: IpAddr,
    pub port: u16,
    /// The role that Levee connects as. It needs REPLICATION and pg_monitor.
    #[serde(default = "PostgresSite::default_user")]
    pub user: String,
    /// The *name* of the password, set on the agent with `levee agent secret set`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<String>,
    /// The operating system's user that the server runs as.
    #[serde(default = "PostgresSite::default_os_user")]
    pub os_user: String,
    /// Where each tablespace of the source is put here: path there = path here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tablespaces: BTreeMap<PathBuf, PathBuf>,
}

impl PostgresSite {
    fn default_user() -> String {
        "levee".into()
    }

    fn default_os_user() -> String {
        "postgres".into()
    }
}
