use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use levee_engine::postgres::{self as engine, ConnectOptions, Connection, Row, ServerVersion, quote_literal};
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

use super::StandbyNames;
use crate::{Error, Result};

/// A clock that is further off than this is worth a warning.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_secs(5);

/// Which kind of server there must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Primary,
    Standby,
    Either,
}

/// What a server is to be used for.
#[derive(Clone, Debug)]
pub struct Needs {
    pub expect: Expect,
    /// Levee is to be the synchronous standby.
    pub zero_loss: bool,
    /// Levee's `application_name` as a receiver.
    pub application_name: String,
    /// The slot that will be used. One that is there already needs no free place.
    pub slot: Option<String>,
    /// The cluster that it must be, when that is known.
    pub system_identifier: Option<SystemIdentifier>,
}

/// What a server is like.
#[derive(Clone, Debug)]
pub struct SourceReport {
    pub version: ServerVersion,
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub flushed: Lsn,
    pub segment_size: SegmentSize,
    pub data_checksums: bool,
    pub is_standby: bool,
    pub data_directory: Option<String>,
    /// The server's clock minus ours, halfway through the question.
    pub clock_skew: SignedDuration,
    /// The skew may be wrong by this much: half the time that the question took.
    pub clock_skew_uncertainty: Duration,
    pub warnings: Vec<Warning>,
}

/// What does not hinder protection, but should be known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    #[error(
        "PostgreSQL's clock is {} s apart from this machine's: set both by NTP, or ages and the times of restores will surprise",
        skew.as_secs().unsigned_abs()
    )]
    ClockSkew { skew: SignedDuration },
    #[error(
        "max_slot_wal_keep_size has no bound: should this agent be away for long, the log that is kept for it could fill the disk; set it somewhat above the slot's bound"
    )]
    SlotUnbounded,
    #[error("page checksums are off, so that damage in data files goes unseen; see pg_checksums")]
    NoPageChecksums,
    #[error(
        "full_page_writes is off: a base backup that was taken under load can't be repaired by the log; set it to on"
    )]
    NoFullPageWrites,
    #[error("fsync is off: after a crash of its machine, the server may be ahead of or behind what was archived")]
    NoFsync,
}

/// Looks whether a server can be protected, and says what is in the way.
pub fn preflight(options: &ConnectOptions, needs: &Needs) -> Result<SourceReport> {
    let mut connection = connect(options, Connection::connect)?;
    let version = connection.server_version();
    if !(13..=17).contains(&version.major()) {
        return Err(Error::UnsupportedVersion { version: version.to_string() });
    }
    let settings = Settings::read(&mut connection)?;
    check_rights(&settings, &options.user)?;
    check_kind(&settings, needs.expect)?;
    check_build(&settings)?;
    if settings.text("wal_level") == "minimal" {
        return Err(Error::WalLevelMinimal);
    }
    check_capacity(&mut connection, &settings, needs)?;
    check_commits(&mut connection, &settings, needs)?;
    let (clock_skew, clock_skew_uncertainty) = clock_skew(&mut connection)?;

    // The replication line of pg_hba.conf is another than that for queries.
    let mut replication = connect(options, Connection::connect_replication)?;
    let system = replication.identify_system().map_err(Error::engine("identifying the server"))?;
    if let Some(expected) = needs.system_identifier
        && expected != system.system_identifier
    {
        return Err(Error::OtherCluster { expected, found: system.system_identifier });
    }
    let mut report = SourceReport {
        version,
        system_identifier: system.system_identifier,
        timeline: system.timeline,
        flushed: system.flushed,
        segment_size: settings.segment_size()?,
        data_checksums: settings.is_on("data_checksums"),
        is_standby: settings.is_on("is_standby"),
        data_directory: settings.row.by_name("data_directory").map(str::to_owned),
        clock_skew,
        clock_skew_uncertainty,
        warnings: Vec::new(),
    };
    report.warnings = warnings(&report, &settings);
    Ok(report)
}

/// Connects, with the errors that an operator can do something about told apart.
pub(super) fn connect(
    options: &ConnectOptions,
    by: fn(&ConnectOptions) -> engine::Result<Connection>,
) -> Result<Connection> {
    const INVALID_PASSWORD: &str = "28P01";
    const INVALID_AUTHORIZATION: &str = "28000";
    const INSUFFICIENT_PRIVILEGE: &str = "42501";
    const TOO_MANY_CONNECTIONS: &str = "53300";
    let (user, address) = (options.user.clone(), options.address());
    by(options).map_err(|source| match (&source, source.sqlstate()) {
        (_, Some(INVALID_PASSWORD)) => Error::WrongPassword { user, address },
        (engine::Error::PasswordNeeded { .. }, _) => Error::NoPassword { user, address },
        (engine::Error::Server(server), Some(INVALID_AUTHORIZATION | INSUFFICIENT_PRIVILEGE))
            if server.message.contains("replication") && !server.message.contains("pg_hba.conf") =>
        {
            Error::NoReplicationRight { user }
        }
        (_, Some(INVALID_AUTHORIZATION)) => Error::NotAdmitted { user, address, source: Box::new(source) },
        (engine::Error::Server(server), Some(TOO_MANY_CONNECTIONS)) if server.message.contains("max_wal_senders") => {
            Error::AllSendersInUse { source }
        }
        (engine::Error::Connect { .. } | engine::Error::TimedOut { .. } | engine::Error::Closed { .. }, _) => {
            Error::NotReachable { address, source }
        }
        _ => Error::Engine { doing: "connecting to PostgreSQL", source },
    })
}

