//! Images in an archive class, for those who look into them. Which packs hold a file is known only while its file system is
//! read, one step after the other, and each step would wait for hours. So all of the image is asked for; and, since that is
//! more than what is wanted of it and costs money, only where `--thaw` says so.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use levee_vault::{Error, Id, Image, SnapshotId, ThawState, Vault};
use serde::Serialize;

use super::super::ended;
use super::super::thawing::{ThawArguments, Wish, thaw};
use super::place_in_image::Disk;
use crate::output::Output;

#[derive(Clone, Debug, Args)]
pub struct ImageThawArguments {
    /// Ask for all of the image that lies in an archive class, wait for it, and go on; else what is frozen is an error
    #[arg(long, conflicts_with = "thaw_only")]
    thaw: bool,
    /// Ask for all of the image that lies in an archive class, and end; the same with --thaw waits for the rest
    #[arg(long)]
    thaw_only: bool,
    #[command(flatten)]
    thawing: ThawArguments,
}

/// As `levee vault restore --thaw-only` ends.
#[derive(Serialize)]
struct SummaryLine {
    message_type: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    state: ThawState,
}

/// What has to be readable.
pub struct Needed<'a> {
    vault: &'a Vault,
    snapshot: &'a SnapshotId,
    /// `None` for what describes the snapshot's images.
    image: Option<&'a Path>,
}

impl<'a> Needed<'a> {
    pub fn of_image(vault: &'a Vault, snapshot: &'a SnapshotId, image: &'a Path) -> Self {
        Self { vault, snapshot, image: Some(image) }
    }

    pub fn of_descriptions(vault: &'a Vault, snapshot: &'a SnapshotId) -> Self {
        Self { vault, snapshot, image: None }
    }

    fn packs(&self) -> Result<BTreeSet<Id>, Error> {
        match self.image {
            Some(image) => self.vault.packs_of_image(self.snapshot, image),
            None => self.vault.packs_of_image_descriptions(self.snapshot),
        }
    }

    /// Packs and bytes of it in an archive class, thawed or not: the store is not asked about each. `None` where there are
    /// none, and where that cannot be found out.
    fn archived(&self) -> Option<(usize, u64)> {
        let (needed, archived) = (self.packs().ok()?, self.vault.archived_packs().ok()?);
        let sizes: Vec<u64> = needed.iter().filter_map(|pack| archived.get(pack).copied()).collect();
        (!sizes.is_empty()).then(|| (sizes.len(), sizes.iter().sum()))
    }

    /// Says with an error that came of something frozen how much would be asked for, and how.
    pub fn explain(&self, is_frozen: bool, error: anyhow::Error) -> anyhow::Error {
        let archived = if is_frozen { self.archived() } else { None };
        let Some((packs, bytes)) = archived else { return error };
        let of_what = match self.image {
            Some(image) => format!("of {}", image.display()),
            None => "with the descriptions of the images".into(),
        };
        let bytes = indicatif::BinaryBytes(bytes);
        error.context(format!(
            "{packs} packs {of_what} ({bytes}) lie in an archive class, and what was read of them is not thawed: the \
             same command with --thaw asks for all of them, waits, and goes on"
        ))
    }
}

impl ImageThawArguments {
    /// Whether content comes after what is said of the thawing.
    pub fn waits(&self) -> bool {
        self.thaw
    }

    /// Asks for what is needed, and waits, where that is wished. Says whether to go on: not when asking was all, nor when a dry
    /// run has found what cannot be read yet.
    pub fn goes_on(&self, needed: &Needed<'_>, dry_run: bool, output: Output) -> anyhow::Result<bool> {
        let wish = match (self.thaw, self.thaw_only, dry_run) {
            (false, false, _) => return Ok(true),
            (_, _, true) => Wish::Look,
            (_, true, false) => Wish::Ask,
            (true, false, false) => Wish::Wait,
        };
        let archived = needed.vault.archived_packs().map_err(ended)?;
        let mut state = ThawState::default();
        if !archived.is_empty() {
            if let Some(image) = needed.image {
                output.note(&format!(
                    "which packs hold a file is known only while its file system is read: this is about all of {}",
                    image.display()
                ));
            }
            let packs = needed.packs().map_err(ended)?;
            state = thaw(needed.vault, &archived, |pack| packs.contains(pack), wish, &self.thawing, output)?;
        }
        if self.thaw && state.is_done() {
            return Ok(true);
        }
        let line = SummaryLine { message_type: "summary", dry_run, state };
        output.result(&line, |line| match (line.state.is_done(), line.dry_run) {
            (true, _) => "everything that is needed can be read".into(),
            (false, true) => "nothing was asked for; without --dry-run it would be".into(),
            (false, false) => "what is needed is being thawed; the same with --thaw waits for the rest".into(),
        })?;
        Ok(false)
    }
}

/// Opens an image and does something with it.
pub fn with_disk<T>(
    vault: &Vault,
    snapshot: &SnapshotId,
    image: &Path,
    work: impl FnOnce(&Disk) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let needed = Needed::of_image(vault, snapshot, image);
    let opened = match Image::open(vault, snapshot, image) {
        Ok(opened) => Arc::new(opened),
        Err(error) => return Err(needed.explain(is_frozen(&error), ended(error))),
    };
    let done = Disk::of(opened.clone()).and_then(|disk| work(&disk));
    done.map_err(|error| needed.explain(opened.met_frozen(), error))
}

pub fn is_frozen(error: &Error) -> bool {
    matches!(error, Error::Store(levee_store::Error::Frozen { .. }))
}
