//! The names of users and groups.

use std::collections::HashMap;

/// The accounts of this machine's own files. Names that only a directory service knows are left out;
/// the numbers are stored in any case.
pub(crate) struct Accounts {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Accounts {
    pub fn load() -> Self {
        let read = |path: &str| parse(&std::fs::read(path).unwrap_or_default());
        Self { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    pub fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_default()
    }

    pub fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_default()
    }

    pub fn user_number(&self, name: &str) -> Option<u32> {
        number_of(&self.users, name)
    }

    pub fn group_number(&self, name: &str) -> Option<u32> {
        number_of(&self.groups, name)
    }
}

/// The lowest number that has the name. An empty name is nobody's.
fn number_of(names: &HashMap<u32, String>, name: &str) -> Option<u32> {
    names.iter().filter(|(_, known)| !name.is_empty() && *known == name).map(|(number, _)| *number).min()
}

/// Both files have the name in their first and the number in their third field. The first line wins.
fn parse(content: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(content).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(number))) = (fields.next(), fields.nth(1).map(str::parse)) {
            names.entry(number).or_insert_with(|| name.to_string());
        }
    }
    names
}

/// Who is doing this: for locks and snapshots.
#[derive(Clone, Debug)]
pub(crate) struct Whoami {
    pub hostname: String,
    pub username: String,
    pub uid: u32,
    pub gid: u32,
}

impl Whoami {
    pub fn now() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { hostname, username: Accounts::load().user(uid), uid, gid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_number() {
        let names = parse(b"root:x:0:0::/root:/bin/sh\nbroken\ntoor:x:0:0\nwww-data:x:33:33:\n");
        assert_eq!(names.get(&0).map(String::as_str), Some("root"));
        assert_eq!(names.get(&33).map(String::as_str), Some("www-data"));
        assert_eq!(names.len(), 2);
    }
}
