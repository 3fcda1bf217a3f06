use std::ffi::OsStr;

use serde::Deserialize;

use crate::{Id, Node};

/// One directory: its entries, strictly ascending by the bytes of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// Sorts the entries. Of two with one name, the later one is kept.
    pub fn new(mut nodes: Vec<Node>) -> Self {
        nodes.reverse();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes.dedup_by(|later, kept| later.name == kept.name);
        Self { nodes }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn find(&self, name: &OsStr) -> Option<&Node> {
        self.nodes.get(self.position(name)?)
    }

    /// Where among the entries this one stands.
    pub(crate) fn position(&self, name: &OsStr) -> Option<usize> {
        self.nodes.binary_search_by(|node| node.name.as_os_str().cmp(name)).ok()
    }

    /// The plaintext of the tree's blob: `{"nodes":[…]}` and a newline.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = b"{\"nodes\":[".to_vec();
        for (index, node) in self.nodes.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            node.write_json(&mut out);
        }
        out.extend(b"]}\n");
        out
    }

    /// Reads a tree's blob and checks what the format asks of it.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Raw {
            nodes: Option<Vec<Node>>,
        }
        let raw: Raw =
            serde_json::from_slice(json).map_err(|error| format!("it is not the JSON of a tree: {error}"))?;
        let nodes = raw.nodes.unwrap_or_default();
        match nodes.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            Some(pair) => Err(format!("the names {:?} and {:?} are not in order", pair[0].name, pair[1].name)),
            None => Ok(Self { nodes }),
        }
    }

    /// The trees below this one.
    pub fn subtrees(&self) -> impl Iterator<Item = Id> {
        self.nodes.iter().filter_map(|node| node.subtree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ExtendedAttribute, FileTime, NodeKind};
    use proptest::prelude::*;

    #[test]
    fn a_tree_has_these_bytes() {
        let mut file = Node::new("a<b".into(), NodeKind::File, 0o4755);
        file.size = 3;
        file.links = 1;
        file.mtime = FileTime::new(1, 500_000_000);
        file.content = Some(vec![Id::of(b"abc")]);
        file.extended_attributes = vec![ExtendedAttribute { name: "user.x".into(), value: b"\xff".to_vec() }];
        let mut empty = Node::new("empty".into(), NodeKind::File, 0);
        empty.content = Some(vec![]);
        let mut directory = Node::new("Z".into(), NodeKind::Dir, 0o1777);
        directory.subtree = Some(Id::of(b"{\"nodes\":[]}\n"));
        let tree = Tree::new(vec![empty, file, directory]);
        let times = "\"atime\":\"1970-01-01T00:00:00Z\",\"ctime\":\"1970-01-01T00:00:00Z\",\"uid\":0,\"gid\":0";
        let expected = format!(
            "{{\"nodes\":[{{\"name\":\"Z\",\"type\":\"dir\",\"mode\":2148532735,\"mtime\":\"1970-01-01T00:00:00Z\",{times},\"content\":null,\
             \"subtree\":\"1aa5b2c35ed5b73f6ebc3d78a5b0cb5fde80b74c2a0e35bea2d44a19f3b2c2b1\"}},\
             {{\"name\":\"a\\u003cb\",\"type\":\"file\",\"mode\":8389101,\"mtime\":\"1970-01-01T00:00:01.5Z\",{times},\"size\":3,\"links\":1,\
             \"extended_attributes\":[{{\"name\":\"user.x\",\"value\":\"/w==\"}}],\
             \"content\":[\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"]}},\
             {{\"name\":\"empty\",\"type\":\"file\",\"mtime\":\"1970-01-01T00:00:00Z\",{times},\"content\":[]}}]}}\n"
        );
        let subtree = Id::of(b"{\"nodes\":[]}\n").to_hex();
        let expected = expected.replace("1aa5b2c35ed5b73f6ebc3d78a5b0cb5fde80b74c2a0e35bea2d44a19f3b2c2b1", &subtree);
        assert_eq!(String::from_utf8(tree.to_json()).unwrap(), expected);
        assert_eq!(Tree::from_json(&tree.to_json()).unwrap(), tree);
    }

    #[test]
    fn hostile_trees_are_refused() {
        let tree = |names: &[&str]| {
            let nodes: Vec<String> =
                names.iter().map(|name| format!("{{\"name\":{name:?},\"type\":\"file\",\"content\":[]}}")).collect();
            Tree::from_json(format!("{{\"nodes\":[{}]}}", nodes.join(",")).as_bytes())
        };
        assert!(tree(&["a", "b"]).is_ok());
        for bad in [&["..", ""][..], &["."], &[""], &["a/b"], &["\\x2e."], &["\\x00"], &["b", "a"], &["a", "a"]] {
            assert!(tree(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_tree_comes_back(
            names in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 1..12), 0..6),
            seconds in -62_167_219_200_i64..253_402_300_800,
            nanoseconds in 0_u32..1_000_000_000,
            mode in 0_u32..0o10000,
            target in prop::collection::vec(1_u8.., 0..10),
        ) {
            use std::os::unix::ffi::OsStringExt;
            let is_name = |name: &Vec<u8>| !name.contains(&0) && !name.contains(&b'/') && name != b"." && name != b"..";
            let nodes: Vec<Node> = names.into_iter().filter(is_name).map(|name| {
                let mut node = Node::new(std::ffi::OsString::from_vec(name), NodeKind::Symlink, mode);
                node.mtime = FileTime::new(seconds, nanoseconds);
                node.link_target = std::ffi::OsString::from_vec(target.clone());
                node
            }).collect();
            let tree = Tree::new(nodes);
            prop_assert_eq!(Tree::from_json(&tree.to_json()), Ok(tree));
        }

        #[test]
        fn no_json_makes_the_parser_panic(position in 0_usize..400, byte in any::<u8>(), cut in 0_usize..400) {
            let mut file = Node::new("na\"me".into(), NodeKind::File, 0o644);
            file.content = Some(vec![Id::of(b"")]);
            file.extended_attributes = vec![ExtendedAttribute { name: "user.x".into(), value: vec![1] }];
            let mut json = Tree::new(vec![file]).to_json();
            let length = json.len();
            json[position % length] = byte;
            let _ = Tree::from_json(&json);
            json.truncate(cut % length);
            let _ = Tree::from_json(&json);
        }
    }
}
