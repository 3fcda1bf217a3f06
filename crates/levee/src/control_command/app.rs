use clap::Subcommand;
use levee_api::AppView;
use levee_model::AppName;
use levee_model::protection::ProtectionFile;

use super::connection::Connection;
use super::text::{or_dash, table};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum AppCommand {
    /// List the apps and where they live
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Show an app as it was applied, as a protection file
    Show {
        /// The app, as the protection file names it
        app: AppName,
        #[command(flatten)]
        connection: Connection,
    },
}

pub fn run(command: AppCommand, output: Output) -> anyhow::Result<Exit> {
    match command {
        AppCommand::List { connection } => output.result(&connection.client()?.apps()?, |apps| describe(apps))?,
        AppCommand::Show { app, connection } => {
            let view = connection.client()?.app(&app)?;
            let file = ProtectionFile { app: [(view.app.clone(), view.spec.clone())].into() };
            let text = toml::to_string(&file)?;
            output.result(&view, |view| {
                format!("# {} is written at {}, epoch {}\n\n{text}", view.app, view.writer, view.epoch)
            })?;
        }
    }
    Ok(Exit::DONE)
}

fn describe(apps: &[AppView]) -> String {
    let rows: Vec<Vec<String>> = apps
        .iter()
        .map(|app| {
            vec![
                app.app.to_string(),
                app.writer.to_string(),
                app.spec.peer_of(&app.writer).to_string(),
                app.epoch.to_string(),
                app.spec.asset_names().count().to_string(),
                or_dash(app.open_run.as_ref()),
            ]
        })
        .collect();
    table(&["APP", "WRITES AT", "RECOVERS AT", "EPOCH", "ASSETS", "OPEN RUN"], &rows)
}
