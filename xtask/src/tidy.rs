//! What the project asks of its own sources, beyond what the compiler asks.

mod arrows;
mod dependencies;
mod map;
mod secrets;
mod sources;
mod text;

use anyhow::{Result, bail};

use crate::workspace::{root, run_cargo};

/// Checks formatting, lints and the rules for sources.
pub fn run() -> Result<()> {
    run_cargo(&["fmt", "--all", "--check"])?;
    let findings = findings()?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings in the sources", findings.len());
    }
    run_cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
}

/// Everything that breaks a rule for sources: one line each, with its place.
fn findings() -> Result<Vec<String>> {
    let root = root();
    let mut findings = arrows::check(&root)?;
    findings.extend(dependencies::check(&root)?);
    findings.extend(map::check(&root)?);
    for file in sources::list(&root)? {
        text::check(&file, &mut findings);
        if file.is_rust() {
            secrets::check(&file, &mut findings);
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sources_keep_the_rules() {
        let findings = super::findings().unwrap();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }
}
