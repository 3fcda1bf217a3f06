//! Disk images: raw files, block devices and qcow2, read and written at any position.
//!
//! Nothing here knows what an image is stored in: a vault's image is read through `ReadAt` as a file is.

mod error;
mod ext4;
mod extract;
mod file_system;
mod format;
mod partition;
mod probe;
mod qcow2;
mod raw;
mod read_at;
mod source;
mod target;
mod xfs;

pub use error::{Error, Result};
pub use extract::{CompareEvent, Compared, ExtractEvent, ExtractOptions, Extracted, Reading, compare, extract};
pub use file_system::{Attributes, DirEntry, FileKind, FileSystem, Moment, open_file_system};
pub use format::{Format, detect_format};
pub use partition::{Partition, TableKind, partitions};
pub use probe::{Contents, probe};
pub use read_at::{ReadAt, SparseRead, Window};
pub use source::{BackingFiles, Source};
pub use target::{Change, Target, TargetState};

/// What reads as a run of zeros without being stored, and what doesn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Data,
    /// A hole, or never allocated: need not be read.
    Zero,
}