struct Settings {
    row: Row,
}

impl Settings {
    fn read(connection: &mut Connection) -> Result<Self> {
        // `current_setting` refuses what the role may not see, unless it is asked not to.
        let names = [
            "wal_level",
            "wal_segment_size",
            "data_directory",
            "data_checksums",
            "block_size",
            "wal_block_size",
            "max_wal_senders",
            "max_replication_slots",
            "max_slot_wal_keep_size",
            "synchronous_commit",
            "synchronous_standby_names",
            "full_page_writes",
            "fsync",
        ];
        let listed: Vec<String> = names
            .iter()
            .map(|name| {
                format!("(SELECT setting FROM pg_catalog.pg_settings WHERE name = {}) AS {name}", quote_literal(name))
            })
            .collect();
        let sql = format!(
            "SELECT {}, \
             CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'on' ELSE 'off' END AS is_standby, \
             CASE WHEN rolreplication OR rolsuper THEN 'on' ELSE 'off' END AS may_replicate, \
             CASE WHEN rolsuper OR pg_catalog.pg_has_role('pg_monitor', 'member') THEN 'on' ELSE 'off' END AS may_monitor \
             FROM pg_catalog.pg_roles WHERE rolname = current_user",
            listed.join(", ")
        );
        let rows = connection.simple_query(&sql).map_err(Error::engine("reading the server's settings"))?;
        let row = rows.into_iter().next().ok_or(Error::Engine {
            doing: "reading the server's settings",
            source: engine::Error::Closed { doing: "reading the role's rights" },
        })?;
        Ok(Self { row })
    }

    fn text(&self, name: &str) -> &str {
        self.row.by_name(name).unwrap_or("")
    }

    fn is_on(&self, name: &str) -> bool {
        self.text(name) == "on"
    }

    fn number(&self, name: &'static str) -> Result<u64> {
        self.row.parsed("reading the server's settings", name).map_err(Error::engine("reading the server's settings"))
    }

    fn segment_size(&self) -> Result<SegmentSize> {
        let bytes = self.number("wal_segment_size")?;
        let unsupported = |_| Error::UnsupportedBuild { what: "WAL segments", bytes, expected: 16 << 20 };
        SegmentSize::new(bytes).map_err(unsupported)
    }
}

fn check_rights(settings: &Settings, user: &str) -> Result<()> {
    if !settings.is_on("may_replicate") {
        return Err(Error::NoReplicationRight { user: user.into() });
    }
    if !settings.is_on("may_monitor") {
        return Err(Error::NoMonitorRight { user: user.into() });
    }
    Ok(())
}

fn check_kind(settings: &Settings, expect: Expect) -> Result<()> {
    match (expect, settings.is_on("is_standby")) {
        (Expect::Primary, true) => Err(Error::IsStandby),
        (Expect::Standby, false) => Err(Error::IsPrimary),
        _ => Ok(()),
    }
}

fn check_build(settings: &Settings) -> Result<()> {
    for (name, what) in [("block_size", "data pages"), ("wal_block_size", "WAL pages")] {
        let bytes = settings.number(name)?;
        if bytes != 8192 {
            return Err(Error::UnsupportedBuild { what, bytes, expected: 8192 });
        }
    }
    Ok(())
}

/// A base backup takes one sender beside the archive's own; the slot takes a place.
fn check_capacity(connection: &mut Connection, settings: &Settings, needs: &Needs) -> Result<()> {
    const DOING: &str = "counting WAL senders and slots";
    let own_slot = needs.slot.as_deref().map_or("NULL".into(), quote_literal);
    let sql = format!(
        "SELECT (SELECT count(*) FROM pg_catalog.pg_stat_replication) AS senders, \
         (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name IS DISTINCT FROM {own_slot}) AS slots"
    );
    let rows = connection.simple_query(&sql).map_err(Error::engine(DOING))?;
    let count = |name| -> Result<u64> {
        let row = rows.first().ok_or(engine::Error::Closed { doing: DOING }).map_err(Error::engine(DOING))?;
        row.parsed(DOING, name).map_err(Error::engine(DOING))
    };
    let (senders_max, slots_max) = (settings.number("max_wal_senders")?, settings.number("max_replication_slots")?);
    if count("senders")? >= senders_max {
        return Err(Error::NoFreeSender { max: senders_max });
    }
    if needs.slot.is_some() && count("slots")? >= slots_max {
        return Err(Error::NoFreeSlot { max: slots_max });
    }
    Ok(())
}

