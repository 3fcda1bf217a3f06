//! Dependencies between crates run strictly downward in the levels of ARCHITECTURE.md.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The level of each crate.
const LEVELS: [(&str, u8); 20] = [
    ("levee-model", 0),
    ("levee-store", 1),
    ("levee-wire", 1),
    ("levee-device", 1),
    ("levee-image", 1),
    ("levee-traffic", 1),
    ("levee-plan", 1),
    ("levee-journal", 2),
    ("levee-vault", 2),
    ("levee-replica", 2),
    ("levee-engine", 2),
    ("levee-api", 2),
    ("levee-database", 3),
    ("levee-sync", 3),
    ("levee-agent", 4),
    ("levee-server", 4),
    ("levee", 5),
    // Aside: drives the pure cores.
    ("levee-sim", 3),
    // Aside: tests of the built program, across processes.
    ("levee-e2e", 6),
    // Aside: developer commands.
    ("xtask", 6),
];

/// The harness for tests. It may be used by every crate's tests, and itself knows nothing of Levee.
const HARNESS: &str = "levee-testing";

struct Manifest {
    name: String,
    dependencies: Vec<String>,
    test_dependencies: Vec<String>,
}

pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for folder in crate_folders(root)? {
        let path = folder.join("Cargo.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let manifest = parse(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        check_manifest(&manifest, &mut findings);
    }
    Ok(findings)
}

fn crate_folders(root: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut folders = vec![root.join("xtask")];
    for entry in fs::read_dir(root.join("crates")).context("cannot list the crates")? {
        folders.push(entry?.path());
    }
    folders.sort();
    Ok(folders)
}

fn parse(text: &str) -> Result<Manifest> {
    let table: toml::Table = text.parse()?;
    let name = table.get("package").and_then(|package| package.get("name")).and_then(|name| name.as_str());
    let names = |section: &str| {
        let dependencies = table.get(section).and_then(|section| section.as_table());
        dependencies.into_iter().flat_map(|table| table.keys().cloned()).collect::<Vec<_>>()
    };
    let mut dependencies = names("dependencies");
    dependencies.extend(names("build-dependencies"));
    Ok(Manifest {
        name: name.context("the manifest names no package")?.to_string(),
        dependencies,
        test_dependencies: names("dev-dependencies"),
    })
}

fn level(name: &str) -> Option<u8> {
    LEVELS.iter().find(|(known, _)| *known == name).map(|(_, level)| *level)
}

fn check_manifest(manifest: &Manifest, findings: &mut Vec<String>) {
    let name = &manifest.name;
    let is_ours = |dependency: &&String| dependency.starts_with("levee");
    if name == HARNESS {
        for dependency in manifest.dependencies.iter().chain(&manifest.test_dependencies).filter(is_ours) {
            findings.push(format!("{name} depends on {dependency}: the harness must know nothing of Levee"));
        }
        return;
    }
    let Some(own) = level(name) else {
        findings.push(format!("{name} stands at no level: add it to ARCHITECTURE.md and to xtask/src/tidy/arrows.rs"));
        return;
    };
    for dependency in manifest.dependencies.iter().filter(is_ours) {
        let is_harness_of_xtask = dependency == HARNESS && name == "xtask";
        if !is_harness_of_xtask && level(dependency).is_none_or(|level| level >= own) {
            findings.push(format!("{name} depends on {dependency}, which does not stand below it"));
        }
    }
    for dependency in manifest.test_dependencies.iter().filter(is_ours) {
        // Tests may join two crates of one level, which their programs must not.
        if dependency != HARNESS && level(dependency).is_none_or(|level| level > own) {
            findings.push(format!("the tests of {name} depend on {dependency}, which stands above it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_run_downward() {
        let check = |manifest: &str, expected: &[&str]| {
            let mut findings = Vec::new();
            check_manifest(&parse(manifest).unwrap(), &mut findings);
            assert_eq!(findings.len(), expected.len(), "{findings:?}");
            for (finding, expected) in findings.iter().zip(expected) {
                assert!(finding.contains(expected), "{finding}");
            }
        };
        let vault = "[package]\nname = \"levee-vault\"\n";
        check(&format!("{vault}[dependencies]\nlevee-store.workspace = true\nserde = \"1\"\n"), &[]);
        check(
            &format!("{vault}[dependencies]\nlevee-journal.workspace = true\n"),
            &["levee-vault depends on levee-journal"],
        );
        check(&format!("{vault}[dependencies]\nlevee-agent = {{ path = \"../agent\" }}\n"), &["levee-agent"]);
        check(&format!("{vault}[dependencies]\nlevee-testing.workspace = true\n"), &["levee-testing"]);
        check(&format!("{vault}[dev-dependencies]\nlevee-testing.workspace = true\n"), &[]);
        check(&format!("{vault}[dev-dependencies]\nlevee-database.workspace = true\n"), &["the tests of levee-vault"]);
        check("[package]\nname = \"levee-utils\"\n", &["stands at no level"]);
        check("[package]\nname = \"levee-testing\"\n[dependencies]\nlevee-vault = \"1\"\n", &["must know nothing"]);
    }
}
