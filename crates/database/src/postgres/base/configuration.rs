use std::path::{Path, PathBuf};

use levee_engine::postgres::{ConnectOptions, Connection, Host, Row, quote_literal};

use super::{CONFIGURATION_PATH, ConfigurationFile, DATA_PATH};
use crate::{Error, Result};

/// No configuration file is larger.
const SIZE_MAX: usize = 16 << 20;

/// A configuration file with its content, when that has to be stored beside the data directory.
pub(super) struct Captured {
    pub(super) file: ConfigurationFile,
    pub(super) content: Option<Vec<u8>>,
}

/// Finds the configuration files, and reads those outside the data directory, as Debian has them.
///
/// The server is asked for them; where the role may not, and the server runs on this machine, they are read from disk.
pub(super) fn capture(
    options: &ConnectOptions,
    connection: &mut Connection,
    data_directory: &Path,
) -> Result<Vec<Captured>> {
    // The main files, and whatever else settings come from.
    let sql = "SELECT setting AS path FROM pg_catalog.pg_settings \
               WHERE name IN ('config_file', 'hba_file', 'ident_file') AND setting <> '' \
               UNION SELECT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL ORDER BY path";
    let rows = connection.simple_query(sql).map_err(Error::engine("listing configuration files"))?;
    let paths: Vec<PathBuf> = rows.iter().filter_map(|row: &Row| row.get(0).map(PathBuf::from)).collect();
    Ok(paths.iter().map(|path| capture_one(options, connection, data_directory, path)).collect())
}

fn capture_one(options: &ConnectOptions, connection: &mut Connection, data_directory: &Path, path: &Path) -> Captured {
    let source = path.to_string_lossy().into_owned();
    if let Ok(inside) = path.strip_prefix(data_directory) {
        let stored = Some(format!("{DATA_PATH}/{}", inside.display()));
        return Captured { file: ConfigurationFile { path: source, stored, missing: None }, content: None };
    }
    let content = read_from_server(connection, &source).or_else(|from_server| {
        if !is_this_machine(&options.host) {
            return Err(from_server);
        }
        std::fs::read(path).map_err(|error| format!("{from_server}; {error}"))
    });
    match content {
        Ok(content) if content.len() <= SIZE_MAX => {
            let stored = format!("{CONFIGURATION_PATH}/{}", source.trim_start_matches('/'));
            let file = ConfigurationFile { path: source, stored: Some(stored), missing: None };
            Captured { file, content: Some(content) }
        }
        other => {
            let reason = other.err().unwrap_or_else(|| format!("it is larger than {SIZE_MAX} bytes"));
            tracing::warn!(path = source, reason, "a configuration file is not in the base backup");
            let file = ConfigurationFile { path: source, stored: None, missing: Some(reason) };
            Captured { file, content: None }
        }
    }
}

fn read_from_server(connection: &mut Connection, path: &str) -> Result<Vec<u8>, String> {
    let sql = format!("SELECT encode(pg_catalog.pg_read_binary_file({}), 'hex')", quote_literal(path));
    let rows = connection.simple_query(&sql).map_err(|error| error.to_string())?;
    let text = rows.first().and_then(|row| row.get(0)).unwrap_or("");
    hex::decode(text).map_err(|error| error.to_string())
}

fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}
