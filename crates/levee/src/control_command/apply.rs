use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use levee_api::{ApplyReport, ApplyRequest, Change};
use levee_model::protection::{ProtectionError, ProtectionFile};

use super::connection::{Connection, read};
use crate::exit::Exit;
use crate::output::Output;

const FILE_BYTES_MAX: u64 = 512 << 10;

#[derive(Debug, Args)]
pub struct ApplyArguments {
    /// The protection file (`-` for standard input)
    #[arg(short, long)]
    file: PathBuf,
    /// Only say what would change
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(arguments: ApplyArguments, output: Output) -> anyhow::Result<Exit> {
    let (name, text) = match arguments.file.to_str() {
        Some("-") => ("standard input".to_string(), std::io::read_to_string(std::io::stdin().lock())?),
        _ => {
            let name = arguments.file.display().to_string();
            let bytes = read(&arguments.file, FILE_BYTES_MAX).with_context(|| format!("cannot read {name}"))?;
            (name.clone(), String::from_utf8(bytes).with_context(|| format!("{name} is not text"))?)
        }
    };
    // Checked here first, so that a typo is named with the file's own name.
    if let Err(error) = ProtectionFile::parse(&text) {
        match error {
            ProtectionError::Syntax { line, column, message } => bail!("{name}:{line}:{column}: {message}"),
            ProtectionError::Rule { path, message } => bail!("{name}: {path}: {message}"),
        }
    }
    let client = arguments.connection.client()?;
    let report = client
        .apply(&ApplyRequest { file: text, dry_run: arguments.dry_run })
        .map_err(|error| anyhow!(error).context(format!("cannot apply {name}")))?;
    output.result(&report, |report| describe(report, arguments.dry_run))?;
    Ok(Exit::DONE)
}

fn describe(report: &ApplyReport, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let lines = report.apps.iter().map(|applied| match applied.change {
        Change::Created => format!("{}: {would}created", applied.app),
        Change::Updated => format!("{}: {would}updated", applied.app),
        Change::Unchanged => format!("{}: unchanged", applied.app),
    });
    let sites = report.sites.iter().map(|site| format!("site {site}: {would}updated"));
    let vaults = report.vaults.iter().map(|vault| format!("vault {vault}: {would}updated"));
    lines.chain(sites).chain(vaults).collect::<Vec<_>>().join("\n")
}
