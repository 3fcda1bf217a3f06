//! The one binary: command line, configuration, exit codes.
//!
//! Each group of commands has a folder of its own. Nothing is started before a command asks for it, so
//! that `levee database fetch-wal`, which PostgreSQL runs once for each segment, costs next to nothing.

mod arguments;
mod control_command;
mod database_command;
mod exit;
mod logging;
mod output;
mod vault_command;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use exit::Exit;
use output::Output;

/// glibc's keeps as much as is in use: a backup's buffers are of many sizes, and come and go on many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if !is_fetch_wal() {
        return run();
    }
    // A panic would end with 101, which PostgreSQL takes for the end of the log.
    std::panic::catch_unwind(run).unwrap_or(Exit::STOP_RECOVERY.into())
}

/// Whether PostgreSQL asks for its log. Said by the words themselves: also where they are used wrongly, as by the settings
/// that another version has written.
fn is_fetch_wal() -> bool {
    std::env::args_os().skip(1).take(2).eq(["database", "fetch-wal"])
}

fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Fails only when the terminal is gone, and then there is nobody to tell.
            let _ = error.print();
            return match error.use_stderr() {
                true if is_fetch_wal() => Exit::STOP_RECOVERY.into(),
                true => Exit::FAILED.into(),
                false => Exit::DONE.into(),
            };
        }
    };
    let output = Output::new(&arguments.global);
    logging::start(&arguments.global, arguments.command.is_service());
    let result = match arguments.command {
        Command::Vault(command) => vault_command::run(command, output),
        Command::Database(command) => database_command::run(command, output),
        Command::Control(command) => control_command::run(command, output),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = Exit::of(&error);
            output.failure(exit, &error);
            exit.into()
        }
    }
}
