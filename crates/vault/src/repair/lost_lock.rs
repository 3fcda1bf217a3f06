//! A lock that is lost in the middle of a repair.

use levee_store::FileType;

use super::{rewrite_index_without, write_index};
use crate::losing_store::LosingVault;
use crate::pack::PackedBlob;
use crate::{BlobKind, Error, Id};

#[test]
fn a_repair_takes_no_index_file_away_once_its_lock_is_lost() {
    let losing = LosingVault::new();
    let vault = &losing.vault;
    let blob = |name: &[u8]| PackedBlob {
        offset: 0,
        length: 40,
        uncompressed_length: 0,
        kind: BlobKind::Data,
        id: Id::of(name),
    };
    let damaged = Id::of(b"damaged");
    for number in 0..5_u8 {
        let sound = Id::of(&[number]);
        write_index(vault, &vec![(damaged, vec![blob(b"lost")]), (sound, vec![blob(&[number])])]).unwrap();
    }
    let index_files = vault.list_ids(FileType::Index).unwrap();
    assert_eq!(index_files.len(), 5);
    let lock = losing.lock();
    let ended = rewrite_index_without(vault, &[damaged].into(), &index_files, &[], &lock);
    assert!(matches!(ended, Err(Error::LockGone { .. })), "{ended:?}");
    // Whoever works in the vault by now may rest on the others, and the new one stands beside them.
    assert_eq!(vault.list_ids(FileType::Index).unwrap().len(), 4 + 1);
}
