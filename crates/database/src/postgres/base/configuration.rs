use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use levee_engine::postgres::{ConnectOptions, Connection, Host, quote_literal};
use levee_model::postgres::SystemIdentifier;

use super::{CONFIGURATION_PATH, ConfigurationFile, DATA_PATH, MainFile};
use crate::postgres::references::{Kind, Language, resolved};
use crate::{Error, Result};

/// No configuration file is larger.
const SIZE_MAX: usize = 16 << 20;
/// Nobody has more files of configuration; a loop of names ends by each being taken once.
const FILES_MAX: usize = 1000;

/// A configuration file with its content, when that has to be stored beside the data directory.
pub(super) struct Captured {
    pub(super) file: ConfigurationFile,
    pub(super) content: Option<Vec<u8>>,
}

impl Captured {
    fn is_missing(&self) -> bool {
        self.file.missing.is_some()
    }
}

/// Finds the configuration files, and reads those outside the data directory, as Debian has them.
///
/// The server is asked for them; where the role may not, and the server runs on this machine, they are read from disk.
///
/// # Errors
/// `ConfigurationUnreadable` for those without which no server starts. Others are named in what is returned.
pub(super) fn capture(
    options: &ConnectOptions,
    connection: &mut Connection,
    data_directory: &Path,
    system_identifier: SystemIdentifier,
) -> Result<Vec<Captured>> {
    // The main files, and whatever else settings come from.
    // `postgresql.auto.conf` and files that are included by now-changed lines are told of as sources of settings.
    let sql = "SELECT setting AS path, name IN ('hba_file', 'ident_file') AS rules, name <> 'ident_file' AS needed, name \
               FROM pg_catalog.pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file') AND setting <> '' \
               UNION SELECT sourcefile, false, false, NULL FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL \
               ORDER BY path";
    let rows = connection.simple_query(sql).map_err(Error::engine("listing configuration files"))?;
    let needed: BTreeSet<&str> =
        rows.iter().filter(|row| row.get(2) == Some("t")).filter_map(|row| row.get(0)).collect();
    let main: BTreeMap<&str, MainFile> =
        rows.iter().filter_map(|row| Some((row.get(0)?, MainFile::of_setting(row.get(3)?)?))).collect();
    let sql = "SELECT floor(extract(epoch FROM pg_catalog.pg_postmaster_start_time()))::bigint AS started_at";
    const STARTED: &str = "asking since when the server runs";
    let started = connection.simple_query(sql).map_err(Error::engine(STARTED))?;
    let started_at_s = started.first().and_then(|row| row.get(0)?.parse().ok()).unwrap_or_default();
    let running = Running { system_identifier, started_at_s };
    let is_local = is_on_this_machine(&options.host, data_directory, &running);
    let mut reader = Reader { is_local, connection, data_directory };
    let mut captured: Vec<Captured> = Vec::new();
    let language = |rules| if rules == Some("t") { Language::Rules } else { Language::Settings };
    let mut to_do: Vec<(PathBuf, Kind, Language)> =
        rows.iter().filter_map(|row| Some((row.get(0)?.into(), Kind::File, language(row.get(1))))).collect();
    // Files name files that name files; each is taken once, whoever names it.
    let mut seen = BTreeSet::new();
    while let Some((path, kind, language)) = to_do.pop() {
        if captured.len() >= FILES_MAX {
            tracing::warn!(FILES_MAX, "the rest of the files of configuration is not in the base backup");
            break;
        }
        if !seen.insert((path.clone(), language)) {
            continue;
        }
        if kind == Kind::Folder {
            to_do.extend(reader.files_in(&path).into_iter().map(|path| (path, Kind::File, language)));
            continue;
        }
        let mut file = reader.capture(&path, language);
        file.captured.file.main = path.to_str().and_then(|path| main.get(path)).copied();
        let is_missing = file.captured.is_missing();
        to_do.extend(file.names.into_iter().map(|(path, kind)| (path, kind, language)));
        if kind != Kind::OptionalFile || !is_missing {
            captured.push(file.captured);
        }
    }
    let lacks = captured.iter().find(|captured| needed.contains(captured.file.path.as_str()) && captured.is_missing());
    match lacks.and_then(|captured| Some((&captured.file.path, captured.file.missing.as_ref()?))) {
        None => Ok(captured),
        Some((path, reason)) => Err(Error::ConfigurationUnreadable {
            path: path.into(),
            reason: reason.clone(),
            user: options.user.clone(),
            database: options.database.clone(),
        }),
    }
}

/// A file, and what it refers to.
struct Read {
    captured: Captured,
    names: Vec<(PathBuf, Kind)>,
}

struct Reader<'a> {
    connection: &'a mut Connection,
    is_local: bool,
    data_directory: &'a Path,
}

