use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use crate::problem::ProblemLog;
use crate::{Error, Result};

/// Where in the snapshot's tree the sources go.
#[derive(Default)]
pub(super) struct Targets {
    /// The path on disk of this part of the tree.
    pub path: PathBuf,
    /// Whether everything below is wanted, and not only what `children` name.
    pub is_source: bool,
    pub children: BTreeMap<OsString, Targets>,
}

impl Targets {
    /// Looks which sources are there. A missing one is a problem; an error when all are missing.
    pub fn look_at(paths: &[PathBuf], problems: &ProblemLog<'_>) -> Result<Self> {
        let mut root = Targets::default();
        let mut missing = None;
        let mut found = false;
        for path in paths {
            match std::fs::symlink_metadata(path) {
                Ok(_) => {
                    found = true;
                    root.insert(path)?;
                }
                Err(error) => {
                    problems.add_error(path, "cannot read it", &error);
                    missing.get_or_insert((path, error));
                }
            }
        }
        match missing {
            Some((path, source)) if !found => Err(Error::NoSource { path: path.clone(), source }),
            _ if !found => Err(Error::InvalidPath { path: PathBuf::new(), reason: "no source was given" }),
            _ => Ok(root),
        }
    }

    fn insert(&mut self, path: &Path) -> Result<()> {
        let mut target = self;
        let mut on_disk = PathBuf::new();
        for component in path.components() {
            on_disk.push(component);
            match component {
                Component::RootDir | Component::CurDir => target.path = on_disk.clone(),
                Component::Normal(name) => {
                    target = target.children.entry(name.to_os_string()).or_default();
                    target.path = on_disk.clone();
                }
                Component::ParentDir | Component::Prefix(_) => {
                    let reason = "give it without \"..\", as an absolute path";
                    return Err(Error::InvalidPath { path: path.to_path_buf(), reason });
                }
            }
        }
        target.is_source = true;
        Ok(())
    }
}
