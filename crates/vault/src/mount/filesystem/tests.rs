use std::sync::mpsc::channel;

use levee_store::{LocalStore, Store};

use super::*;
use crate::Password;
use crate::session::{Session, SessionOptions};

/// Counts how often a part of a pack is read.
struct Counting {
    store: LocalStore,
    reads: Arc<AtomicU64>,
}

impl Store for Counting {
    levee_store::forward!(store: create, write, read, size_bytes, list, remove, location);

    fn read_range(
        &self,
        file_type: levee_store::FileType,
        name: &str,
        offset: u64,
        length: usize,
    ) -> levee_store::Result<Vec<u8>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.read_range(file_type, name, offset, length)
    }
}

/// `ls -l` of a directory above what the vault keeps: it is read once, and not for each of its entries.
#[test]
fn each_entry_of_a_large_directory_is_looked_up_without_reading_it_again() {
    const FILES: usize = 60_000;
    let folder = tempfile::tempdir().unwrap();
    let reads = Arc::new(AtomicU64::new(0));
    let store = Arc::new(Counting { store: LocalStore::new(folder.path()), reads: reads.clone() });
    let vault = Vault::init(store.clone(), &Password::new("password")).unwrap();
    let name = |number: usize| format!("{number:0>100}");
    let file = |number: usize| Node {
        content: Some(Vec::new()),
        links: number as u64,
        ..Node::new(name(number).into(), NodeKind::File, 0o644)
    };
    let large = Tree::new((0..FILES).map(file).collect());
    assert!(large.to_json().len() > 13 << 20, "it must be larger than what is kept");
    let session = Session::begin(&vault, SessionOptions::default(), &[]).unwrap();
    let directory =
        Node { subtree: Some(session.add_tree(large).unwrap()), ..Node::new("large".into(), NodeKind::Dir, 0o755) };
    let root = session.add_tree(Tree::new(vec![directory])).unwrap();
    session.finish().unwrap();

    let vault = Vault::open_with_master_key(store, vault.master_key().clone()).unwrap();
    vault.refresh_index().unwrap();
    let filesystem = VaultFilesystem::new(vault, &MountOptions::default(), channel().0).unwrap();
    let directory = Item::Node { tree: root, name: "large".into() };
    reads.store(0, Ordering::Relaxed);
    let mut listed = 0;
    filesystem
        .list(&directory, 0, |_, kind, entry| {
            assert_eq!((kind, entry), (FileType::RegularFile, OsStr::new(&name(listed))));
            listed += 1;
            false
        })
        .unwrap();
    assert_eq!(listed, FILES);
    for number in (0..FILES).step_by(20) {
        let (item, attributes) = filesystem.child(&directory, OsStr::new(&name(number))).unwrap();
        assert_eq!((attributes.nlink, attributes.perm), (number.max(1) as u32, 0o644));
        assert_eq!(filesystem.attributes(UNKNOWN, &item), Ok(attributes));
        // The root, and the directory.
        assert!(reads.load(Ordering::Relaxed) <= 2, "{} reads after {number}", reads.load(Ordering::Relaxed));
    }
    assert_eq!(filesystem.child(&directory, OsStr::new("no such name")), Err(Errno::ENOENT));
}
