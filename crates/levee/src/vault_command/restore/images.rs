//! A whole image back into a file or onto a device.

use std::path::{Path, PathBuf};

use anyhow::bail;
use levee_image::Format;
use levee_vault::ImageRestoreOptions;
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
    let needed = || {
        output.note("comparing the target first: only the packs of what it lacks are asked for");
        vault.packs_of_image_restore(&id, name, &options).map_err(ended)
    };
    let state = thaw_needed(&vault, needed, arguments, output)?;
    if arguments.thaw_only {
        if state.is_done() {
            // For its error: that everything can be read is not to be said of an image that isn't there.
            vault.find_image_path(&id, name).map_err(ended)?;
        }
        say_thawed(state, options.dry_run, output)?;
        return Ok(Exit::DONE);
    }
    if !state.is_done() {
        // Of a dry run. How the image is described stands in the packs, too.
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
