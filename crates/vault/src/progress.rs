use std::path::Path;

use crate::Snapshot;

/// What happened to one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemChange {
    New,
    Changed,
    Unmodified,
    Restored,
    /// Removed because the snapshot doesn't have it.
    Deleted,
}

/// Something worth showing while it goes on.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// How much there is to do in all, as soon as it is known. May come again with larger numbers.
    Total { items: u64, bytes: u64 },
    /// So many more bytes have been read, restored or checked.
    Bytes(u64),
    /// So many more files of snapshots were looked at, without their content.
    Files(u64),
    /// A file or directory is done.
    Item { path: &'a Path, change: ItemChange },
    /// Something could not be done; the rest goes on. It is also in the summary.
    Problem { path: &'a Path, message: &'a str },
}

/// Receives events, from several threads at once. `()` ignores them.
pub trait Progress: Sync {
    fn report(&self, event: Event<'_>);
}

impl Progress for () {
    fn report(&self, _event: Event<'_>) {}
}

/// Tells how far a walk through the files of snapshots is. How many there are is known from the snapshots' summaries.
pub struct FileCount<'a> {
    progress: &'a dyn Progress,
    /// How many files of the snapshot have not been told yet. `None` without a total.
    left: Option<u64>,
    knows_total: bool,
}

impl<'a> FileCount<'a> {
    /// Of all snapshots that will be walked through. When one of them says nothing of its files, there is no total.
    pub fn begin<'s>(snapshots: impl IntoIterator<Item = &'s Snapshot>, progress: &'a dyn Progress) -> Self {
        let files = |snapshot: &Snapshot| snapshot.summary.as_ref().map(|summary| summary.total_files_processed);
        let mut counts = snapshots.into_iter().map(files);
        let items = counts.try_fold(0u64, |sum, files| Some(sum.saturating_add(files?)));
        if let Some(items) = items {
            progress.report(Event::Total { items, bytes: 0 });
        }
        Self { progress, left: None, knows_total: items.is_some() }
    }

    /// Goes on to the next snapshot. What was not looked at in the one before counts as done: it was known already, or is left
    /// out.
    pub fn next_snapshot(&mut self, snapshot: &Snapshot) {
        if let Some(left) = self.left.take().filter(|left| *left > 0) {
            self.progress.report(Event::Files(left));
        }
        if self.knows_total {
            self.left = snapshot.summary.as_ref().map(|summary| summary.total_files_processed);
        }
    }

    /// One file was looked at.
    pub fn file(&mut self) {
        match &mut self.left {
            // More than the summary says: it is done, and not more than that.
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                self.progress.report(Event::Files(1));
            }
            None => self.progress.report(Event::Files(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The total that was told, and the files.
    #[derive(Default)]
    struct Told(Mutex<(Option<u64>, u64)>);

    impl Progress for Told {
        fn report(&self, event: Event<'_>) {
            let mut told = self.0.lock().unwrap();
            match event {
                Event::Total { items, .. } => told.0 = Some(items),
                Event::Files(files) => told.1 += files,
                _ => panic!("{event:?}"),
            }
        }
    }

    fn snapshot(files: Option<u64>) -> Snapshot {
        let mut json = serde_json::json!({ "time": "2026-11-26T09:00:00Z", "tree": null });
        if let Some(files) = files {
            let mut summary = serde_json::json!({ "total_files_processed": files });
            for name in ["backup_start", "backup_end"] {
                summary[name] = "2026-11-26T09:00:00Z".into();
            }
            for name in [
                "files_new",
                "files_changed",
                "files_unmodified",
                "dirs_new",
                "dirs_changed",
                "dirs_unmodified",
                "data_blobs",
                "tree_blobs",
                "data_added",
                "data_added_packed",
                "total_bytes_processed",
            ] {
                summary[name] = 0.into();
            }
            json["summary"] = summary;
        }
        serde_json::from_value(json).unwrap()
    }

    /// What was told after walks that saw so many files in each snapshot.
    fn check(snapshots: &[(Option<u64>, u64)], expected: (Option<u64>, u64)) {
        let told = Told::default();
        let all: Vec<Snapshot> = snapshots.iter().map(|(files, _)| snapshot(*files)).collect();
        let mut count = FileCount::begin(&all, &told);
        for (snapshot, (_, seen)) in all.iter().zip(snapshots) {
            count.next_snapshot(snapshot);
            (0..*seen).for_each(|_| count.file());
        }
        assert_eq!(*told.0.lock().unwrap(), expected, "{snapshots:?}");
    }

    #[test]
    fn files_are_counted_by_what_summaries_say() {
        check(&[(Some(3), 3), (Some(5), 5)], (Some(8), 8));
        // Trees that were seen before are not walked through again.
        check(&[(Some(3), 3), (Some(5), 0), (Some(2), 1)], (Some(10), 9));
        // A summary that says too little.
        check(&[(Some(3), 7), (Some(5), 2)], (Some(8), 5));
        // Without a total what is seen is told.
        check(&[(Some(3), 3), (None, 7)], (None, 10));
    }
}
