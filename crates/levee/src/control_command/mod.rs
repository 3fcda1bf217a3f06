//! The fleet: server, agents, apps and runs.

mod adopt;
mod agent;
mod app;
mod apply;
mod confirm;
mod connection;
mod context;
mod follow;
mod moving;
mod reference;
mod run;
mod server;
pub mod service;
mod site;
mod status;
mod text;
mod token;
mod up;

use clap::Subcommand;

use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum ControlCommand {
    /// Run a server and one agent in one process, with everything embedded
    Up(up::UpArguments),
    /// The control plane: what is wanted, what is so, and the runs in between
    #[command(subcommand)]
    Server(server::ServerCommand),
    /// The processes at the sites that touch the data
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Say what is to be protected, where, and how well
    Apply(apply::ApplyArguments),
    /// Show how well everything is protected (exit code 2 when something is not within its objective)
    Status(status::StatusArguments),
    /// The places that can fail as a whole
    #[command(subcommand)]
    Site(site::SiteCommand),
    /// The assets and entries that move together
    #[command(subcommand)]
    App(app::AppCommand),
    /// The carrying-out of plans
    #[command(subcommand)]
    Run(run::RunCommand),
    /// Tokens for the API, and for agents that join
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Rebuild an app in isolation, ask it questions, and remove it again
    Drill(moving::DrillArguments),
    /// Bring an app back at its other site after the loss of the one where it lives
    Failover(moving::FailoverArguments),
    /// Move an app to its other site with nothing lost
    Switchover(moving::SwitchoverArguments),
    /// See to it that an app is protected at its other site, and follow it until it is
    Reprotect(moving::ReprotectArguments),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the manual page
    Man,
    /// Print the description of the server's API (OpenAPI, JSON)
    Openapi,
}

impl ControlCommand {
    /// Whether it runs until it is told to stop.
    pub fn is_service(&self) -> bool {
        match self {
            ControlCommand::Up(_) => true,
            ControlCommand::Server(command) => command.is_service(),
            ControlCommand::Agent(command) => command.is_service(),
            _ => false,
        }
    }
}

pub fn run(command: ControlCommand, output: Output) -> anyhow::Result<Exit> {
    match command {
        ControlCommand::Up(arguments) => up::run(arguments, output),
        ControlCommand::Server(command) => server::run(command, output),
        ControlCommand::Agent(command) => agent::run(command, output),
        ControlCommand::Apply(arguments) => apply::run(arguments, output),
        ControlCommand::Status(arguments) => status::run(arguments, output),
        ControlCommand::Site(command) => site::run(command, output),
        ControlCommand::App(command) => app::run(command, output),
        ControlCommand::Run(command) => run::run(command, output),
        ControlCommand::Token(command) => token::run(command, output),
        ControlCommand::Drill(arguments) => moving::drill(arguments, output),
        ControlCommand::Failover(arguments) => moving::failover(arguments, output),
        ControlCommand::Switchover(arguments) => moving::switchover(arguments, output),
        ControlCommand::Reprotect(arguments) => moving::reprotect(arguments, output),
        ControlCommand::Completions { shell } => reference::completions(shell),
        ControlCommand::Man => reference::manual(),
        ControlCommand::Openapi => reference::openapi(),
    }
}
