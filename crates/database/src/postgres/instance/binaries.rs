//! Where a version's programs are.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Where distributions put them; `{}` is the major version.
const PLACES: [&str; 4] =
    ["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/pgsql-{}/bin", "/opt/postgresql/{}/bin"];

/// The folder of one version's `postgres`, `pg_ctl` and the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// The programs of a major version: in the given folder, or where distributions put them.
    pub fn find(major: u32, given: Option<&Path>) -> Result<Binaries> {
        let candidates: Vec<PathBuf> = match given {
            Some(folder) => vec![folder.into()],
            None => PLACES.iter().map(|place| place.replace("{}", &major.to_string()).into()).collect(),
        };
        let complete = |folder: &&PathBuf| folder.join("postgres").is_file() && folder.join("pg_ctl").is_file();
        match candidates.iter().find(complete) {
            Some(folder) => Ok(Binaries { folder: folder.clone() }),
            None => Err(Error::NoBinaries {
                major,
                looked_in: candidates.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
