//! Packs in archive classes: which ones are needed, and bringing them back.

use std::collections::{BTreeSet, HashMap};

use levee_store::{FileType, Temperature, ThawRequest};
use serde::Serialize;

use crate::parallel::parallel_map;
use crate::{BlobKind, Id, Result, Vault};

/// Questions to the store at once; each is a round trip and nothing else.
const QUESTIONS_AT_ONCE: usize = 8;

/// Packs that are needed and lie in an archive class, and how far each is from being read.
#[derive(Clone)]
pub struct Thaw {
    vault: Vault,
    packs: Vec<Archived>,
}

#[derive(Clone, Copy, Debug)]
struct Archived {
    id: Id,
    bytes: u64,
    temperature: Temperature,
}

/// How far the thawing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ThawState {
    /// Packs that nobody has asked for.
    pub packs_frozen: u64,
    pub bytes_frozen: u64,
    /// Packs that the store is bringing back.
    pub packs_thawing: u64,
    pub bytes_thawing: u64,
    /// Packs that can be read.
    pub packs_thawed: u64,
    pub bytes_thawed: u64,
}

impl ThawState {
    /// Nothing keeps the packs from being read.
    pub fn is_done(&self) -> bool {
        self.packs_frozen == 0 && self.packs_thawing == 0
    }
}

impl Vault {
    /// Packs that lie in an archive class, thawed or not, and their sizes. None on most stores.
    pub fn archived_packs(&self) -> Result<HashMap<Id, u64>> {
        let listed = self.store().archived(FileType::Data)?;
        Ok(listed.iter().filter_map(|entry| Some((entry.name.parse().ok()?, entry.size_bytes))).collect())
    }

    /// The packs that hold the contents of files below a tree.
    pub fn packs_below(&self, tree: &Id) -> Result<BTreeSet<Id>> {
        self.refresh_index()?;
        let mut packs = BTreeSet::new();
        for entry in self.list_below(tree)? {
            let (_, node) = entry?;
            for id in node.blobs() {
                packs.insert(self.blob_location(BlobKind::Data, id)?.pack);
            }
        }
        Ok(packs)
    }
}

impl Thaw {
    /// Asks the store about those of the archived packs that are needed.
    pub fn look(vault: &Vault, archived: &HashMap<Id, u64>, is_needed: impl Fn(&Id) -> bool) -> Result<Self> {
        let needed = archived.iter().filter(|(id, _)| is_needed(id));
        let mut packs: Vec<Archived> =
            needed.map(|(id, bytes)| Archived { id: *id, bytes: *bytes, temperature: Temperature::Frozen }).collect();
        packs.sort_unstable_by_key(|pack| pack.id);
        let mut thaw = Self { vault: vault.clone(), packs };
        thaw.look_again()?;
        Ok(thaw)
    }

    pub fn state(&self) -> ThawState {
        let mut state = ThawState::default();
        for pack in &self.packs {
            let (packs, bytes) = match pack.temperature {
                Temperature::Frozen => (&mut state.packs_frozen, &mut state.bytes_frozen),
                Temperature::Thawing => (&mut state.packs_thawing, &mut state.bytes_thawing),
                Temperature::Readable => (&mut state.packs_thawed, &mut state.bytes_thawed),
            };
            *packs += 1;
            *bytes += pack.bytes;
        }
        state
    }

    /// The packs that cannot be read yet.
    pub fn unreadable(&self) -> impl Iterator<Item = Id> {
        self.packs.iter().filter(|pack| pack.temperature != Temperature::Readable).map(|pack| pack.id)
    }

    /// Asks the store to bring back what is frozen. What is thawed already is asked for again: it must stay readable
    /// for as long as the rest.
    pub fn request(&mut self, request: &ThawRequest) -> Result<()> {
        self.update(
            |pack| pack.temperature != Temperature::Thawing,
            |vault, id| Ok(vault.store().thaw(FileType::Data, &id.to_hex(), request)?),
        )
    }

    /// Looks how far those are that cannot be read yet.
    pub fn look_again(&mut self) -> Result<()> {
        self.update(
            |pack| pack.temperature != Temperature::Readable,
            |vault, id| Ok(vault.store().temperature(FileType::Data, &id.to_hex())?),
        )
    }

    fn update(
        &mut self,
        is_meant: impl Fn(&Archived) -> bool,
        ask: impl Fn(&Vault, &Id) -> Result<Temperature> + Sync,
    ) -> Result<()> {
        let meant: Vec<&mut Archived> = self.packs.iter_mut().filter(|pack| is_meant(pack)).collect();
        let ids: Vec<Id> = meant.iter().map(|pack| pack.id).collect();
        let vault = &self.vault;
        for (pack, temperature) in meant.into_iter().zip(parallel_map(QUESTIONS_AT_ONCE, &ids, |id| ask(vault, id))) {
            pack.temperature = temperature?;
        }
        Ok(())
    }
}
