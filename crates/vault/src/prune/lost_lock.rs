//! A lock that is lost in the middle of a long removal.

use jiff::Timestamp;
use levee_store::FileType;

use super::{DELETIONS_AT_ONCE, Prune, PruneOptions};
use crate::losing_store::LosingVault;
use crate::{Error, Id, Lock};

type Removal = dyn Fn(&mut Prune<'_>, &[Id], &Lock) -> crate::Result<()>;

#[test]
fn a_removal_ends_where_its_lock_is_lost() {
    let check = |file_type, left: usize, remove: &Removal| {
        let losing = LosingVault::new();
        let vault = &losing.vault;
        let options = PruneOptions::default();
        let mut prune = Prune::look(vault, &options, Timestamp::now(), &()).unwrap();
        let files: Vec<Id> = (0..20_u8).map(|number| Id::of(&[number])).collect();
        for (number, file) in (0..20_u8).zip(&files) {
            vault.store().write(file_type, &file.to_hex(), &[number]).unwrap();
        }
        let lock = losing.lock();
        let ended = remove(&mut prune, &files, &lock);
        assert!(matches!(ended, Err(Error::LockGone { .. })), "{ended:?}");
        assert_eq!(vault.list_ids(file_type).unwrap().len(), left);
    };
    check(FileType::Data, 20 - DELETIONS_AT_ONCE, &|prune, packs, lock| prune.delete(packs, lock));
    check(FileType::Index, 19, &|prune, files, lock| prune.remove_indexes(files, &[lock]));
}
