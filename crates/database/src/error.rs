use std::path::PathBuf;

use jiff::Timestamp;
use levee_engine::postgres as engine;
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use levee_model::{AppName, Epoch};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something about a database could not be done, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "PostgreSQL at {address} can't be reached: check that it runs, and that its host, port and listen_addresses are right"
    )]
    NotReachable { address: String, source: engine::Error },
    #[error("PostgreSQL at {address} refused the password of role {user:?}: set the right one for this asset")]
    WrongPassword { user: String, address: String },
    #[error(
        "PostgreSQL at {address} asks role {user:?} for a password, and none is set: name one with `password_secret` and set it on the agent"
    )]
    NoPassword { user: String, address: String },
    #[error(
        "PostgreSQL at {address} does not let role {user:?} connect: create it where it is not there (CREATE ROLE {user} LOGIN REPLICATION), add a line for it (for a database and for `replication`) to pg_hba.conf and reload"
    )]
    NotAdmitted { user: String, address: String, source: Box<engine::Error> },
    #[error("role {user:?} has not the REPLICATION right: run ALTER ROLE {user} REPLICATION")]
    NoReplicationRight { user: String },
    #[error("role {user:?} can't read the server's settings and slots: run GRANT pg_monitor TO {user}")]
    NoMonitorRight { user: String },
    #[error("this is PostgreSQL {version}; Levee works with 13 to 17")]
    UnsupportedVersion { version: String },
    #[error("the server was built with {what} of {bytes} bytes; Levee works with {expected}")]
    UnsupportedBuild { what: &'static str, bytes: u64, expected: u64 },
    #[error(
        "wal_level is `minimal`, which keeps too little in the log: set wal_level = replica and restart PostgreSQL"
    )]
    WalLevelMinimal,
    #[error(
        "synchronous_commit is `remote_apply`{at}, but Levee stores the log and applies nothing, so commits would wait for ever: set it to `on`"
    )]
    RemoteApply {
        /// Empty, or where it is set, as in ` for role "app"`.
        at: String,
    },
    #[error(
        "zero loss is asked for, but synchronous_commit is `{value}`{at}, so that commits do not wait for Levee: set it to `on`"
    )]
    CommitsDoNotWait { value: String, at: String },
    #[error(
        "zero loss is asked for, but synchronous_standby_names is {setting:?}: {reason}. Set it to 'FIRST 1 ({application_name})', or have every listed standby required"
    )]
    NotInEveryQuorum { setting: String, application_name: String, reason: &'static str },
    #[error(
        "zero loss is asked for, but another receiver is connected as {application_name:?} from {client}: give each receiver an application_name of its own"
    )]
    ApplicationNameTaken { application_name: String, client: String },
    #[error("all {max} WAL senders are in use: raise max_wal_senders by 2 and restart PostgreSQL")]
    NoFreeSender { max: u64 },
    #[error("all {max} replication slots are in use: raise max_replication_slots and restart PostgreSQL, or drop one")]
    NoFreeSlot { max: u64 },
    #[error("all WAL senders are in use: raise max_wal_senders by 2 and restart PostgreSQL")]
    AllSendersInUse { source: engine::Error },
    #[error("all replication slots are in use: raise max_replication_slots and restart PostgreSQL, or drop one")]
    AllSlotsInUse { source: engine::Error },
    #[error("a primary is expected, but this server is in recovery: point Levee at the primary, or promote this one")]
    IsStandby,
    #[error("a standby is expected, but this server is a primary")]
    IsPrimary,
    #[error(
        "the server's system identifier is {found}, but {expected} is expected: this is another database cluster; check the address, or protect it as a new asset"
    )]
    OtherCluster { expected: SystemIdentifier, found: SystemIdentifier },
    #[error("{name:?} is not a valid slot name: use 1 to 63 characters of a-z, 0-9 and '_'")]
    InvalidSlotName { name: String },
    #[error("slot {slot:?} is in use by another receiver{by}: stop that one, or give this asset another slot")]
    SlotInUse {
        slot: String,
        /// Empty, or who it is, as in ` (process 4711)`.
        by: String,
    },
    #[error("the slot is in use: the connection before may not have ended yet, or another receiver uses it")]
    SlotBusy { source: engine::Error },
    #[error("slot {slot:?} is a logical one: drop it, or give this asset another slot")]
    SlotIsLogical { slot: String },
    #[error(
        "there is a gap in the log: {needed} on timeline {timeline} is needed next, but the server has removed it{since}. What was stored before stays restorable up to {needed}; take a new base backup and start the log again from there"
    )]
    Gap {
        needed: Lsn,
        timeline: TimelineId,
        /// Empty, or why, as in ` (slot "levee" had been dropped)`.
        since: String,
    },
    #[error(
        "the stored log ends at {stored} on timeline {timeline}, ahead of the server, which is at {server}: the server was set back to an older state; protect it as a new lineage"
    )]
    SourceBehind { stored: Lsn, server: Lsn, timeline: TimelineId },
    #[error(
        "the stored log is of timeline {stored}, which is not in the history of the server's timeline {server}: they have parted, and the server lacks a part of what is stored; protect it as a new lineage"
    )]
    Diverged { stored: TimelineId, server: TimelineId },
    #[error("the log cannot be sent")]
    Sink(#[source] crate::postgres::SinkError),
    #[error(
        "a base backup failed: {problems} problem(s) between what was received and the backup's manifest, first: {first}"
    )]
    BaseDiffers { problems: usize, first: String },
    #[error(
        "a base backup failed, because the server found damaged pages in its data files: {detail}. Look into the server's log, repair or restore the table, or accept damaged pages for one backup"
    )]
    DamagedPages { detail: String },
    #[error("snapshot {snapshot} holds no base backup that this version understands")]
    NotABase { snapshot: String, source: Option<serde_json::Error> },
    #[error("there is no user {user:?} on this machine: name the one that PostgreSQL is to run as (`os_user`)")]
    NoSuchUser { user: String },
    #[error("PostgreSQL is to run as user {user:?}: run this as root or as that user")]
    NotThatUser { user: String },
    #[error(
        "PostgreSQL {major} is not installed here (looked in {looked_in}): install that version, or say where its programs are (`binaries`)"
    )]
    NoBinaries { major: u32, looked_in: String },
    #[error("{program} failed: {printed}")]
    Program { program: &'static str, printed: String },
    #[error(
        "PostgreSQL in {} has ended by itself; the end of its log ({}) is:\n{last_lines}",
        data_directory.display(),
        log.display()
    )]
    ServerDied { data_directory: PathBuf, log: PathBuf, last_lines: String },
    #[error(
        "PostgreSQL in {} has not {what} within {seconds} s; the end of its log is:\n{last_lines}",
        data_directory.display()
    )]
    ServerTimedOut { what: &'static str, data_directory: PathBuf, seconds: u64, last_lines: String },
    #[error(
        "the standby has replayed up to {replayed} and not yet up to {wanted} after {seconds} s: look into its log, or wait longer"
    )]
    ReplayTooSlow { wanted: Lsn, replayed: Lsn, seconds: u64 },
    #[error("app {app} may not be started here: {reason}")]
    GateShut { app: AppName, reason: String },
    #[error(
        "epoch {epoch} of app {app} is over: this site knows epoch {known}, or has stopped the app at it for good; `levee status` says where it is written"
    )]
    GateStale { app: AppName, epoch: Epoch, known: Epoch },
    #[error("the start gate in {} can't be read, so nothing is started: repair or remove the file", path.display())]
    GateUnreadable { path: PathBuf, source: serde_json::Error },
    #[error("{doing} failed")]
    Journal { doing: &'static str, source: levee_journal::Error },
    #[error(
        "{} is not empty: nothing is overwritten; restore into another folder, or move this one away",
        path.display()
    )]
    NotEmpty { path: PathBuf },
    #[error("there is no base backup to restore from: take one with `levee database backup`")]
    NoBase,
    #[error(
        "{target} lies before the first base backup: the earliest moment that can be restored is {first_lsn}, {first_time}"
    )]
    BeforeFirst { target: String, first_lsn: Lsn, first_time: Timestamp },
    #[error("{target} lies behind the last record: the log ends at {end}{as_of}")]
    AfterLast {
        target: String,
        end: Lsn,
        /// Empty, or the moment up to which the log has everything, as in `, which is all up to …`.
        as_of: String,
    },
    #[error("{target} is not in the log between {from} and {to}: check the name, or restore to a time or a position")]
    UnknownTarget { target: String, from: Lsn, to: Lsn },
    #[error("{target} fits more than one position: {candidates}; restore to one of these positions with --lsn")]
    AmbiguousTarget { target: String, candidates: String },
    #[error(
        "the base backup is of system {base}, and the journal holds the log of {journal}: they do not belong together"
    )]
    OtherLineage { base: SystemIdentifier, journal: String },
    #[error("timeline {timeline} is not in the journal, or does not descend from the base backup's")]
    UnknownTimeline { timeline: TimelineId },
    #[error(
        "the log between the base backup and the target is not complete: timeline {timeline} is needed from {from} to {to}{have}"
    )]
    LogMissing {
        timeline: TimelineId,
        from: Lsn,
        to: Lsn,
        /// Empty, or what is there, as in `, and is there from … to …`.
        have: String,
    },
    #[error(
        "user {user:?}, which PostgreSQL runs as, can't read the journal in {} through restore_command: {reason}. Let that user pass through the folders above it (chmod o+x)",
        journal.display()
    )]
    JournalClosedTo { user: String, journal: PathBuf, reason: String },
    #[error(
        "the base backup could not be restored whole: {problems} problem(s), first: {first}. Mend that (a full disk needs room) and run this again: it begins anew"
    )]
    NotRestored { problems: u64, first: String },
    /// Another base backup may be sound.
    #[error(
        "the base backup {snapshot} of {started_at} is damaged: {first}. Find out what else is with `levee vault check --read-data`"
    )]
    BaseDamaged { snapshot: String, started_at: Timestamp, first: String },
    #[error(
        "base backup {snapshot} holds no {name}: it lay outside the data directory and could not be read when the backup was taken. Take a new one, which says what hinders it, or restore from another"
    )]
    NoConfiguration { name: &'static str, snapshot: String },
    #[error(
        "the configuration file {} lies outside the data directory and can't be read, so that a base backup would be of no use: {reason}. Let this run as root on the database's own machine, or let the role read it: in database {database}, GRANT pg_read_server_files TO \"{user}\"; GRANT EXECUTE ON FUNCTION pg_read_binary_file(text), pg_ls_dir(text) TO \"{user}\"",
        path.display()
    )]
    ConfigurationUnreadable { path: PathBuf, reason: String, user: String, database: String },
    #[error("a unix socket's path may have 107 bytes, and {} has more: use a shorter folder", path.display())]
    SocketPathTooLong { path: PathBuf },
    #[error("{setting} has a line break or another character that can't stand in a configuration file: {value:?}")]
    InvalidSetting { setting: &'static str, value: String },
    #[error("stopped before it was done")]
    Stopped,
    #[error("{doing} failed")]
    Engine { doing: &'static str, source: engine::Error },
    #[error("{doing} failed")]
    Vault { doing: &'static str, source: levee_vault::Error },
    #[error("{doing} {} failed", path.display())]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{doing} failed")]
    System { doing: &'static str, source: std::io::Error },
}

impl Error {
    /// Whether a base backup is damaged, so that another one may do.
    pub fn is_damaged_base(&self) -> bool {
        matches!(self, Error::BaseDamaged { .. })
    }

    /// The message with those of its causes, for a status line.
    pub fn with_causes(&self) -> String {
        error_text(self)
    }

    /// For `map_err`: names what was being done with the vault.
    pub(crate) fn vault(doing: &'static str) -> impl FnOnce(levee_vault::Error) -> Error {
        move |source| Error::Vault { doing, source }
    }

    /// For `map_err`: names what was being done with the server.
    pub(crate) fn engine(doing: &'static str) -> impl FnOnce(engine::Error) -> Error {
        move |source| Error::Engine { doing, source }
    }
}

/// An error with its causes, each said once, as one line.
pub(crate) fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
