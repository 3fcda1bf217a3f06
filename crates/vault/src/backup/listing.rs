//! Goes through a source in depth, ahead of the comparison with the parent: lists directories, and asks for the status of
//! what is in them. In a thread of its own, since for an unchanged source this is half of all work.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Context;
use super::markers::marker_in;
use super::metadata::kind_of;
use crate::NodeKind;

/// Deeper than this is taken for a loop, for example of bind mounts.
const DEPTH_MAX: usize = 4096;
/// What is handed on at once.
const BATCH: usize = 128;
/// Batches that wait. Each takes some 25 kB.
const BATCHES_WAITING: usize = 8;

/// The next step of the way.
#[expect(clippy::large_enum_variant, reason = "nearly all are entries")]
pub(super) enum Step {
    /// Something in the directory that is open. After a directory come what is in it and `Leave`.
    Entry { name: OsString, kind: NodeKind, metadata: Metadata },
    /// Nothing more comes of the directory that was entered last and not left yet; in the end the source itself.
    Leave,
}

/// The way through a source, as it comes.
pub(super) struct Steps {
    batches: Receiver<Vec<Step>>,
    batch: std::vec::IntoIter<Step>,
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.batch.next() {
                return Some(step);
            }
            self.batch = self.batches.recv().ok()?.into_iter();
        }
    }
}

/// Lists a source while its steps are taken.
pub(super) struct Listing<'a> {
    context: &'a Context<'a>,
    /// The file system to stay on.
    device: Option<u64>,
    batches: Sender<Vec<Step>>,
    batch: Vec<Step>,
}

/// Whoever takes the steps has no use for more of them.
struct NobodyTakes;

impl<'a> Listing<'a> {
    pub fn new(context: &'a Context<'a>, device: Option<u64>) -> (Self, Steps) {
        let (sender, batches) = bounded(BATCHES_WAITING);
        let listing = Self { context, device, batches: sender, batch: Vec::with_capacity(BATCH) };
        (listing, Steps { batches, batch: Vec::new().into_iter() })
    }

    /// Without recursion: a tree may be deeper than the stack allows.
    pub fn run(mut self, source: &Path) {
        // That nobody takes them is known where they are not taken.
        let _ = self.list(source).and_then(|()| self.hand_on());
    }

    fn list(&mut self, source: &Path) -> Result<(), NobodyTakes> {
        let mut open = vec![(source.to_path_buf(), self.names(source))];
        while let Some((directory, names)) = open.last_mut() {
            let Some(name) = names.pop() else {
                open.pop();
                self.step(Step::Leave)?;
                continue;
            };
            let path = directory.join(&name);
            if self.context.excludes.matches(&path) {
                continue;
            }
            let Some((kind, metadata)) = self.look_at(&path) else { continue };
            if kind != NodeKind::Dir {
                self.step(Step::Entry { name, kind, metadata })?;
                continue;
            }
            if open.len() >= DEPTH_MAX {
                self.context.problems.add(&path, "it lies too deep".into());
                continue;
            }
            let is_elsewhere = self.device.is_some_and(|device| device != metadata.dev());
            self.step(Step::Entry { name, kind, metadata })?;
            // A mount point is kept as an empty directory, so that it is there to be mounted on.
            let names = if is_elsewhere { Vec::new() } else { self.names(&path) };
            open.push((path, names));
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), NobodyTakes> {
        self.batch.push(step);
        if self.batch.len() == BATCH { self.hand_on() } else { Ok(()) }
    }

    fn hand_on(&mut self) -> Result<(), NobodyTakes> {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        self.batches.send(batch).map_err(|_| NobodyTakes)
    }

    /// What is to be looked at in a directory, the last name first.
    fn names(&self, directory: &Path) -> Vec<OsString> {
        names_in(self.context, directory).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                self.context.problems.add_error(directory, "cannot list it", &error);
            }
            Vec::new()
        })
    }

    fn look_at(&self, path: &Path) -> Option<(NodeKind, Metadata)> {
        match std::fs::symlink_metadata(path) {
            Ok(metadata) => kind_of(&metadata).map(|kind| (kind, metadata)),
            // It has vanished since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.context.problems.add_error(path, "cannot look at it", &error);
                None
            }
        }
    }
}

/// The names in a directory, the last one first; of one with a marker, the marker's alone.
pub(super) fn names_in(context: &Context<'_>, path: &Path) -> io::Result<Vec<OsString>> {
    let mut names = std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable_by(|a, b| b.cmp(a));
    if let Some(marker) = marker_in(&context.options.exclude_if_present, path, &names) {
        names.retain(|name| name == marker);
    }
    Ok(names)
}
