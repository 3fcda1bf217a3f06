//! Where the settings of a cluster lie that is about to be started.

use std::fs;
use std::path::{Path, PathBuf};

use super::major_version;
use crate::Result;

/// The settings that a cluster is started with where they lie elsewhere: those of its last start, or, as Debian keeps
/// them in /etc, the file that names this data directory.
pub(super) fn configuration_elsewhere(data_directory: &Path) -> Result<Option<PathBuf>> {
    let options = fs::read_to_string(data_directory.join("postmaster.opts")).unwrap_or_default();
    if let Some(named) = configuration_of_start(&options).filter(|path| path.is_file()) {
        return Ok(Some(named));
    }
    if data_directory.join("postgresql.conf").exists() {
        return Ok(None);
    }
    let root = PathBuf::from(format!("/etc/postgresql/{}", major_version(data_directory)?));
    let names_it = |path: &Path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| line.split_once('=')).any(|(name, value)| {
            let value = value.split('#').next().unwrap_or_default().trim().trim_matches('\'');
            name.trim() == "data_directory" && Path::new(value) == data_directory
        })
    };
    let folders = fs::read_dir(&root).into_iter().flatten().flatten();
    Ok(folders.map(|folder| folder.path().join("postgresql.conf")).find(|path| names_it(path)))
}

/// The `config_file` of a command line as the server writes it into `postmaster.opts`: the program, and each argument in
/// double quotes.
fn configuration_of_start(options: &str) -> Option<PathBuf> {
    let arguments = options.trim_end().split(" \"").skip(1).map(|argument| argument.trim_end_matches('"'));
    let setting = |argument: &'_ str| {
        let argument = argument.strip_prefix("--").or_else(|| argument.strip_prefix("-c")).unwrap_or(argument);
        let (name, value) = argument.trim_start().split_once('=')?;
        let value = value.trim_matches('\'');
        (name.replace('-', "_") == "config_file").then(|| PathBuf::from(value))
    };
    arguments.filter_map(setting).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_the_last_start_are_found() {
        let check = |options: &str, expected: Option<&str>| {
            assert_eq!(configuration_of_start(options), expected.map(PathBuf::from), "{options}");
        };
        check("/bin/postgres \"-D\" \"/data\"\n", None);
        check("/bin/postgres \"-D\" \"/data\" \"-c\" \"config_file=/etc/main.settings\"\n", Some("/etc/main.settings"));
        check("/bin/postgres \"-D\" \"/data\" \"-cconfig_file=/etc/a b.conf\" \"-p\" \"1\"\n", Some("/etc/a b.conf"));
        check("/bin/postgres \"--config-file=/etc/x\" \"-D\" \"/config_file=y\"\n", Some("/etc/x"));
        check("/bin/postgres \"-D\" \"/config_file=y\"", None);
        check("", None);
    }
}
