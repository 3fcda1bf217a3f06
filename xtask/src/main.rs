//! Commands for those who work on Levee, and for those who want to watch it: `cargo xtask demo`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod demo;
mod setup;
mod test;
mod tidy;
mod workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Levee's commands for developers", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Protect a real application at two sites, lose one, live on at the other, and come home
    Demo(demo::Options),
    /// Measure Levee beside its peers
    Bench(bench::Options),
    /// Install what the tests and the demo need and this machine lacks
    Setup,
    /// Set up, check tidiness, and run every test
    Test,
    /// Check formatting, lints, dependency arrows, long files and secrets in logs
    Tidy,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(options) => demo::run(options),
        Command::Bench(options) => bench::run(options),
        Command::Setup => setup::set_up(setup::Needs::Tests),
        Command::Test => test::run(),
        Command::Tidy => tidy::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
