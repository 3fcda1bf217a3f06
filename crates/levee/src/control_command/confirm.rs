use std::io::{IsTerminal, Write};

use anyhow::{Context as _, bail};

/// Asks for a yes on the terminal. Without one it refuses, and names the flag that says yes.
pub fn confirm(question: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("this needs a yes, and there is no terminal to ask at: say --yes");
    }
    eprint!("{question} Type yes to go on: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    if answer.trim() != "yes" {
        bail!("nothing was done");
    }
    Ok(())
}
