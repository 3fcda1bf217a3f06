//! A bound on the memory of measured commands, page cache included, as a small or a busy machine has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A control group of its own. It goes when it is dropped.
pub struct MemoryLimit {
    folder: PathBuf,
}

impl MemoryLimit {
    pub fn new(bytes: u64) -> Result<Self> {
        // The memory controller is mounted by itself (version 1) or among all of them (version 2).
        let (parent, file) = match fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
            Ok(controllers) if controllers.split_whitespace().any(|name| name == "memory") => {
                let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
                (Path::new("/sys/fs/cgroup"), "memory.max")
            }
            _ => (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        };
        if !parent.join("cgroup.procs").exists() {
            bail!("there are no control groups for memory at /sys/fs/cgroup; leave --memory-limit-mib out");
        }
        let limit = Self { folder: parent.join(format!("levee-bench-{}", std::process::id())) };
        let folder = &limit.folder;
        fs::create_dir(folder).with_context(|| format!("cannot make the control group {}", folder.display()))?;
        fs::write(folder.join(file), bytes.to_string())
            .with_context(|| format!("cannot bound the memory of {}; this measurement needs root", folder.display()))?;
        Ok(limit)
    }

    /// The same command, which enters the group before it starts.
    pub fn around(&self, command: &Command) -> Command {
        let mut bounded = Command::new("sh");
        bounded.arg("-c").arg(r#"echo $$ > "$0" && exec "$@""#).arg(self.folder.join("cgroup.procs"));
        bounded.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => bounded.env(name, value),
                None => bounded.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            bounded.current_dir(folder);
        }
        bounded
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_more_is_ended() {
        let Ok(limit) = MemoryLimit::new(16 << 20) else {
            levee_testing::leave_out("there are no control groups for memory");
            return;
        };
        let mut small = Command::new("sh");
        small.args(["-c", "test \"$LEVEE_TEST\" = here"]).env("LEVEE_TEST", "here");
        assert!(limit.around(&small).status().unwrap().success());
        let mut large = Command::new("sh");
        large.args(["-c", "head -c 64000000 /dev/zero | tail -c 64000000 | wc -c"]);
        let output = limit.around(&large).output().unwrap();
        assert_ne!(String::from_utf8_lossy(&output.stdout).trim(), "64000000", "{output:?}");
    }
}
