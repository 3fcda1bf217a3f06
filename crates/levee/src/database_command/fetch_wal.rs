use std::path::PathBuf;

use clap::Args;
use levee_database::postgres::fetch_wal::{Fetched, fetch_wal};
use levee_model::postgres::SystemIdentifier;

use super::journal::JournalToRead;
use crate::exit::{Ended, Exit};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    journal: JournalToRead,
    /// The cluster whose log it is; may be left out when the journal has one alone
    #[arg(long, value_name = "NUMBER")]
    system_identifier: Option<SystemIdentifier>,
    /// The file's name: PostgreSQL's %f
    name: String,
    /// Where it is to be put: PostgreSQL's %p
    destination: PathBuf,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    // Whatever goes wrong must stop a recovery: it is not the end of the log.
    fetch(arguments).map_err(|error| Ended::with(Exit::STOP_RECOVERY, error))
}

fn fetch(arguments: &Arguments) -> anyhow::Result<Exit> {
    let journal = arguments.journal.open()?;
    let system_identifier = match (arguments.system_identifier, journal.lineages()?.first()) {
        (Some(given), _) => given,
        (None, Some((only, _))) => *only,
        (None, None) => return Ok(Exit::FAILED),
    };
    match fetch_wal(&journal, system_identifier, &arguments.name, &arguments.destination)? {
        Fetched::Segment { .. } | Fetched::History => Ok(Exit::DONE),
        Fetched::NotThere => Ok(Exit::FAILED),
    }
}
