//! Who gets what is restored.

use crate::accounts::Accounts;
use crate::{Error, Node, Result};

/// Whom files are given to. Only root can give files away; others own what they restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// The numbers that the snapshot has.
    #[default]
    Numbers,
    /// The names that the snapshot has, as this machine knows them; the numbers where it doesn't.
    Names,
    /// Whoever restores.
    Leave,
}

/// Other owners for some: `FROM:TO`, each a name or a number. The first that fits counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerMap {
    users: Vec<Mapping>,
    groups: Vec<Mapping>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    from: Account,
    to: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Account {
    Number(u32),
    Name(String),
}

impl OwnerMap {
    /// Names on the right must be known on this machine; names on the left are those in the snapshot.
    pub fn parse(users: &[String], groups: &[String]) -> Result<Self> {
        let accounts = Accounts::load();
        let users = users.iter().map(|text| Mapping::parse(text, |name| accounts.user_number(name)));
        let groups = groups.iter().map(|text| Mapping::parse(text, |name| accounts.group_number(name)));
        Ok(Self { users: users.collect::<Result<_>>()?, groups: groups.collect::<Result<_>>()? })
    }

    fn owner_of(&self, node: &Node, uid: u32, gid: u32) -> (u32, u32) {
        (mapped(&self.users, uid, node.uid, &node.user), mapped(&self.groups, gid, node.gid, &node.group))
    }
}

impl Mapping {
    fn parse(text: &str, number_of: impl Fn(&str) -> Option<u32>) -> Result<Self> {
        let bad = |reason| Error::OwnerMap { mapping: text.into(), reason };
        let (from, to) = text.split_once(':').ok_or_else(|| bad("write it as FROM:TO"))?;
        if from.is_empty() || to.is_empty() {
            return Err(bad("write it as FROM:TO"));
        }
        let from = from.parse().map_or_else(|_| Account::Name(from.into()), Account::Number);
        let to = to.parse().ok().or_else(|| number_of(to));
        let to = to.ok_or_else(|| bad("the name on the right is not known on this machine; give its number"))?;
        Ok(Self { from, to })
    }
}

fn mapped(mappings: &[Mapping], otherwise: u32, number: u32, name: &str) -> u32 {
    let fits = |mapping: &&Mapping| match &mapping.from {
        Account::Number(from) => *from == number,
        Account::Name(from) => from == name,
    };
    mappings.iter().find(fits).map_or(otherwise, |mapping| mapping.to)
}

/// Finds the owner of each entry.
pub(super) struct OwnerRule {
    owners: Owners,
    map: OwnerMap,
    everything: Option<(u32, u32)>,
    accounts: Accounts,
    is_root: bool,
}

impl OwnerRule {
    pub fn new(owners: Owners, map: OwnerMap, everything: Option<(u32, u32)>) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        Self { owners, map, everything, accounts: Accounts::load(), is_root }
    }

    /// User and group; `None` when they stay those of whoever restores.
    pub fn owner_of(&self, node: &Node) -> Option<(u32, u32)> {
        if self.everything.is_some() {
            return self.everything;
        }
        if !self.is_root || self.owners == Owners::Leave {
            return None;
        }
        let (uid, gid) = match self.owners {
            Owners::Names => (
                self.accounts.user_number(&node.user).unwrap_or(node.uid),
                self.accounts.group_number(&node.group).unwrap_or(node.gid),
            ),
            Owners::Numbers | Owners::Leave => (node.uid, node.gid),
        };
        Some(self.map.owner_of(node, uid, gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeKind;

    #[test]
    fn owners_are_mapped_by_name_and_by_number() {
        let text = |list: &[&str]| list.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let map = OwnerMap::parse(&text(&["alice:1001", "7:root", "4000000000:8"]), &text(&["staff:0"])).unwrap();
        let check = |user: &str, uid: u32, group: &str, gid: u32, expected: (u32, u32)| {
            let mut node = Node::new("x".into(), NodeKind::File, 0o600);
            (node.uid, node.gid, node.user, node.group) = (uid, gid, user.into(), group.into());
            assert_eq!(map.owner_of(&node, uid, gid), expected, "{user} {uid} {group} {gid}");
        };
        check("alice", 5, "staff", 50, (1001, 0));
        check("", 7, "other", 51, (0, 51));
        check("bob", 6, "", 52, (6, 52));
        check("", 4_000_000_000, "", 1, (8, 1));
        for bad in ["alice", ":1", "1:", "1:no such user here"] {
            let refused = OwnerMap::parse(&text(&[bad]), &[]);
            assert!(matches!(refused, Err(Error::OwnerMap { .. })), "{bad}");
        }
    }
}
