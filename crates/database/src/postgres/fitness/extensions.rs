//! The extensions that a server of this host could load, by the files in its `share/extension`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::postgres::base::BaseFacts;

/// Scripts that lead to, or from, any other version (PostGIS).
const ANY: &str = "ANY";

/// What stands in one folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    pub folder: PathBuf,
    pub by_name: BTreeMap<String, Available>,
}

/// One extension as it is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Available {
    /// What `CREATE EXTENSION` would make.
    pub version: Option<String>,
    /// All that its scripts lead to or from; `None` when they lie elsewhere.
    pub versions: Option<BTreeSet<String>>,
}

impl Available {
    /// A later package still knows the earlier versions, from which it updates.
    fn knows(&self, version: &str) -> bool {
        self.version.as_deref() == Some(version)
            || self.versions.as_ref().is_none_or(|known| known.contains(version) || known.contains(ANY))
    }
}

impl Extensions {
    /// `None` when the folder can't be read.
    pub(super) fn read(folder: &Path) -> Option<Extensions> {
        let mut by_name: BTreeMap<String, Available> = BTreeMap::new();
        let mut scripts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for entry in fs::read_dir(folder).ok()? {
            let name = entry.ok()?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(script) = name.strip_suffix(".sql") {
                let mut parts = script.split("--");
                let extension = parts.next().unwrap_or_default();
                scripts.entry(extension.into()).or_default().extend(parts.map(str::to_owned));
            } else if let Some(extension) = name.strip_suffix(".control").filter(|name| !name.contains("--")) {
                let control = fs::read_to_string(folder.join(name)).ok();
                by_name.insert(extension.into(), available(control.as_deref()));
            }
        }
        for (name, here) in &mut by_name {
            if let Some(versions) = &mut here.versions {
                versions.extend(scripts.remove(name).unwrap_or_default());
            }
        }
        Some(Extensions { folder: folder.into(), by_name })
    }
}

fn available(control: Option<&str>) -> Available {
    let Some(control) = control else { return Available::default() };
    let here = setting(control, "directory").is_none();
    Available { version: setting(control, "default_version").map(str::to_owned), versions: here.then(BTreeSet::new) }
}

/// A value as a control file has it: `name = 'value'   # comment`.
fn setting<'a>(control: &'a str, wanted: &str) -> Option<&'a str> {
    let mut settings = control.lines().filter_map(|line| line.split_once('='));
    let (_, value) = settings.find(|(name, _)| name.trim() == wanted)?;
    Some(value.split('#').next().unwrap_or_default().trim().trim_matches('\''))
}

/// What the databases use and this host has not, or not in a version that it knows.
pub(super) fn missing(facts: &BaseFacts, here: &Extensions) -> Vec<String> {
    let mut used: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for database in &facts.databases {
        for extension in database.extensions.iter().flatten() {
            let key = (extension.name.as_str(), extension.version.as_str());
            used.entry(key).or_insert(database.name.as_str());
        }
    }
    let problem = |((name, version), database): ((&str, &str), &str)| match here.by_name.get(name) {
        None => Some(format!(
            "extension {name} {version}, which database {database} uses, is not available here (no control file in {}): \
             install its package",
            here.folder.display()
        )),
        Some(available) if !available.knows(version) => Some(format!(
            "extension {name} {version}, which database {database} uses, is not available here, where {} is: install that \
             version or a later one",
            available.version.as_deref().unwrap_or("another version")
        )),
        Some(_) => None,
    };
    used.into_iter().filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_read_from_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();
        put("hstore.control", "# hstore\ncomment = 'a = b'\ndefault_version = '1.8'  # newest\n");
        put("hstore--1.4.sql", "");
        put("hstore--1.4--1.5.sql", "");
        put("hstore_plperl--9.9.sql", "");
        put("away.control", "default_version = '2'\ndirectory = 'elsewhere'\n");
        put("away--3.control", "");
        let read = Extensions::read(folder.path()).unwrap();
        assert_eq!(read.by_name.keys().collect::<Vec<_>>(), ["away", "hstore"]);
        let hstore = &read.by_name["hstore"];
        for (version, known) in [("1.8", true), ("1.4", true), ("1.5", true), ("1.9", false), ("9.9", false)] {
            assert_eq!(hstore.knows(version), known, "{version}");
        }
        assert!(read.by_name["away"].knows("7"), "its scripts were not seen");
        assert_eq!(Extensions::read(&folder.path().join("nowhere")), None);
    }

    #[test]
    fn what_updates_from_any_version_knows_all() {
        let versions = Some([ANY.to_string(), "3.4.0".into()].into());
        assert!(Available { version: Some("3.4.0".into()), versions }.knows("3.3.2"));
    }
}
