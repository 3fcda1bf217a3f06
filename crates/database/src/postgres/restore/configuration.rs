//! The configuration of a restored cluster, which may have lain outside the source's data directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::RestoreRequest;
use super::place::{Layout, file_error};
use super::settings::cleaned;
use crate::postgres::base::{ConfigurationFile, DATA_PATH, MainFile};
use crate::postgres::references::{Kind, Language, resolved};
use crate::{Error, Result};

/// Below the data directory: the files that others refer to and that lay outside, by their paths at the source.
pub(super) const FOLDERS: [&str; 2] = [SETTINGS_FOLDER, RULES_FOLDER];
const SETTINGS_FOLDER: &str = "levee-configuration";
const RULES_FOLDER: &str = "levee-access-rules";

/// The main files by their usual names, which they have in a restored cluster.
const MAIN: [(&str, MainFile, Language); 3] = [
    ("postgresql.conf", MainFile::ConfigFile, Language::Settings),
    ("pg_hba.conf", MainFile::HbaFile, Language::Rules),
    ("pg_ident.conf", MainFile::IdentFile, Language::Rules),
];

impl Language {
    fn folder(self) -> &'static str {
        match self {
            Language::Settings => SETTINGS_FOLDER,
            Language::Rules => RULES_FOLDER,
        }
    }
}

impl Layout {
    /// Puts configuration that lay outside the source's data directory into the restored one, with everything that it
    /// refers to, and lets it refer to it there: the paths of the source may not exist here, or be somebody else's.
    pub fn place_configuration(&self, request: &RestoreRequest<'_>) -> Result<()> {
        let facts = &request.plan.base.facts;
        let placing = Placing {
            layout: self,
            request,
            source_data: Path::new(&facts.data_directory),
            mains_are_known: facts.configuration.iter().any(|file| file.main.is_some()),
        };
        for (name, main, language) in MAIN {
            let target = self.incoming().join(name);
            let has_name = |file: &ConfigurationFile| Path::new(&file.path).file_name().is_some_and(|own| own == name);
            // An earlier version's base backup does not say which files are the main ones.
            let is_it = |file: &&ConfigurationFile| match placing.mains_are_known {
                true => file.main == Some(main) && file.stored.is_some(),
                false => has_name(file) && is_outside(file),
            };
            let default = placing.source_data.join(name);
            let file = facts.configuration.iter().find(is_it);
            let source = file.map_or(default.as_path(), |file| Path::new(&file.path));
            match file {
                Some(file) if is_outside(file) => placing.put(file, &target)?,
                // It came with the data, under a name of its own.
                Some(_) if source != default => {
                    let own = placing.below(self.incoming(), source, language);
                    fs::copy(&own, &target).map_err(file_error("copying", &own))?;
                }
                _ => {}
            }
            placing.along(source, target, language)?;
        }
        for name in ["postgresql.conf", "pg_hba.conf"] {
            if !self.incoming().join(name).exists() {
                return Err(Error::NoConfiguration { name, snapshot: request.plan.base.snapshot.short() });
            }
        }
        Ok(())
    }
}

/// Whether a file is stored beside the data directory, not in it.
fn is_outside(file: &ConfigurationFile) -> bool {
    file.stored.as_ref().is_some_and(|stored| !stored.starts_with(DATA_PATH))
}

struct Placing<'a> {
    layout: &'a Layout,
    request: &'a RestoreRequest<'a>,
    source_data: &'a Path,
    /// The base backup says which files are the server's main ones.
    mains_are_known: bool,
}

impl Placing<'_> {
    /// Writes a stored file, with the folders that it lies in.
    fn put(&self, file: &ConfigurationFile, target: &Path) -> Result<()> {
        let Some(stored) = &file.stored else { return Ok(()) };
        let content = self
            .request
            .vault
            .read_file(&self.request.plan.base.snapshot, Path::new(stored))
            .map_err(Error::vault("restoring the configuration"))?;
        write_below(target, &content)
    }

    /// Where a file of the source is below a data directory.
    fn below(&self, data_directory: &Path, source: &Path, language: Language) -> PathBuf {
        match source.strip_prefix(self.source_data) {
            Ok(inside) => data_directory.join(inside),
            Err(_) => data_directory.join(language.folder()).join(source.strip_prefix("/").unwrap_or(source)),
        }
    }

    /// From a main file along what it refers to; each is taken once, whoever refers to it.
    fn along(&self, source: &Path, target: PathBuf, language: Language) -> Result<()> {
        let mut to_do = vec![(source.to_path_buf(), target)];
        let mut done = BTreeSet::new();
        while let Some((source, target)) = to_do.pop() {
            if !done.insert(source.clone()) {
                continue;
            }
            let Ok(text) = fs::read(&target) else { continue };
            let before = String::from_utf8_lossy(&text);
            let was_inside = source.starts_with(self.source_data);
            let text = match language {
                Language::Settings => {
                    let names_places = |path: &Path| self.is_lost(&source, path);
                    without_lost(&cleaned(&before, !was_inside, self.mains_are_known, self.source_data), names_places)
                }
                Language::Rules => before.to_string(),
            };
            for reference in language.references(&text) {
                let place = resolved(&source, &reference.path);
                if reference.kind == Kind::Folder {
                    // It need not hold anything, but must be there.
                    let folder = self.below(self.layout.incoming(), &place, language);
                    fs::create_dir_all(&folder).map_err(file_error("creating", &folder))?;
                }
                let is_meant = |path: &Path| match reference.kind {
                    Kind::Folder => path.parent() == Some(&*place),
                    Kind::File | Kind::OptionalFile => path == place,
                };
                let configuration = &self.request.plan.base.facts.configuration;
                for file in configuration.iter().filter(|file| is_meant(Path::new(&file.path))) {
                    let named = PathBuf::from(&file.path);
                    // What lay inside came with the data.
                    let target = self.below(self.layout.incoming(), &named, language);
                    if is_outside(file) {
                        self.put(file, &target)?;
                    }
                    to_do.push((named, target));
                }
            }
            let changed = language.rewritten(&text, |path| {
                let place = resolved(&source, path);
                let stays = path.is_relative() && was_inside && place.starts_with(self.source_data);
                let new_place = self.below(self.request.data_directory, &place, language);
                (!stays).then(|| new_place.display().to_string())
            });
            if *changed != *before {
                write_below(&target, changed.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Whether a file that must be there could not be read when the base backup was taken.
    fn is_lost(&self, source: &Path, path: &Path) -> bool {
        let place = resolved(source, path);
        let configuration = &self.request.plan.base.facts.configuration;
        let is_stored = configuration.iter().any(|file| Path::new(&file.path) == place && file.stored.is_some());
        !is_stored && !place.starts_with(self.source_data)
    }
}

/// Takes out what includes a file that is not there: the server would not start.
fn without_lost(text: &str, is_lost: impl Fn(&Path) -> bool) -> String {
    let keep = |line: &str| {
        let mut references = Language::Settings.references(line).into_iter();
        match references.find(|reference| reference.kind == Kind::File && is_lost(&reference.path)) {
            Some(lost) => {
                tracing::error!(path = %lost.path.display(),
                    "a file of settings is not in the base backup: the restored server does without it");
                format!("#{}  # not in the base backup\n", line.trim_end())
            }
            None => line.to_string(),
        }
    };
    text.split_inclusive('\n').map(keep).collect()
}

/// Writes a file, with the folders that it lies in.
fn write_below(target: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(file_error("creating", parent))?;
    }
    fs::write(target, content).map_err(file_error("writing", target))
}
