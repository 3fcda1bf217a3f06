//! Counting what there is to do, beside the backup itself, for whoever watches it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Context;
use super::listing::names_in;
use super::targets::Targets;
use crate::Event;

/// Files and bytes that the walk will come by.
#[derive(Default)]
struct Amount {
    items: u64,
    bytes: u64,
}

/// Counts, and reports the total in the end, unless the backup is over before.
pub(super) fn scan(context: &Context<'_>, targets: &Targets, is_over: &AtomicBool) {
    let mut amount = Amount::default();
    let mut sources = Vec::new();
    collect_sources(targets, &mut sources);
    for source in sources {
        let Ok(metadata) = std::fs::symlink_metadata(&source) else { continue };
        let device = context.options.one_file_system.then(|| metadata.dev());
        let mut open = vec![(source, metadata)];
        while let Some((path, metadata)) = open.pop() {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            amount.take(context, &metadata);
            if metadata.is_dir() && device.is_none_or(|device| device == metadata.dev()) {
                open.extend(entries(context, &path));
            }
        }
    }
    context.progress.report(Event::Total { items: amount.items, bytes: amount.bytes });
}

impl Amount {
    fn take(&mut self, context: &Context<'_>, metadata: &Metadata) {
        let is_too_large = context.options.exclude_larger_than.is_some_and(|limit| metadata.len() > limit);
        if metadata.is_file() && !is_too_large {
            self.items += 1;
            self.bytes += metadata.len();
        }
    }
}

fn collect_sources(targets: &Targets, sources: &mut Vec<PathBuf>) {
    if targets.is_source {
        sources.push(targets.path.clone());
    } else {
        targets.children.values().for_each(|child| collect_sources(child, sources));
    }
}

/// What cannot be looked at is not counted: the walk names it.
fn entries(context: &Context<'_>, path: &Path) -> Vec<(PathBuf, Metadata)> {
    let Ok(names) = names_in(context, path) else { return Vec::new() };
    let paths = names.into_iter().map(|name| path.join(name)).filter(|path| !context.excludes.matches(path));
    paths.filter_map(|path| std::fs::symlink_metadata(&path).ok().map(|metadata| (path, metadata))).collect()
}
