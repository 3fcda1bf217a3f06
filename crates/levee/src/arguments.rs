use clap::{ArgAction, Args, Parser, Subcommand};

use crate::control_command::ControlCommand;
use crate::database_command::DatabaseCommand;
use crate::vault_command::VaultCommand;

/// Backup and disaster recovery: keep files and databases recoverable at another site, and move whole
/// applications there and back.
#[derive(Debug, Parser)]
#[command(name = "levee", version, max_term_width = 120, arg_required_else_help = true)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command has.
#[derive(Clone, Copy, Debug, Args)]
pub struct Global {
    /// Print one JSON value (JSON lines where a command follows something) instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Say more on standard error; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// Print nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Backups in an encrypted, deduplicated repository in the restic format
    Vault(VaultCommand),
    /// Databases on this machine: base backups, continuous archives, restores to any second
    #[command(subcommand)]
    Database(DatabaseCommand),
    #[command(flatten)]
    Control(ControlCommand),
}

impl Command {
    /// Whether the command runs until it is told to stop, and its log is what an operator reads.
    pub fn is_service(&self) -> bool {
        match self {
            Command::Control(command) => command.is_service(),
            Command::Vault(command) => command.is_service(),
            Command::Database(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
