//! Disk images in snapshots.
//!
//! An image is a directory: a description, and one directory for each GiB. A segment's directory holds its
//! content as one file, and nothing in it says when or from where it was stored, so that the tree of a
//! segment that has not changed is stored once. docs/formats/image.md has the layout.

mod changes;
mod compare;
mod layout;
mod needed;
mod read;
mod restore;
mod store;

pub use layout::{ImageDescription, StoredImage};
pub use read::Image;
pub use restore::{ImageRestoreOptions, ImageRestoreSummary, restore_image};
pub use store::{ImageBackupOptions, backup_images};
