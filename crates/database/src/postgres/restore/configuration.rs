//! The configuration of a restored cluster, which may have lain outside the source's data directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::RestoreRequest;
use super::place::{Layout, file_error};
use super::settings::cleaned;
use crate::postgres::access_rules::{Kind, references, resolved, rewritten};
use crate::postgres::base::DATA_PATH;
use crate::{Error, Result};

/// Below the data directory: the files that access rules refer to and that lay outside, by their paths at the source.
pub(super) const RULES_FOLDER: &str = "levee-access-rules";

impl Layout {
    /// Puts configuration that lay outside the source's data directory into the restored one.
    pub fn place_configuration(&self, request: &RestoreRequest<'_>) -> Result<()> {
        let facts = &request.plan.base.facts;
        let source_data = Path::new(&facts.data_directory);
        for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
            let target = self.incoming().join(name);
            let stored = facts.configuration.iter().find_map(|file| {
                let is_it = Path::new(&file.path).file_name().is_some_and(|file_name| file_name == name);
                file.stored.as_ref().filter(|stored| is_it && !stored.starts_with(DATA_PATH))
            });
            let Some(stored) = stored else {
                if name == "postgresql.conf" {
                    self.clean(&target, false, source_data)?;
                }
                continue;
            };
            let content = request
                .vault
                .read_file(&request.plan.base.snapshot, Path::new(stored))
                .map_err(|source| Error::Vault { doing: "restoring the configuration", source })?;
            fs::write(&target, content).map_err(file_error("writing", &target))?;
            if name == "postgresql.conf" {
                self.clean(&target, true, source_data)?;
            }
        }
        self.place_rules(request)?;
        // Debian's main file includes a folder that need not hold anything.
        self.place_included(request)?;
        for name in ["postgresql.conf", "pg_hba.conf"] {
            if !self.incoming().join(name).exists() {
                return Err(Error::NoConfiguration { name, snapshot: request.plan.base.snapshot.short() });
            }
        }
        Ok(())
    }

    fn clean(&self, main: &Path, was_outside: bool, source_data: &Path) -> Result<()> {
        let text = match fs::read(main) {
            Ok(text) => text,
            // The caller says so.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(file_error("reading", main)(error)),
        };
        fs::write(main, cleaned(&String::from_utf8_lossy(&text), was_outside, source_data))
            .map_err(file_error("writing", main))
    }

    /// Files that the main file includes, by their paths relative to it.
    fn place_included(&self, request: &RestoreRequest<'_>) -> Result<()> {
        let facts = &request.plan.base.facts;
        let main = facts.configuration.iter().find(|file| file.path.ends_with("/postgresql.conf"));
        let Some(folder) = main.and_then(|file| Path::new(&file.path).parent()) else { return Ok(()) };
        let text = fs::read_to_string(self.incoming().join("postgresql.conf")).unwrap_or_default();
        for line in text.lines().map(str::trim_start).filter(|line| line.starts_with("include_dir")) {
            let value = line.split('#').next().and_then(|line| line.split('\'').nth(1));
            if let Some(value) = value.map(Path::new).filter(|value| value.is_relative()) {
                let path = self.incoming().join(value);
                fs::create_dir_all(&path).map_err(file_error("creating", &path))?;
            }
        }
        for file in &facts.configuration {
            let Ok(relative) = Path::new(&file.path).strip_prefix(folder) else { continue };
            let stored = file.stored.as_ref().filter(|stored| !stored.starts_with(DATA_PATH));
            let (Some(stored), true) = (stored, relative.components().count() > 1) else { continue };
            let content = request
                .vault
                .read_file(&request.plan.base.snapshot, Path::new(stored))
                .map_err(|source| Error::Vault { doing: "restoring the configuration", source })?;
            write_below(&self.incoming().join(relative), &content)?;
        }
        Ok(())
    }

    /// Puts what `pg_hba.conf` and `pg_ident.conf` refer to into the restored directory, and lets them refer to it
    /// there: the paths of the source may not exist here, or be somebody else's.
    fn place_rules(&self, request: &RestoreRequest<'_>) -> Result<()> {
        let facts = &request.plan.base.facts;
        let source_data = Path::new(&facts.data_directory);
        // Where a file of the source is when the copy is in its place.
        let new_place = |path: &Path| match path.strip_prefix(source_data) {
            Ok(inside) => request.data_directory.join(inside),
            Err(_) => request.data_directory.join(RULES_FOLDER).join(path.strip_prefix("/").unwrap_or(path)),
        };
        // From the main files along what they refer to; each is taken once, whoever refers to it.
        let mut files: Vec<(PathBuf, PathBuf)> = Vec::new();
        for name in ["pg_hba.conf", "pg_ident.conf"] {
            let source = facts.configuration.iter().map(|file| Path::new(&file.path));
            let source = source.into_iter().find(|path| path.file_name().is_some_and(|file_name| file_name == name));
            files.extend(source.map(|source| (source.to_path_buf(), self.incoming().join(name))));
        }
        let mut done = BTreeSet::new();
        while let Some((source, target)) = files.pop() {
            if !done.insert(source.clone()) {
                continue;
            }
            let Ok(text) = fs::read(&target) else { continue };
            let text = String::from_utf8_lossy(&text);
            let was_inside = source.starts_with(source_data);
            for reference in references(&text) {
                let place = resolved(&source, &reference.path);
                let is_meant = |path: &Path| match reference.kind {
                    Kind::Folder => path.parent() == Some(&*place),
                    Kind::File | Kind::OptionalFile => path == place,
                };
                for file in facts.configuration.iter().filter(|file| is_meant(Path::new(&file.path))) {
                    let named = Path::new(&file.path);
                    // What lay inside came with the data.
                    let target = match named.strip_prefix(source_data) {
                        Ok(inside) => self.incoming().join(inside),
                        Err(_) => self.incoming().join(RULES_FOLDER).join(named.strip_prefix("/").unwrap_or(named)),
                    };
                    if let Some(stored) = file.stored.as_ref().filter(|stored| !stored.starts_with(DATA_PATH)) {
                        let content = request
                            .vault
                            .read_file(&request.plan.base.snapshot, Path::new(stored))
                            .map_err(|source| Error::Vault { doing: "restoring the configuration", source })?;
                        write_below(&target, &content)?;
                    }
                    files.push((named.to_path_buf(), target));
                }
            }
            let changed = rewritten(&text, |path| {
                let stays = path.is_relative() && was_inside;
                (!stays).then(|| new_place(&resolved(&source, path)).display().to_string())
            });
            if changed != text {
                write_below(&target, changed.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// Writes a file, with the folders that it lies in.
fn write_below(target: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(file_error("creating", parent))?;
    }
    fs::write(target, content).map_err(file_error("writing", target))
}
