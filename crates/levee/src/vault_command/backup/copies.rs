//! Storing a snapshot in further vaults: in other regions, or in another provider's hands.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use levee_vault::{Compression, CopyOptions, SnapshotId, SnapshotSelection, Vault};
use serde::Serialize;

use super::super::place::Place;
use super::super::progress::{Display, During};
use super::super::{ended, open};
use crate::output::Output;

#[derive(Clone, Debug, Args)]
pub struct CopyArguments {
    /// Store the snapshot in this vault too, when it is saved (can be repeated)
    #[arg(long, value_name = "VAULT")]
    copy_to: Vec<String>,
    /// A file with the password of the vaults of --copy-to; one for all, or one for each in their order
    #[arg(long, value_name = "FILE", requires = "copy_to")]
    copy_to_password_file: Vec<PathBuf>,
    /// Send new data to the vaults of --copy-to while they are stored here, and not only afterwards
    #[arg(long, requires = "copy_to")]
    side_by_side: bool,
}

/// What has become of the snapshot in another vault.
#[derive(Clone, Debug, Serialize)]
pub struct CopyOutcome {
    vault: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<SnapshotId>,
    /// Bytes that were still lacking when the backup had ended, before compression.
    data_copied: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl CopyArguments {
    pub fn is_given(&self) -> bool {
        !self.copy_to.is_empty()
    }
}

impl CopyOutcome {
    pub fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    pub fn text(&self) -> String {
        match (&self.snapshot_id, &self.error) {
            (_, Some(error)) => format!("NOT COPIED to {}: {error}\n", self.vault),
            (Some(id), None) => format!("copied to {} as snapshot {}\n", self.vault, id.short()),
            (None, None) => format!("was in {} already\n", self.vault),
        }
    }
}

/// Further vaults, opened as far as they can be. One that is out of reach must not keep the snapshot from being made.
pub struct Targets {
    opened: Vec<(String, anyhow::Result<Vault>)>,
    side_by_side: bool,
}

impl Targets {
    pub fn open(place: &Place, arguments: &CopyArguments) -> anyhow::Result<Self> {
        let CopyArguments { copy_to, copy_to_password_file: files, side_by_side } = arguments;
        if !copy_to.is_empty() && files.len() != 1 && files.len() != copy_to.len() {
            bail!(
                "{} vaults are to be copied to, and {} password files are given: give one for all of them, or one each",
                copy_to.len(),
                files.len()
            );
        }
        let mut opened = Vec::new();
        for (number, vault) in copy_to.iter().enumerate() {
            let Some(file) = files.get(number).or(files.first()) else { continue };
            let there = place.with_vault(vault, file);
            let name = format!("number {} of --copy-to", number + 1);
            // A name that is none is a mistake of the command, and not an outage.
            there.check().with_context(|| name.clone())?;
            let vault = open(&there);
            // What is written there may hold a password, and so is never shown.
            opened.push((vault.as_ref().map_or(name, Vault::location), vault));
        }
        Ok(Self { opened, side_by_side: *side_by_side })
    }

    pub fn side_by_side(&self) -> Vec<Vault> {
        let opened = self.opened.iter().filter(|_| self.side_by_side);
        opened.filter_map(|(_, vault)| vault.as_ref().ok().cloned()).collect()
    }

    /// Copies a snapshot to each, whatever becomes of the others.
    pub fn copy(
        &self,
        from: &Vault,
        snapshot: SnapshotId,
        compression: Compression,
        patience: Duration,
        output: Output,
    ) -> Vec<CopyOutcome> {
        let selection = SnapshotSelection { ids: vec![snapshot.to_string()], ..SnapshotSelection::default() };
        let options = CopyOptions { selection, compression, patience, ..CopyOptions::default() };
        let outcome = |(location, vault): &(String, anyhow::Result<Vault>)| {
            let copied = match vault {
                Ok(vault) => {
                    let display = Display::new(output, During::Copy);
                    let copied = levee_vault::copy(from, vault, &options, &display).map_err(ended);
                    display.finish();
                    copied.map_err(|error| format!("{error:#}"))
                }
                Err(error) => Err(format!("{error:#}")),
            };
            let vault = location.clone();
            match copied {
                Ok(report) => {
                    let snapshot_id = report.copied.first().and_then(|copied| copied.to);
                    CopyOutcome { vault, snapshot_id, data_copied: report.bytes, error: None }
                }
                Err(error) => CopyOutcome { vault, snapshot_id: None, data_copied: 0, error: Some(error) },
            }
        };
        self.opened.iter().map(outcome).collect()
    }
}
