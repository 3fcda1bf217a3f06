//! Files that say that their directory is not worth keeping.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The name of a file, and what it must begin with to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    pub name: OsString,
    /// Empty when the name alone counts.
    pub header: Vec<u8>,
}

impl Marker {
    /// What programs put into their caches. Source: <https://bford.info/cachedir/>.
    pub fn cache_directory() -> Self {
        Self { name: "CACHEDIR.TAG".into(), header: b"Signature: 8a477f597d28d172789f06886806bc55".to_vec() }
    }

    fn is_in(&self, directory: &Path) -> bool {
        if self.header.is_empty() {
            return true;
        }
        let mut begins = Vec::with_capacity(self.header.len());
        let read = File::open(directory.join(&self.name))
            .and_then(|file| file.take(self.header.len() as u64).read_to_end(&mut begins));
        // One that cannot be read excludes nothing: too much is better than too little.
        read.is_ok() && begins == self.header
    }
}

/// The name of the marker in a directory, if there is one among its names.
pub(super) fn marker_in<'a>(markers: &'a [Marker], directory: &Path, names: &[OsString]) -> Option<&'a OsStr> {
    let is_here = |marker: &&Marker| names.contains(&marker.name) && marker.is_in(directory);
    markers.iter().find(is_here).map(|marker| marker.name.as_os_str())
}
