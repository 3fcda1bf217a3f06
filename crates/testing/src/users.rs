//! Running programs as another user of the operating system: PostgreSQL refuses to run as root.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// An operating system's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// Looks the user up in the passwd file.
    pub fn find(name: &str) -> Option<User> {
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        passwd.lines().find_map(|line| parse_passwd_line(line).filter(|user| user.name == name))
    }

    /// The user that database servers run as: `postgres` when the harness runs as root, else nobody
    /// but the caller itself.
    pub fn for_database() -> Option<User> {
        is_root().then(|| {
            User::find("postgres").expect("the user postgres is missing: run `cargo xtask setup` to install PostgreSQL")
        })
    }

    /// Makes `command` run as this user.
    pub fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Gives a file or folder to this user.
    pub fn own(&self, path: &Path) {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .unwrap_or_else(|error| panic!("cannot give {} to {}: {error}", path.display(), self.name));
    }
}

fn parse_passwd_line(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_string();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User { name, uid, gid })
}

/// Whether the harness itself runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines() {
        let user = parse_passwd_line("postgres:x:104:113:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash");
        assert_eq!(user, Some(User { name: "postgres".into(), uid: 104, gid: 113 }));
        assert_eq!(parse_passwd_line("broken"), None);
        assert_eq!(User::find("root").map(|user| user.uid), Some(0));
    }
}
