//! A snapshot of disk images.

use anyhow::bail;
use clap::ValueEnum;
use levee_image::{BackingFiles, Format};
use levee_vault::{BackupSummary, ImageBackupOptions, SnapshotOptions, SnapshotSelection, Vault};

use super::super::ended;
use super::super::progress::Display;
use super::Arguments;
use super::copies::Targets;

/// `--image-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

impl From<ImageFormat> for Format {
    fn from(format: ImageFormat) -> Self {
        match format {
            ImageFormat::Raw => Format::Raw,
            ImageFormat::Qcow2 => Format::Qcow2,
        }
    }
}

/// Whether the arguments go together.
pub fn refuse_wrong_use(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.paths.is_empty() {
        bail!("nothing to store: give the PATH of a raw file, a block device or a qcow2 image");
    }
    Ok(())
}

pub fn store(
    vault: &Vault,
    arguments: Arguments,
    targets: &Targets,
    display: &Display,
) -> anyhow::Result<BackupSummary> {
    let parent = match &arguments.parent {
        None => None,
        Some(wanted) => Some(vault.find_snapshot(wanted, &SnapshotSelection::default()).map_err(ended)?.0),
    };
    let options = ImageBackupOptions {
        images: arguments.paths,
        format: arguments.image_format.map(Format::from),
        backing: if arguments.follow_backing_files { BackingFiles::Follow } else { BackingFiles::Refuse },
        parent,
        force: arguments.force,
        snapshot: SnapshotOptions {
            host: arguments.host,
            tags: arguments.tag.into_iter().filter(|tag| !tag.is_empty()).collect(),
            time: arguments.time,
            compression: arguments.compression.into(),
            dry_run: arguments.dry_run,
            patience: arguments.retry_lock,
            side_by_side: targets.side_by_side(),
            ..SnapshotOptions::default()
        },
    };
    levee_vault::backup_images(vault, &options, display).map_err(ended)
}
