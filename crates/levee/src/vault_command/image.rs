//! `levee vault image …`: what is in the images of a snapshot.

mod dump;
mod ls;
mod place_in_image;
mod restore;
mod thawing;

use clap::Subcommand;

use super::place::Place;
use crate::exit::Exit;
use crate::output::Output;

/// What to do with images and the files in them.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// List the images of a snapshot, the partitions of one, or the files in one
    Ls(ls::Arguments),
    /// Bring files back out of an image, without restoring the image
    Restore(restore::Arguments),
    /// Write a file out of an image, or a whole image, to standard output
    Dump(dump::Arguments),
}

pub fn run(place: &Place, verb: ImageVerb, output: Output) -> anyhow::Result<Exit> {
    match verb {
        ImageVerb::Ls(arguments) => ls::run(place, arguments, output),
        ImageVerb::Restore(arguments) => restore::run(place, arguments, output),
        ImageVerb::Dump(arguments) => dump::run(place, arguments, output),
    }
}
