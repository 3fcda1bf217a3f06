use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Args;
use levee_vault::MountOptions;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::place::Place;
use super::selection::FilterArguments;
use super::{ended, open_without_watching};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// Let other users in
    #[arg(long)]
    allow_other: bool,
    /// With --allow-other, let others read everything, whatever the stored permissions say
    #[arg(long, requires = "allow_other")]
    no_default_permissions: bool,
    /// Show everything as root's
    #[arg(long)]
    owner_root: bool,
    /// Where snapshots appear: %i id, %I long id, %u user, %h host, %t tags, %T time (can be repeated)
    #[arg(long, value_name = "TEMPLATE")]
    path_template: Vec<String>,
    /// How %T is written, as Go writes the time 2006-01-02T15:04:05Z07:00
    #[arg(long, value_name = "TEMPLATE")]
    time_template: Option<String>,
    /// Take no lock, for a vault that cannot be written to
    #[arg(long)]
    no_lock: bool,
    /// An empty folder
    #[arg(value_name = "FOLDER")]
    at: PathBuf,
}

/// From `mounted` on the files can be read; after `unmounted` nothing is held any more.
#[derive(Serialize)]
struct Told<'a> {
    message_type: &'static str,
    vault: &'a str,
    mount_point: &'a str,
}

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    // The signals that end other commands unmount first.
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, is_over.clone())
            .and_then(|_| signal_hook::flag::register(signal, is_over.clone()))
            .context("cannot wait for signals")?;
    }
    let vault = open_without_watching(place)?;
    let defaults = MountOptions::default();
    let options = MountOptions {
        selection: arguments.filter.selection()?,
        templates: if arguments.path_template.is_empty() { defaults.templates } else { arguments.path_template },
        time_template: arguments.time_template.unwrap_or(defaults.time_template),
        allow_other: arguments.allow_other,
        ignore_permissions: arguments.no_default_permissions,
        owner_root: arguments.owner_root,
        no_lock: arguments.no_lock,
    };
    let mounted = levee_vault::mount(&vault, &arguments.at, &options).map_err(ended)?;
    let (location, mount_point) = (vault.location(), arguments.at.display().to_string());
    output.note(&format!("{location} is mounted at {mount_point}; end with Ctrl-C, or with umount"));
    let tell = |message_type: &'static str| match output.is_json() {
        true => output.result(&Told { message_type, vault: &location, mount_point: &mount_point }, |_| String::new()),
        false => Ok(()),
    };
    tell("mounted")?;
    let in_use = || {
        let until = "what is open stays readable, and this ends when the last of it is closed";
        output.note(&format!("{mount_point} is in use: nothing is mounted there any more, but {until}"));
    };
    mounted.wait(|| is_over.load(Ordering::Relaxed), in_use).map_err(ended)?;
    tell("unmounted")?;
    Ok(Exit::DONE)
}
