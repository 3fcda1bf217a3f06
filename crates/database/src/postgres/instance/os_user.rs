//! The operating system's user that a database server runs as.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{Error, Result};

/// A user by name, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OsUser {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl OsUser {
    /// Looks a user up in /etc/passwd, and then in whatever else the system asks.
    pub fn find(name: &str) -> Result<OsUser> {
        let local = fs::read_to_string("/etc/passwd").unwrap_or_default();
        if let Some(user) = find_in(&local, name) {
            return Ok(user);
        }
        let asked = Command::new("getent").args(["passwd", "--", name]).output();
        let elsewhere = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        find_in(&elsewhere, name).ok_or_else(|| Error::NoSuchUser { user: name.into() })
    }

    /// A command that runs as this user, in the file system's root, since the caller's own folder may
    /// be closed to it.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let me = rustix::process::geteuid();
        let mut command = if me.as_raw() == self.uid {
            Command::new(program)
        } else if me.is_root() {
            // Unlike a bare setuid it also gives the user's further groups, which may own a TLS key.
            let mut command = Command::new("runuser");
            command.arg("-u").arg(&self.name).arg("--").arg(program);
            command
        } else {
            return Err(Error::NotThatUser { user: self.name.clone() });
        };
        for (name, _) in std::env::vars_os() {
            // Settings of the caller's own PostgreSQL clients must not reach the server.
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        command.current_dir("/").env("LC_ALL", "C");
        Ok(command)
    }

    /// Gives a file or folder to this user.
    pub fn own(&self, path: &Path) -> Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).map_err(|source| Error::File {
            doing: "changing the owner of",
            path: path.into(),
            source,
        })
    }
}

fn find_in(passwd: &str, name: &str) -> Option<OsUser> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.first() == Some(&name)).then_some(())?;
        Some(OsUser { name: name.into(), uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres:x:104:111::/var/lib/postgresql:/bin/bash\n";
        assert_eq!(find_in(passwd, "postgres").map(|user| (user.uid, user.gid)), Some((104, 111)));
        assert_eq!(find_in(passwd, "post"), None);
        assert_eq!(find_in("broken:x\n", "broken"), None);
    }
}
