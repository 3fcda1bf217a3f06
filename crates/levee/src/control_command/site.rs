use clap::Subcommand;
use levee_api::SiteView;

use super::connection::Connection;
use super::text::{list, table};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// List the sites where an agent has joined
    List {
        #[command(flatten)]
        connection: Connection,
    },
}

pub fn run(command: SiteCommand, output: Output) -> anyhow::Result<Exit> {
    let SiteCommand::List { connection } = command;
    output.result(&connection.client()?.sites()?, |sites| describe(sites))?;
    Ok(Exit::DONE)
}

fn describe(sites: &[SiteView]) -> String {
    let rows: Vec<Vec<String>> = sites
        .iter()
        .map(|site| {
            let link = if site.connected { "connected" } else { "away" };
            vec![site.site.to_string(), link.into(), list(&site.agents), list(&site.writes), list(&site.keeps)]
        })
        .collect();
    table(&["SITE", "STATE", "AGENTS", "WRITES", "KEEPS"], &rows)
}
