//! What keeps a server from running and is no fault of its data: other data would run no better.

use std::fmt;
use std::io::ErrorKind;

use crate::Error;

/// Something of this host that is in a server's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    DiskFull,
    PortTaken,
    /// The server's programs, what they load, or their user.
    NotInstalled,
    Denied,
    Memory,
}

impl fmt::Display for Hindrance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::DiskFull => "its disk is full: make room there",
            Self::PortTaken => "its port is taken by something else: stop that",
            Self::NotInstalled => "a program or library that it needs is not installed here: install it",
            Self::Denied => "its user may not use a file: give it back to that user",
            Self::Memory => "this machine gives it too little memory: free some",
        })
    }
}

/// What the C library says, after whatever was being done.
const REASONS: [(&str, Hindrance); 7] = [
    (": No space left on device", Hindrance::DiskFull),
    (": Disk quota exceeded", Hindrance::DiskFull),
    (": Read-only file system", Hindrance::Denied),
    (": Permission denied", Hindrance::Denied),
    (": Operation not permitted", Hindrance::Denied),
    (": Address already in use", Hindrance::PortTaken),
    (": Cannot allocate memory", Hindrance::Memory),
];

/// What the server says when a library is not there, and of the modes of its data directory.
const SAYINGS: [(&str, Hindrance); 4] = [
    ("could not access file \"", Hindrance::NotInstalled),
    ("could not load library \"", Hindrance::NotInstalled),
    ("has wrong ownership", Hindrance::Denied),
    ("has invalid permissions", Hindrance::Denied),
];

/// The lines of a log that say why a server ends. The same reasons in others may be a client's.
const GRAVE: [&str; 3] = ["FATAL:", "PANIC:", "could not bind "];

impl Hindrance {
    /// What an attempt to start a server has met. The log is another matter: the end of it that an error shows may be
    /// older than the attempt.
    pub fn of_error(error: &Error) -> Option<Hindrance> {
        match error {
            Error::NoBinaries { .. } | Error::NoSuchUser { .. } => Some(Self::NotInstalled),
            Error::NotThatUser { .. } => Some(Self::Denied),
            Error::File { source, .. } => Self::of_kind(source.kind()),
            // A program that is not there, where a file may be one of the data.
            Error::System { source, .. } if source.kind() == ErrorKind::NotFound => Some(Self::NotInstalled),
            Error::System { source, .. } => Self::of_kind(source.kind()),
            Error::Program { printed, .. } => printed.lines().find_map(Self::of_line),
            _ => None,
        }
    }

    /// The last one in what a server has logged since it was started. Logs in other languages than English say nothing.
    pub fn in_log(text: &str) -> Option<Hindrance> {
        let mut grave = text.lines().rev().filter(|line| GRAVE.iter().any(|word| line.contains(word)));
        grave.find_map(Self::of_line)
    }

    fn of_line(line: &str) -> Option<Hindrance> {
        REASONS.iter().chain(&SAYINGS).find(|(words, _)| line.contains(words)).map(|(_, hindrance)| *hindrance)
    }

    fn of_kind(kind: ErrorKind) -> Option<Hindrance> {
        match kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(Self::DiskFull),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some(Self::Denied),
            ErrorKind::AddrInUse => Some(Self::PortTaken),
            ErrorKind::OutOfMemory => Some(Self::Memory),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_no_fault_of_the_data_is_found_in_a_log() {
        let check = |log: &str, expected: Option<Hindrance>| assert_eq!(Hindrance::in_log(log), expected, "{log}");
        check(
            "LOG:  starting PostgreSQL 15.18\n\
             LOG:  could not bind IPv4 address \"127.0.0.3\": Address already in use\n\
             HINT:  Is another postmaster already running on port 5432?\n\
             FATAL:  could not create any TCP/IP sockets\n\
             LOG:  database system is shut down\n",
            Some(Hindrance::PortTaken),
        );
        check(
            "PANIC:  could not write to file \"pg_wal/xlogtemp.1\": No space left on device\n\
             LOG:  startup process (PID 1) was terminated by signal 6: Aborted\n",
            Some(Hindrance::DiskFull),
        );
        check("FATAL:  could not write lock file \"postmaster.pid\": Disk quota exceeded", Some(Hindrance::DiskFull));
        check("FATAL:  could not open file \"base/5/1259\": Permission denied", Some(Hindrance::Denied));
        check("FATAL:  data directory \"/srv/orders\" has wrong ownership", Some(Hindrance::Denied));
        check("FATAL:  could not access file \"pg_cron\": No such file or directory", Some(Hindrance::NotInstalled));
        check("FATAL:  could not map anonymous shared memory: Cannot allocate memory", Some(Hindrance::Memory));
        // Of the data.
        check("postgres: could not find the database system\nExpected to find it in the directory \"/srv\"", None);
        check("FATAL:  could not open file \"pg_xact/0000\": No such file or directory", None);
        check("PANIC:  could not locate a valid checkpoint record", None);
        check("FATAL:  requested timeline 3 is not a child of this server's history", None);
        // Of others.
        check("FATAL:  permission denied for database \"shop\"", None);
        check("LOG:  could not open usermap file \"pg_ident.conf\": Permission denied", None);
        check("", None);
    }

    #[test]
    fn the_last_reason_counts() {
        let log = "FATAL:  could not extend file \"x\": No space left on device\n\
                   FATAL:  could not open file \"y\": Permission denied\n";
        assert_eq!(Hindrance::in_log(log), Some(Hindrance::Denied));
    }

    #[test]
    fn only_what_is_no_fault_of_the_data_is_found_in_an_error() {
        let check = |error: Error, expected: Option<Hindrance>| {
            assert_eq!(Hindrance::of_error(&error), expected, "{error}");
        };
        let file = |kind: ErrorKind| Error::File { doing: "reading", path: "/srv/orders".into(), source: kind.into() };
        check(file(ErrorKind::StorageFull), Some(Hindrance::DiskFull));
        check(file(ErrorKind::PermissionDenied), Some(Hindrance::Denied));
        check(file(ErrorKind::NotFound), None);
        let program = |kind: ErrorKind| Error::System { doing: "pg_ctl start", source: kind.into() };
        check(program(ErrorKind::NotFound), Some(Hindrance::NotInstalled));
        check(Error::NoBinaries { major: 15, looked_in: "/usr".into() }, Some(Hindrance::NotInstalled));
        let printed = "pg_ctl: could not open log file \"/x\": No space left on device".to_string();
        check(Error::Program { program: "pg_ctl start", printed }, Some(Hindrance::DiskFull));
        // What its log ends with may be of another time.
        let last_lines = "FATAL:  could not write file: No space left on device".to_string();
        check(Error::ServerDied { data_directory: "/srv".into(), log: "/log".into(), last_lines }, None);
    }
}
