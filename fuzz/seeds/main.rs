//! Writes right files for every target to begin with: `seeds FOLDER`.

use std::collections::HashMap;
use std::path::Path;

// Only linked: what the coverage of the code calls is in it.
use libfuzzer_sys as _;

fn main() -> std::io::Result<()> {
    let corpus = std::env::args_os().nth(1).expect("the folder of the corpora");
    let mut counts = HashMap::new();
    for (target, content) in levee_vault::fuzzing::seeds() {
        let folder = Path::new(&corpus).join(target);
        std::fs::create_dir_all(&folder)?;
        let count = counts.entry(target).or_insert(0);
        *count += 1;
        std::fs::write(folder.join(format!("right-{count}")), content)?;
    }
    Ok(())
}
