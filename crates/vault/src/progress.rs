use std::path::Path;

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
