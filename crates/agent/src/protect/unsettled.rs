//! Staged copies into which the machine went down while they took something in: a file may have its size and its time by
//! then and not its content, so that neither tells whether it is what it should be.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::durable;

/// Notes in `file`, durably, that a copy takes something in, and answers whether the sizes and times in it can be trusted.
/// They cannot when the machine has been restarted since it last began to and did not end; a process that was killed
/// leaves everything that it wrote.
pub fn begin(file: &Path) -> io::Result<bool> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    match fs::read_to_string(file) {
        // The note of an earlier boot stays until everything was compared once.
        Ok(begun) => Ok(begun == boot),
        Err(error) if error.kind() == ErrorKind::NotFound => durable::write(file, boot.as_bytes()).map(|()| true),
        Err(error) => Err(error),
    }
}

/// Says that everything is on the disk. A note that comes back after a power cut costs a comparison.
pub fn end(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_restart_between_begin_and_end_costs_the_trust() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("note");
        assert!(begin(&file).unwrap(), "nothing was under way");
        assert!(begin(&file).unwrap(), "the process was killed, the machine stayed up");
        fs::write(&file, "another boot\n").unwrap();
        assert!(!begin(&file).unwrap());
        assert!(!begin(&file).unwrap(), "killed again before all was compared");
        end(&file).unwrap();
        end(&file).unwrap();
        assert!(begin(&file).unwrap());
    }
}
