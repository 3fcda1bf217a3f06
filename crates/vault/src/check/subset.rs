//! Which packs a check reads whole: restic's `--read-data-subset`.

use std::collections::HashSet;

use crate::{Error, Id, Result};

/// How much of the packs a check reads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ReadData {
    /// Their headers.
    #[default]
    Headers,
    /// All of everything.
    All,
    /// All of some, and the headers of the others.
    Subset(Subset),
}

/// A choice among packs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Subset {
    /// The packs of one of so many parts, at most `PARTS_MAX`: parts 1 to `of` together are all packs.
    Part { part: u32, of: u32 },
    /// So many of a hundred packs, others each time.
    Percent(f64),
    /// Packs of so many bytes, others each time; one at least.
    Bytes(u64),
}

impl Subset {
    /// Parts are cut by the first byte of a pack's name, as restic does it.
    pub const PARTS_MAX: u32 = 256;

    /// The packs to read among those that are there, with their sizes.
    pub(super) fn choose(self, packs: &[(Id, u64)]) -> Result<HashSet<Id>> {
        let count = packs.len();
        match self {
            Self::Part { part, of } => {
                let is_in = |id: &Id| u32::from(id.as_bytes()[0]) % of == part - 1;
                Ok(packs.iter().map(|(id, _)| *id).filter(is_in).collect())
            }
            Self::Percent(percent) => {
                let wanted = (count as f64 * percent / 100.0).ceil() as usize;
                Ok(shuffled(packs)?.into_iter().take(wanted).map(|(id, _)| id).collect())
            }
            Self::Bytes(limit) => {
                let mut bytes = 0;
                let mut fits = |size: u64| {
                    let is_first = bytes == 0;
                    bytes += size;
                    is_first || bytes <= limit
                };
                Ok(shuffled(packs)?.into_iter().take_while(|(_, size)| fits(*size)).map(|(id, _)| id).collect())
            }
        }
    }
}

fn shuffled(packs: &[(Id, u64)]) -> Result<Vec<(Id, u64)>> {
    let mut random = vec![0; packs.len() * 8];
    getrandom::fill(&mut random)
        .map_err(|error| Error::System { action: "choose packs at random", source: error.into() })?;
    let mut keyed: Vec<_> = random.chunks_exact(8).zip(packs).collect();
    keyed.sort_unstable();
    Ok(keyed.into_iter().map(|(_, pack)| *pack).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(count: u8) -> Vec<(Id, u64)> {
        (0..count).map(|number| (Id::from_bytes([number; 32]), 100)).collect()
    }

    #[test]
    fn the_parts_together_are_all_packs_and_none_twice() {
        let packs = packs(200);
        let mut seen = HashSet::new();
        for part in 1..=7 {
            for id in (Subset::Part { part, of: 7 }).choose(&packs).unwrap() {
                assert!(seen.insert(id));
            }
        }
        assert_eq!(seen.len(), 200);
    }

    #[test]
    fn so_many_are_chosen_and_others_each_time() {
        let packs = packs(200);
        let check =
            |subset: Subset, count: usize| assert_eq!(subset.choose(&packs).unwrap().len(), count, "{subset:?}");
        check(Subset::Percent(10.0), 20);
        check(Subset::Percent(0.01), 1);
        check(Subset::Percent(100.0), 200);
        check(Subset::Bytes(1), 1);
        check(Subset::Bytes(1050), 10);
        check(Subset::Bytes(1 << 40), 200);
        assert_ne!(Subset::Percent(10.0).choose(&packs).unwrap(), Subset::Percent(10.0).choose(&packs).unwrap());
    }
}
