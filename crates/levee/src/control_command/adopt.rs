//! Taking over newer epochs from the agents, after the server was restored from an older backup.

use clap::Args;
use levee_api::{AdoptReport, Adoption};

use super::confirm::confirm;
use super::connection::Connection;
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct AdoptArguments {
    /// Only say what would be taken over
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(arguments: AdoptArguments, output: Output) -> anyhow::Result<Exit> {
    let AdoptArguments { dry_run, yes, connection } = arguments;
    let client = connection.client()?;
    let wanted = client.adopt_epochs(true)?;
    if dry_run || !wanted.apps.iter().any(|adoption| adoption.writer.is_some()) {
        return say(&wanted, output);
    }
    if !yes {
        output.note(&describe(&wanted));
        confirm("The server takes the agents' word for who writes these apps.")?;
    }
    say(&client.adopt_epochs(false)?, output)
}

fn say(report: &AdoptReport, output: Output) -> anyhow::Result<Exit> {
    output.result(report, describe)?;
    let refused = report.apps.iter().any(|adoption| adoption.refused.is_some());
    Ok(if refused { Exit::FAILED } else { Exit::DONE })
}

fn describe(report: &AdoptReport) -> String {
    if report.apps.is_empty() {
        return "no agent knows a newer epoch than the server\n".into();
    }
    report.apps.iter().map(line).collect()
}

fn line(adoption: &Adoption) -> String {
    let Adoption { app, epoch_before, writer_before, epoch, writer, refused } = adoption;
    match (writer, refused) {
        (Some(writer), _) => {
            format!(
                "{app}: epoch {epoch}, written at {writer} (the server knew epoch {epoch_before} at {writer_before})\n"
            )
        }
        (None, reason) => format!(
            "{app}: not taken over from epoch {epoch_before} to {epoch}: {}\n",
            reason.as_deref().unwrap_or("nobody can be named as its writer")
        ),
    }
}
