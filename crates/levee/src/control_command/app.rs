use std::collections::BTreeMap;

use clap::Subcommand;
use levee_api::{AppRemoval, AppView, Remains};
use levee_model::protection::ProtectionFile;
use levee_model::{AppName, AssetName};

use super::confirm::confirm;
use super::connection::Connection;
use super::text::{list, moment, or_dash, table};
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
    /// Say that you have looked at the warning of an asset: what is there now is what is usual from now on
    Acknowledge {
        /// The app, as the protection file names it
        app: AppName,
        /// The asset with the warning
        asset: AssetName,
        #[command(flatten)]
        connection: Connection,
    },
    /// Protect an app no more. Its data and copies stay where they are, and its databases go on
    Remove {
        /// The app, as the protection file names it
        app: AppName,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        connection: Connection,
    },
}

pub fn run(command: AppCommand, output: Output) -> anyhow::Result<Exit> {
    match command {
        AppCommand::List { connection } => output.result(&connection.client()?.apps()?, |apps| describe(apps))?,
        AppCommand::Show { app, connection } => {
            let view = connection.client()?.app(&app)?;
            let file = ProtectionFile {
                site: BTreeMap::new(),
                vault: view.vaults.clone(),
                app: [(view.app.clone(), view.spec.clone())].into(),
            };
            let text = toml::to_string(&file)?;
            output.result(&view, |view| {
                format!("# {} is written at {}, epoch {}\n\n{text}", view.app, view.writer, view.epoch)
            })?;
        }
        AppCommand::Acknowledge { app, asset, connection } => {
            output.result(&connection.client()?.acknowledge(&app, &asset)?, |known| {
                format!("the warning of {} since {} stands no more", known.asset, moment(known.warned_since))
            })?;
        }
        AppCommand::Remove { app, yes, connection } => {
            let client = connection.client()?;
            let view = client.app(&app)?;
            if !yes {
                confirm(&format!(
                    "This ends the protection of {app}: nothing of it is copied from {} to {} any more, its names are not \
                     answered any more, and it can be moved no more.",
                    view.writer,
                    view.spec.peer_of(&view.writer)
                ))?;
            }
            output.result(&client.remove_app(&app)?, describe_removal)?;
        }
    }
    Ok(Exit::DONE)
}

fn describe_removal(removal: &AppRemoval) -> String {
    let app = &removal.app;
    let mut text =
        format!("{app} is protected no more. It lives on at {}; everything stays where it is:\n", removal.writer);
    for Remains { site, asset, path, in_use } in &removal.remains {
        let what = if *in_use { "in use" } else { "what was there, such as a standby or nothing" };
        text.push_str(&format!("  {asset} at {site}: {} ({what})\n", path.display()));
    }
    for (site, agent) in &removal.copies_at {
        text.push_str(&format!(
            "  copies at {site}: below apps/{app} in the folder of agent {agent}, if it kept any\n"
        ));
    }
    match removal.unconfirmed.is_empty() {
        true => text.push_str("Levee's replication slots are dropped.\n"),
        false => text.push_str(&format!(
            "Not confirmed by {}: a replication slot there may still hold back log. The agent drops it as soon as it can; if \
             it never comes back, drop it by hand.\n",
            list(&removal.unconfirmed)
        )),
    }
    text
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
