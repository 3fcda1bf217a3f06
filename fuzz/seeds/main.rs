//! Writes right files for every target to begin with: `seeds FOLDER`.

use std::path::Path;

// Only linked: what the coverage of the code calls is in it.
use libfuzzer_sys as _;

fn main() -> std::io::Result<()> {
    let corpus = std::env::args_os().nth(1).expect("the folder of the corpora");
    for (target, content) in levee_vault::fuzzing::seeds() {
        let folder = Path::new(&corpus).join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("right"), content)?;
    }
    Ok(())
}