/// Why commits do not all wait for this receiver, as an error; for a look from time to time.
pub(super) fn check_zero_loss(options: &ConnectOptions, needs: &Needs) -> Result<()> {
    let mut connection = connect(options, Connection::connect)?;
    let settings = Settings::read(&mut connection)?;
    check_commits(&mut connection, &settings, needs)
}

/// Whether commits wait for Levee when they should, and never in vain.
fn check_commits(connection: &mut Connection, settings: &Settings, needs: &Needs) -> Result<()> {
    const DOING: &str = "reading how commits wait";
    let listed = settings.text("synchronous_standby_names");
    let names = listed.parse::<StandbyNames>().ok();
    let name = needs.application_name.to_lowercase();
    let is_waited_for = names.as_ref().is_some_and(|names| names.names.iter().any(|n| *n == name || n == "*"));
    // Roles and databases may set it for themselves.
    let sql = "SELECT coalesce(' for role \"' || r.rolname || '\"', '') || coalesce(' in database \"' || d.datname || '\"', '') AS place, \
               split_part(c.setting, '=', 2) AS value FROM pg_catalog.pg_db_role_setting s \
               CROSS JOIN unnest(s.setconfig) AS c (setting) \
               LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
               WHERE c.setting LIKE 'synchronous_commit=%'";
    let rows = connection.simple_query(sql).map_err(Error::engine(DOING))?;
    let special = rows.iter().map(|row| (row.by_name("place").unwrap_or(""), row.by_name("value").unwrap_or("")));
    let everywhere = std::iter::once(("", settings.text("synchronous_commit"))).chain(special);
    for (place, value) in everywhere {
        if value == "remote_apply" && (needs.zero_loss || is_waited_for) {
            return Err(Error::RemoteApply { at: place.into() });
        }
        // A role that asks not to wait knows what it gives up; the server's own setting goes for everyone.
        if needs.zero_loss && place.is_empty() && ["off", "local"].contains(&value) {
            return Err(Error::CommitsDoNotWait { value: value.into(), at: place.into() });
        }
    }
    if !needs.zero_loss {
        return Ok(());
    }
    let reason = match &names {
        Some(names) => names.why_not_in_every_quorum(&name),
        None => Some("it can't be read"),
    };
    if let Some(reason) = reason {
        let application_name = needs.application_name.clone();
        return Err(Error::NotInEveryQuorum { setting: listed.into(), application_name, reason });
    }
    check_name_is_unique(connection, needs)
}

/// Another receiver of our name would stand in for us. Our own, from before, holds our slot, and one that has just
/// connected takes nothing yet.
fn check_name_is_unique(connection: &mut Connection, needs: &Needs) -> Result<()> {
    let slot = needs.slot.as_deref().map_or("NULL".into(), quote_literal);
    let sql = format!(
        "SELECT coalesce(host(client_addr), 'this machine') AS client FROM pg_catalog.pg_stat_replication \
         WHERE lower(application_name) = lower({}) AND state <> 'startup' AND pid NOT IN \
         (SELECT active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = {slot} AND active_pid IS NOT NULL)",
        quote_literal(&needs.application_name)
    );
    let rows = connection.simple_query(&sql).map_err(Error::engine("reading the server's receivers"))?;
    match rows.first() {
        None => Ok(()),
        Some(row) => Err(Error::ApplicationNameTaken {
            application_name: needs.application_name.clone(),
            client: row.by_name("client").unwrap_or("?").into(),
        }),
    }
}

fn clock_skew(connection: &mut Connection) -> Result<(SignedDuration, Duration)> {
    const DOING: &str = "reading the server's clock";
    let (asked, began) = (Timestamp::now(), Instant::now());
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS microseconds";
    let rows = connection.simple_query(sql).map_err(Error::engine(DOING))?;
    let half = began.elapsed() / 2;
    let microseconds: i64 = rows
        .first()
        .ok_or(engine::Error::Closed { doing: DOING })
        .and_then(|row| row.parsed(DOING, "microseconds"))
        .map_err(Error::engine(DOING))?;
    let ours = SignedDuration::from_micros(asked.as_microsecond()) + SignedDuration::try_from(half).unwrap_or_default();
    Ok((SignedDuration::from_micros(microseconds) - ours, half))
}

fn warnings(report: &SourceReport, settings: &Settings) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if report.clock_skew.abs() > CLOCK_SKEW_MAX {
        warnings.push(Warning::ClockSkew { skew: report.clock_skew });
    }
    if settings.text("max_slot_wal_keep_size") == "-1" {
        warnings.push(Warning::SlotUnbounded);
    }
    if !report.data_checksums {
        warnings.push(Warning::NoPageChecksums);
    }
    if !settings.is_on("full_page_writes") {
        warnings.push(Warning::NoFullPageWrites);
    }
    if !settings.is_on("fsync") {
        warnings.push(Warning::NoFsync);
    }
    warnings
}
