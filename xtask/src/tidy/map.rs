//! What ARCHITECTURE.md says of where something is must be there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const PAGE: &str = "ARCHITECTURE.md";
const HEADING: &str = "## Where is …";

/// A line of the table: a question, the crates, and the files or folders below their sources.
struct Row<'a> {
    crates: Vec<&'a str>,
    paths: Vec<&'a str>,
}

pub fn check(root: &Path) -> Result<Vec<String>> {
    let path = root.join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(check_page(&page, |place| root.join(place).exists()))
}

fn check_page(page: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    let mut is_empty = true;
    for line in table(page) {
        let Some(row) = parse(line) else {
            findings.push(format!("{PAGE}: this line of the table has not three columns: {line}"));
            continue;
        };
        is_empty = false;
        for path in row.paths {
            if !row.crates.iter().any(|name| exists(&sources(name).join(path))) {
                findings.push(format!("{PAGE}: {path} is not in the sources of {}", row.crates.join(", ")));
            }
        }
    }
    if is_empty {
        findings.push(format!("{PAGE}: there is no table below \"{HEADING}\""));
    }
    findings
}

/// The lines of the table without its head.
fn table(page: &str) -> impl Iterator<Item = &str> {
    let below = page.lines().skip_while(|line| *line != HEADING).skip(1);
    let section = below.take_while(|line| !line.starts_with("## "));
    section.filter(|line| line.starts_with('|')).skip(2)
}

fn parse(line: &str) -> Option<Row<'_>> {
    let columns: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [_, crates, places] = columns[..] else { return None };
    let quoted = places.split('`').skip(1).step_by(2);
    Some(Row {
        crates: crates.split([',', '→']).map(str::trim).collect(),
        // Others are names of functions in them.
        paths: quoted.filter(|text| text.ends_with(".rs") || text.ends_with('/')).collect(),
    })
}

fn sources(name: &str) -> PathBuf {
    match name {
        "xtask" => PathBuf::from("xtask/src"),
        _ => Path::new("crates").join(name).join("src"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_leads_to_what_is_there() {
        let root = crate::workspace::root();
        let findings = check(&root).unwrap();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
        let page = fs::read_to_string(root.join(PAGE)).unwrap();
        let paths: usize = table(&page).filter_map(parse).map(|row| row.paths.len()).sum();
        assert!(paths > 100, "only {paths} paths are looked at");
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let check = |row: &str, expected: &[&str]| {
            let head = "| question | crate | file |\n|---|---|---|";
            let page = format!("{HEADING}\n\n{head}\n{row}\n\n## Next\n| `gone.rs` |\n");
            let there = ["crates/plan/src/run.rs", "crates/agent/src/protect/", "xtask/src/main.rs"];
            let findings = check_page(&page, |place| there.iter().any(|known| Path::new(known) == place));
            assert_eq!(findings.len(), expected.len(), "{findings:?}");
            for (finding, expected) in findings.iter().zip(expected) {
                assert!(finding.contains(expected), "{finding}");
            }
        };
        check("| q | plan | `run.rs` (`resume`) |", &[]);
        check("| q | plan → agent, xtask | `run.rs`, then `protect/`, `main.rs` |", &[]);
        check("| q | agent | `run.rs` |", &["run.rs is not in the sources of agent"]);
        check("| q | plan | `make/` |", &["make/ is not in the sources of plan"]);
        check("| q | plan |", &["three columns", "there is no table"]);
        check("", &["there is no table"]);
    }
}
