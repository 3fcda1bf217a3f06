//! A snapshot of disk images.

use anyhow::bail;
use clap::ValueEnum;
use levee_image::{BackingFiles, Format};
use levee_vault::{ImageBackupOptions, SnapshotFilter, SnapshotOptions};

use super::super::place::Place;
use super::super::progress::{Display, During};
use super::super::{ended, open};
use super::{Arguments, report};
use crate::exit::Exit;
use crate::output::Output;

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

pub fn run(place: &Place, arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    if arguments.paths.is_empty() {
        bail!("nothing to store: give the PATH of a raw file, a block device or a qcow2 image");
    }
    let vault = open(place)?;
    let parent = match &arguments.parent {
        None => None,
        Some(wanted) => Some(vault.find_snapshot(wanted, &SnapshotFilter::default()).map_err(ended)?.0),
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
            ..SnapshotOptions::default()
        },
    };
    let display = Display::new(output, During::Archival);
    let result = levee_vault::backup_images(&vault, &options, &display);
    display.finish();
    let summary = result.map_err(ended)?;
    report(&summary, arguments.dry_run, &display, output)
}
