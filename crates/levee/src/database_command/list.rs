use clap::Args;
use levee_database::postgres::base;
use levee_database::postgres::restore::{RecoveryTarget, plan};
use levee_journal::{Identity, JournalKeys, LogJournal};
use levee_model::AssetId;
use serde_json::json;

use crate::exit::Exit;
use crate::output::Output;
use crate::vault_command::{self, Place};

#[derive(Debug, Args)]
pub struct Arguments {
    /// What the cluster is called: APP/ASSET
    #[arg(short, long, value_name = "APP/ASSET")]
    asset: AssetId,
    /// The journal: says for each backup whether its log is there, and up to where
    #[arg(short, long, env = "LEVEE_JOURNAL", value_name = "FOLDER", requires = "identity_file")]
    journal: Option<std::path::PathBuf>,
    /// The age identity that opens the journal
    #[arg(short, long, env = "LEVEE_IDENTITY_FILE", value_name = "FILE")]
    identity_file: Option<std::path::PathBuf>,
}

pub fn run(place: &Place, arguments: &Arguments, output: Output) -> anyhow::Result<Exit> {
    let vault = vault_command::open(place)?;
    let bases = base::list(&vault, &arguments.asset)?;
    let journal = match (&arguments.journal, &arguments.identity_file) {
        (Some(folder), Some(identity)) => {
            Some(LogJournal::open_existing(folder, JournalKeys::of_identity(Identity::read_file(identity)?))?)
        }
        _ => None,
    };
    let mut values = Vec::new();
    let mut text = String::new();
    for base in &bases {
        let facts = &base.facts;
        let newest =
            journal.as_ref().map(|journal| plan(journal, std::slice::from_ref(base), &RecoveryTarget::Newest, None));
        let (until, as_of, problem) = match &newest {
            Some(Ok(plan)) => (Some(plan.end), plan.as_of, None),
            Some(Err(error)) => (None, None, Some(error.to_string())),
            None => (None, None, None),
        };
        values.push(json!({
            "snapshot_id": base.snapshot.to_string(),
            "started_at": facts.started_at,
            "ended_at": facts.ended_at,
            "system_identifier": facts.system_identifier,
            "timeline": facts.timeline,
            "start": facts.start,
            "stop": facts.stop,
            "bytes": facts.bytes,
            "server_version": facts.server_version,
            "restorable_to": until,
            "as_of": as_of,
            "problem": problem,
        }));
        let reach = match (until, problem) {
            (Some(end), _) => {
                let as_of = as_of.map(|as_of| format!(" of {as_of}")).unwrap_or_default();
                format!("restorable from {} to {end}{as_of}", facts.stop)
            }
            (None, Some(problem)) => format!("NOT restorable: {problem}"),
            (None, None) => format!("log from {} on", facts.start),
        };
        text.push_str(&format!(
            "{}  {}  timeline {}  {} bytes  {reach}\n",
            base.snapshot.short(),
            facts.ended_at.strftime("%Y-%m-%d %H:%M:%S"),
            facts.timeline,
            facts.bytes
        ));
    }
    output.result(&values, |_| text)?;
    Ok(Exit::DONE)
}
