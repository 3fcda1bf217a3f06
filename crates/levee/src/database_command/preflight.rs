use clap::Args;
use levee_database::postgres::{Expect, Needs, preflight};
use serde_json::json;

use super::connect::Connect;
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connect: Connect,
    /// Commits are to wait for Levee
    #[arg(long)]
    zero_loss: bool,
    /// What synchronous_standby_names calls Levee
    #[arg(long, default_value = "levee", value_name = "NAME")]
    application_name: String,
}

pub fn run(arguments: &Arguments, output: Output) -> anyhow::Result<Exit> {
    let needs = Needs {
        expect: Expect::Primary,
        zero_loss: arguments.zero_loss,
        application_name: arguments.application_name.clone(),
        slot: None,
        system_identifier: None,
    };
    let report = preflight(&arguments.connect.options()?, &needs)?;
    let warnings: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
    let value = json!({
        "version": report.version.to_string(),
        "system_identifier": report.system_identifier,
        "timeline": report.timeline,
        "flushed": report.flushed,
        "segment_size": report.segment_size,
        "data_checksums": report.data_checksums,
        "data_directory": report.data_directory,
        "warnings": warnings,
    });
    output.result(&value, |_| {
        let mut text = format!(
            "PostgreSQL {}, system {}, timeline {}, log up to {}: can be protected\n",
            report.version, report.system_identifier, report.timeline, report.flushed
        );
        for warning in &warnings {
            text.push_str(&format!("warning: {warning}\n"));
        }
        text
    })?;
    Ok(Exit::DONE)
}
