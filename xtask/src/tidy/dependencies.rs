//! Every direct dependency says in docs/dependencies.md what it is for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

pub fn check(root: &Path) -> Result<Vec<String>> {
    let read = |name: &str| fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {name}"));
    compare(&read("Cargo.toml")?, &read("docs/dependencies.md")?)
}

fn compare(manifest: &str, page: &str) -> Result<Vec<String>> {
    let manifest: toml::Table = manifest.parse().context("cannot parse Cargo.toml")?;
    let dependencies = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"))
        .and_then(|dependencies| dependencies.as_table())
        .context("Cargo.toml has no workspace.dependencies")?;
    let names: Vec<&String> = dependencies.keys().filter(|name| !name.starts_with("levee")).collect();
    let explained: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()).collect();
    let unexplained = names.iter().filter(|name| !explained.contains(&name.as_str()));
    let unused = explained.iter().filter(|name| **name != "crate" && !names.iter().any(|known| known == *name));
    Ok(unexplained
        .map(|name| format!("docs/dependencies.md: {name} has no line that says what it is for"))
        .chain(unused.map(|name| format!("docs/dependencies.md: {name} is no dependency any more")))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_and_manifest_agree() {
        let manifest = "[workspace.dependencies]\nserde = \"1\"\nlevee-model = { path = \"x\" }\ntoml = \"1\"\n";
        let found = compare(manifest, "| crate | why |\n|---|---|\n| serde | text |\n| gone | text |\n").unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("toml has no line") && found[1].contains("gone is no dependency"));
    }
}
