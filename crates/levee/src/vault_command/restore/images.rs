//! A whole image back into a file or onto a device.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::bail;
use levee_image::Format;
use levee_vault::{Error, Id, ImageRestoreOptions, NodeKind, RestoreLock, RestoreOptions, SnapshotId, Vault};
use serde::Serialize;

use super::super::place::Place;
use super::super::progress::{Display, During};
use super::super::snapshot_argument::Chosen;
use super::super::{ended, open};
use super::{Arguments, say_thawed, thaw_needed};
use crate::exit::Exit;
use crate::output::Output;

/// The fields of `restic restore --json` for one file, and what it has become.
#[derive(Serialize)]
struct SummaryLine {
    message_type: &'static str,
    dry_run: bool,
    image_format: Format,
    seconds_elapsed: u64,
    total_files: u64,
    files_restored: u64,
    total_bytes: u64,
    bytes_restored: u64,
    bytes_skipped: u64,
    errors: u64,
}

pub fn run(place: &Place, arguments: &Arguments, name: &Path, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    let chosen = Chosen::find(&vault, &arguments.snapshot, &arguments.filter.selection()?)?;
    let id = chosen.id;
    if chosen.folder != Path::new("/") {
        bail!("--image takes a snapshot without a folder; name the image by its path if two have the same name");
    }
    let options = ImageRestoreOptions {
        target: PathBuf::from(&arguments.target),
        format: arguments.image_format.map(Format::from),
        verify: arguments.verify,
        dry_run: arguments.dry_run,
        no_lock: arguments.no_lock,
    };
    output.note(&format!("restoring {} of snapshot {} to {}", name.display(), id.short(), options.target.display()));
    let needed = || packs_needed(&vault, &chosen, name, &options.target);
    let state = thaw_needed(&vault, needed, arguments, output)?;
    if arguments.thaw_only {
        if state.is_done() {
            // For its error: that everything can be read is not to be said of an image that isn't there.
            vault.find_image(&id, name).map_err(ended)?;
        }
        say_thawed(state, options.dry_run, output)?;
        return Ok(Exit::DONE);
    }
    if !state.is_done() {
        // Of a dry run. How large the image is stands in the packs, too.
        say_thawed(state, options.dry_run, output)?;
        return Ok(Exit::DONE);
    }
    let display = Display::new(output, During::Restore);
    let result = levee_vault::restore_image(&vault, &id, name, &options, &display);
    display.finish();
    let summary = result.map_err(ended)?;
    let line = SummaryLine {
        message_type: "summary",
        dry_run: options.dry_run,
        image_format: summary.format,
        seconds_elapsed: display.elapsed_s() as u64,
        total_files: 1,
        files_restored: u64::from(summary.errors.is_empty()),
        total_bytes: summary.size_bytes,
        bytes_restored: summary.bytes_written,
        bytes_skipped: summary.size_bytes.saturating_sub(summary.bytes_written),
        errors: summary.errors.count,
    };
    if output.is_json() || !output.is_quiet() {
        output.result(&line, |line| {
            let bytes = |bytes| indicatif::BinaryBytes(bytes);
            let verified =
                if options.verify && !line.dry_run && line.errors == 0 { ", read again and found right" } else { "" };
            format!(
                "{} {} of {} in {:.1} s; the rest was right already or empty{verified}",
                if line.dry_run { "would write" } else { "wrote" },
                bytes(line.bytes_restored),
                bytes(line.total_bytes),
                display.elapsed_s(),
            )
        })?;
    }
    if !summary.errors.is_empty() {
        bail!("the image is not whole: {} parts could not be restored", summary.errors.count);
    }
    Ok(Exit::DONE)
}

/// What an image's directory holds beside the segments. To find one image those of all in the snapshot are read, and they lie
/// among the contents of files.
const DESCRIPTION_PATTERN: &str = "/levee-image.json";

/// Whether a folder of a snapshot holds an image, and not files.
fn is_image(vault: &Vault, snapshot: &SnapshotId, folder: &Path) -> bool {
    let description = folder.join(DESCRIPTION_PATTERN.trim_start_matches('/'));
    matches!(vault.find_node(snapshot, &description), Ok(Some(_)))
}

/// The packs that a restore of the image may read: all of its own, for what the target has already is compared only while it
/// is written. Nothing of them is read to find that out.
fn packs_needed(vault: &Vault, chosen: &Chosen, name: &Path, target: &Path) -> anyhow::Result<BTreeSet<Id>> {
    // Nothing is there that would be compared with a description, and nothing is made there.
    let mut nowhere = target.as_os_str().to_os_string();
    nowhere.push(".nothing");
    let description = RestoreOptions {
        target: PathBuf::from(nowhere),
        includes: vec![DESCRIPTION_PATTERN.into()],
        lock: RestoreLock::None,
        ..RestoreOptions::default()
    };
    let (mut needed, mut named) = (BTreeSet::new(), 0);
    for path in chosen.snapshot.paths.iter().map(PathBuf::from) {
        let tree = match vault.find_node(&chosen.id, &path) {
            Ok(Some(node)) if node.kind == NodeKind::Dir => node.subtree,
            // No image; or one that was left out of a snapshot that was rewritten.
            Ok(_) | Err(Error::PathNotFound { .. }) => None,
            Err(error) => return Err(ended(error)),
        };
        // Only a folder of this kind is an image.
        let Some(tree) = tree.filter(|_| is_image(vault, &chosen.id, &path)) else { continue };
        if path == name || (name.components().count() == 1 && path.file_name() == Some(name.as_os_str())) {
            named += 1;
            needed.extend(vault.packs_below(&tree).map_err(ended)?);
        } else {
            let options = RestoreOptions { subfolder: Some(path), ..description.clone() };
            needed.extend(levee_vault::restore::packs_needed(vault, &chosen.id, &options).map_err(ended)?);
        }
    }
    // Before anything is asked for that costs money.
    match named {
        1 => Ok(needed),
        0 => bail!(
            "snapshot {} has no image {}: it has {}",
            chosen.id.short(),
            name.display(),
            chosen.snapshot.paths.join(", ")
        ),
        _ => bail!(
            "snapshot {} has several images {}: name one by its path, of {}",
            chosen.id.short(),
            name.display(),
            chosen.snapshot.paths.join(", ")
        ),
    }
}
