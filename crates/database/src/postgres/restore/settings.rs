//! The settings that a restored server starts with.

use std::fs;
use std::path::Path;

use super::plan::{RestorePlan, Stop};
use super::{Mode, Network, RestoreRequest};
use crate::{Error, Result};

const BEGIN: &str = "# Set by Levee for this restore; later ALTER SYSTEM commands replace them.";
const END: &str = "# End of what Levee has set.";

/// Settings that would make a copy act like the server that it was taken from.
const CLEARED: [(&str, &str); 9] = [
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    // Without the standby that it names, every commit would wait for ever.
    ("synchronous_standby_names", ""),
    ("promote_trigger_file", ""),
    ("recovery_min_apply_delay", "0"),
];

/// Settings of Debian's kind that name places outside the data directory.
const PLACES: [&str; 5] = ["data_directory", "hba_file", "ident_file", "external_pid_file", "stats_temp_directory"];

/// Those of them that say where a main file is.
const MAIN_PLACES: [&str; 2] = ["hba_file", "ident_file"];

/// At most one of these may be set, even to nothing, so that others have to go.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"];

/// How often a standby asks for more log: an upper bound of the time that a switchover waits for it.
const RETRIEVE_RETRY: &str = "200ms";

pub(super) fn of(request: &RestoreRequest<'_>, identity_file: &Path) -> Result<Vec<(&'static str, String)>> {
    let plan = request.plan;
    let major = plan.base.facts.server_version / 10_000;
    let mut settings: Vec<(&'static str, String)> = CLEARED
        .iter()
        // It was removed in version 16.
        .filter(|(name, _)| *name != "promote_trigger_file" || major < 16)
        .map(|(name, value)| (*name, (*value).into()))
        .collect();
    let mut set = |name: &'static str, value: String| settings.push((name, value));
    set("restore_command", restore_command(request, identity_file)?);
    match plan.stop {
        Stop::End => {}
        Stop::Before(lsn) => set("recovery_target_lsn", lsn.to_string()),
        Stop::BeforeXid(xid) => set("recovery_target_xid", xid.to_string()),
    }
    set("recovery_target_inclusive", "off".into());
    set("recovery_target_timeline", timeline(request.mode, plan));
    set("recovery_target_action", if request.mode == Mode::Pause { "pause" } else { "promote" }.into());
    set("wal_retrieve_retry_interval", RETRIEVE_RETRY.into());
    set("hot_standby", "on".into());
    set("port", request.port.to_string());
    let private = path_text("unix_socket_directories", request.private_directory)?;
    set("unix_socket_directories", private.into());
    // It may be set anywhere in the copy's configuration, to a file of the server that it was taken from. To nothing it
    // can't be set: PostgreSQL would complain at each start.
    set("external_pid_file", format!("{private}/server.pid"));
    match request.network {
        Network::Isolated => {
            set("listen_addresses", String::new());
            set("hba_file", format!("{private}/pg_hba.conf"));
            // Nothing that the copy does may reach anybody.
            set("max_logical_replication_workers", "0".into());
            // A postmaster that is killed removes none of its shared memory. As files of the data directory it goes with
            // the copy; in /dev/shm nobody would ever remove it.
            set("dynamic_shared_memory_type", "mmap".into());
            set("cluster_name", "levee-drill".into());
        }
        Network::At(address) => set("listen_addresses", address.to_string()),
    }
    if major >= 14 {
        // Opening every file of the copy once more to sync it would take longer than its replay.
        set("recovery_init_sync_method", "syncfs".into());
    }
    Ok(settings)
}

fn timeline(mode: Mode, plan: &RestorePlan) -> String {
    match mode {
        // A standby follows the source through its own promotions.
        Mode::Standby => "latest".into(),
        Mode::Promote | Mode::Pause => plan.timeline.to_string(),
    }
}

/// `%` begins a placeholder, and a shell reads the rest.
fn restore_command(request: &RestoreRequest<'_>, identity_file: &Path) -> Result<String> {
    let quoted = |path: &Path| -> Result<String> {
        let text = path_text("restore_command", path)?;
        Ok(format!("'{}'", text.replace('\'', "'\\''").replace('%', "%%")))
    };
    Ok(format!(
        "{} database fetch-wal --journal {} --identity-file {} --system-identifier {} %f %p",
        quoted(request.fetch_wal_program)?,
        quoted(request.journal.dir())?,
        quoted(identity_file)?,
        request.plan.system_identifier
    ))
}

fn path_text<'a>(setting: &'static str, path: &'a Path) -> Result<&'a str> {
    let invalid = || Error::InvalidSetting { setting, value: path.display().to_string() };
    path.to_str().filter(|text| !text.chars().any(char::is_control)).ok_or_else(invalid)
}

/// Puts the settings behind what `postgresql.auto.conf` has, in the place of those of an earlier restore.
pub(super) fn write(data_directory: &Path, settings: &[(&'static str, String)]) -> Result<()> {
    let path = data_directory.join("postgresql.auto.conf");
    let error = |doing| {
        let path = path.clone();
        move |source| Error::File { doing, path, source }
    };
    let before = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(error("reading")(source)),
    };
    fs::write(&path, with_settings(&before, settings)?).map_err(error("writing"))
}

fn with_settings(before: &str, settings: &[(&'static str, String)]) -> Result<String> {
    let is_set = |line: &str| {
        let names = settings.iter().map(|(name, _)| *name).chain(TARGETS);
        names.into_iter().any(|name| sets(line, name))
    };
    let mut text: String = before
        .lines()
        .filter(|line| *line != BEGIN && *line != END && !is_set(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    text.push_str(&format!("{BEGIN}\n"));
    for (name, value) in settings {
        if value.chars().any(char::is_control) {
            return Err(Error::InvalidSetting { setting: name, value: value.clone() });
        }
        // A backslash begins an escape inside the quotes.
        text.push_str(&format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")));
    }
    text.push_str(&format!("{END}\n"));
    Ok(text)
}

/// Whether a line of a configuration file sets this.
fn sets(line: &str, name: &str) -> bool {
    line.trim_start().split(['=', ' ', '\t']).next().unwrap_or_default().eq_ignore_ascii_case(name)
}

/// Takes out of a file of settings what names places of the source: all of them where the file lay outside
/// its data directory, else those outside of it; and targets of an earlier recovery. Where the main files were put under
/// their usual names, no setting may name others.
pub(super) fn cleaned(text: &str, was_outside: bool, mains_are_placed: bool, source_data: &Path) -> String {
    let taken_out = |line: &str| {
        if mains_are_placed && MAIN_PLACES.iter().any(|name| sets(line, name)) {
            return true;
        }
        let names_place = PLACES.iter().any(|name| sets(line, name));
        let is_elsewhere = path_value(line).is_some_and(|path| path.is_absolute() && !path.starts_with(source_data));
        (names_place && (was_outside || is_elsewhere)) || TARGETS.iter().any(|name| sets(line, name))
    };
    let keep = |line: &str| match taken_out(line) {
        true => format!("#{}  # at the source\n", line.trim_end()),
        false => line.to_string(),
    };
    text.split_inclusive('\n').map(keep).collect()
}

/// The quoted value of a line of a configuration file.
fn path_value(line: &str) -> Option<&Path> {
    line.split('\'').nth(1).map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_replace_older_ones_and_are_quoted() {
        let before = "# Do not edit this file manually!\nwork_mem = '8MB'\nport = '1'\nprimary_conninfo = 'x'\n";
        let first = with_settings(before, &[("port", "2".into()), ("primary_conninfo", String::new())]).unwrap();
        let again = with_settings(&first, &[("port", "3".into()), ("restore_command", "'a' \\ %f".into())]).unwrap();
        assert_eq!(
            again,
            format!(
                "# Do not edit this file manually!\nwork_mem = '8MB'\nprimary_conninfo = ''\n{BEGIN}\nport = '3'\n\
                 restore_command = '''a'' \\\\ %f'\n{END}\n"
            )
        );
        let error = with_settings("", &[("port", "1\nhost = 2".into())]).unwrap_err();
        assert!(matches!(error, Error::InvalidSetting { .. }));
    }

    #[test]
    fn places_of_the_source_are_taken_out() {
        let text = "data_directory = '/var/lib/x'\nhba_file='/etc/y'\nport = 5432\n  ident_file ='/z'\n";
        let moved = cleaned(text, true, false, Path::new("/data"));
        let kept: Vec<&str> = moved.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(kept, ["port = 5432"]);
        let inside = "hba_file = 'x'\nrecovery_target_xid='5'\nport = 1\n";
        let cleaned_inside = |text: &str| cleaned(text, false, false, Path::new("/data"));
        assert_eq!(cleaned_inside(inside), "hba_file = 'x'\n#recovery_target_xid='5'  # at the source\nport = 1\n");
        let elsewhere = "hba_file = '/etc/y'\nident_file = '/data/z'\n";
        assert_eq!(cleaned_inside(elsewhere), "#hba_file = '/etc/y'  # at the source\nident_file = '/data/z'\n");
        let placed = cleaned("hba_file = 'x'\nport = 1\n", false, true, Path::new("/data"));
        assert_eq!(placed, "#hba_file = 'x'  # at the source\nport = 1\n");
    }
}
