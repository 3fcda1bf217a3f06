//! What the binary says about itself.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::exit::Exit;

pub fn completions(shell: Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "levee", &mut script);
    print(&script)
}

/// One page with every command: a section for each, in the order of the help.
pub fn manual() -> anyhow::Result<Exit> {
    let mut root = Arguments::command();
    root.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(root.clone()).render(&mut page)?;
    for command in root.get_subcommands() {
        describe(command, &mut page)?;
    }
    print(&page)
}

pub fn openapi() -> anyhow::Result<Exit> {
    let mut document = levee_api::openapi().to_pretty_json()?;
    document.push('\n');
    print(document.as_bytes())
}

fn describe(command: &clap::Command, page: &mut Vec<u8>) -> anyhow::Result<()> {
    if command.is_hide_set() || command.get_name() == "help" {
        return Ok(());
    }
    let has_subcommands = command.get_subcommands().any(|inner| inner.get_name() != "help");
    let name = command.get_display_name().unwrap_or(command.get_name()).replace('-', " ");
    writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
    let section = clap_mangen::Man::new(command.clone());
    if !has_subcommands {
        section.render_synopsis_section(page)?;
    }
    section.render_description_section(page)?;
    if !has_subcommands {
        section.render_options_section(page)?;
    }
    for inner in command.get_subcommands() {
        describe(inner, page)?;
    }
    Ok(())
}

fn print(text: &[u8]) -> anyhow::Result<Exit> {
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::DONE),
    }
}