impl Reader<'_> {
    fn capture(&mut self, path: &Path, language: Language) -> Read {
        let (captured, text) = if path.starts_with(self.data_directory) {
            // What can't be read here is in the backup all the same; only what it refers to may not be.
            (self.inside(path), self.read(path).unwrap_or_default())
        } else {
            let captured = self.outside(path);
            let text = captured.content.clone().unwrap_or_default();
            (captured, text)
        };
        let references = language.references(&String::from_utf8_lossy(&text));
        let names = references.into_iter().map(|reference| (resolved(path, &reference.path), reference.kind)).collect();
        Read { captured, names }
    }

    fn inside(&self, path: &Path) -> Captured {
        let inside = path.strip_prefix(self.data_directory).unwrap_or(path);
        let stored = Some(format!("{DATA_PATH}/{}", inside.display()));
        let file = ConfigurationFile { path: path.to_string_lossy().into_owned(), stored, missing: None, main: None };
        Captured { file, content: None }
    }

    fn outside(&mut self, path: &Path) -> Captured {
        let source = path.to_string_lossy().into_owned();
        match self.read(path) {
            Ok(content) if content.len() <= SIZE_MAX => {
                let stored = format!("{CONFIGURATION_PATH}/{}", source.trim_start_matches('/'));
                let file = ConfigurationFile { path: source, stored: Some(stored), missing: None, main: None };
                Captured { file, content: Some(content) }
            }
            other => {
                let reason = other.err().unwrap_or_else(|| format!("it is larger than {SIZE_MAX} bytes"));
                tracing::warn!(path = source, reason, "a configuration file is not in the base backup");
                let file = ConfigurationFile { path: source, stored: None, missing: Some(reason), main: None };
                Captured { file, content: None }
            }
        }
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        read_from_server(self.connection, &path.to_string_lossy()).or_else(|from_server| {
            if !self.is_local {
                return Err(from_server);
            }
            std::fs::read(path).map_err(|error| format!("{from_server}; {error}"))
        })
    }

    /// The files that `include_dir` takes from a folder, as the server does.
    fn files_in(&mut self, folder: &Path) -> Vec<PathBuf> {
        let sql = format!("SELECT pg_catalog.pg_ls_dir({})", quote_literal(&folder.to_string_lossy()));
        let names: Vec<String> = match self.connection.simple_query(&sql) {
            Ok(rows) => rows.iter().filter_map(|row| row.get(0).map(str::to_owned)).collect(),
            Err(error) => {
                let entries = if self.is_local { std::fs::read_dir(folder).ok() } else { None };
                if entries.is_none() {
                    tracing::warn!(folder = %folder.display(), %error, "a folder of configuration is not in the base backup");
                }
                let names = entries.into_iter().flatten().flatten();
                names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
            }
        };
        let is_taken = |name: &&String| name.ends_with(".conf") && !name.starts_with('.');
        names.iter().filter(is_taken).map(|name| folder.join(name)).collect()
    }
}

fn read_from_server(connection: &mut Connection, path: &str) -> Result<Vec<u8>, String> {
    let sql = format!("SELECT encode(pg_catalog.pg_read_binary_file({}), 'hex')", quote_literal(path));
    let rows = connection.simple_query(&sql).map_err(|error| error.to_string())?;
    let text = rows.first().and_then(|row| row.get(0)).unwrap_or("");
    hex::decode(text).map_err(|error| error.to_string())
}

/// The server that answers: a standby, or a copy, has the same identifier, and was started at another time.
#[derive(Debug)]
struct Running {
    system_identifier: SystemIdentifier,
    /// Seconds since 1970, by its own clock.
    started_at_s: i64,
}

/// The server knows its start a moment after it has written it down; a large one takes a while in between.
const START_DIFFERENCE_MAX_S: i64 = 120;

/// Whether the server's paths are those of this machine: it runs where it says that its data lie, or nobody can look there
/// and the address leads to this machine alone. A container's server answers at such an address too, from other files.
fn is_on_this_machine(host: &Host, data_directory: &Path, running: &Running) -> bool {
    match running_in(data_directory) {
        Ok(found) => {
            found.system_identifier == running.system_identifier
                && (0..=START_DIFFERENCE_MAX_S).contains(&(running.started_at_s - found.started_at_s))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        },
        Err(_) => false,
    }
}

/// What runs in a data directory, by the first field of its control file and the third line of `postmaster.pid`.
fn running_in(data_directory: &Path) -> io::Result<Running> {
    let mut first = [0; 8];
    File::open(data_directory.join("global/pg_control"))?.read_exact(&mut first)?;
    let lines = std::fs::read_to_string(data_directory.join("postmaster.pid"))?;
    let started_at_s = lines.lines().nth(2).and_then(|line| line.trim().parse().ok());
    let started_at_s = started_at_s.ok_or_else(|| io::Error::other("postmaster.pid tells no start"))?;
    Ok(Running { system_identifier: SystemIdentifier(u64::from_ne_bytes(first)), started_at_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_here_only_where_the_cluster_itself_lies() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("global")).unwrap();
        std::fs::write(folder.path().join("global/pg_control"), 77_u64.to_ne_bytes()).unwrap();
        std::fs::write(folder.path().join("postmaster.pid"), "4711\n/data\n1800000000\n5432\n").unwrap();
        let hosts = ["127.0.0.1", "192.0.2.7"].map(|name| Host::Tcp(name.into()));
        for host in [Host::Unix("/run/postgresql".into())].into_iter().chain(hosts) {
            let check = |data_directory: &Path, identifier: u64, started_at_s: i64, expected: bool| {
                let running = Running { system_identifier: SystemIdentifier(identifier), started_at_s };
                let found = is_on_this_machine(&host, data_directory, &running);
                assert_eq!(found, expected, "{host:?}, {}, {running:?}", data_directory.display());
            };
            check(folder.path(), 77, 1_800_000_000, true);
            check(folder.path(), 77, 1_800_000_002, true);
            // A standby of it, or a copy.
            check(folder.path(), 77, 1_799_000_000, false);
            check(folder.path(), 77, 1_800_500_000, false);
            // Another cluster at the same path, or none: the server is in a container, or far away.
            check(folder.path(), 78, 1_800_000_000, false);
            check(&folder.path().join("elsewhere"), 77, 1_800_000_000, false);
        }
    }
}
