//! Which packs a check reads whole: restic's `--read-data-subset`.

use std::collections::HashSet;
use std::str::FromStr;

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
    /// The packs of one of so many parts, as restic cuts them: parts 1 to `of` together are all packs.
    Part { part: u32, of: u32 },
    /// So many of a hundred packs, others each time.
    Percent(f64),
    /// Packs of so many bytes, others each time; one at least.
    Bytes(u64),
}

/// restic cuts by the first byte of a pack's name.
const PARTS_MAX: u32 = 256;

impl Subset {
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

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is none of N/T (part N of T, at most 256), a percentage as 2.5%, or a size as 50M or 1G")]
pub struct InvalidSubset(String);

impl FromStr for Subset {
    type Err = InvalidSubset;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidSubset> {
        let invalid = || InvalidSubset(text.into());
        if let Some((part, of)) = text.split_once('/') {
            let (part, of) = (part.parse().map_err(|_| invalid())?, of.parse().map_err(|_| invalid())?);
            let is_valid = (1..=of).contains(&part) && of <= PARTS_MAX;
            return is_valid.then_some(Self::Part { part, of }).ok_or_else(invalid);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| invalid())?;
            let is_valid = percent > 0.0 && percent <= 100.0;
            return is_valid.then_some(Self::Percent(percent)).ok_or_else(invalid);
        }
        let (digits, unit) = text.split_at(text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len()));
        let shift = match unit.to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err(invalid()),
        };
        let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.filter(|bytes| *bytes > 0).map(Self::Bytes).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(count: u8) -> Vec<(Id, u64)> {
        (0..count).map(|number| (Id::from_bytes([number; 32]), 100)).collect()
    }

    #[test]
    fn texts_are_read_and_nonsense_is_refused() {
        let check = |text: &str, expected| assert_eq!(text.parse::<Subset>().ok(), expected, "{text}");
        check("1/5", Some(Subset::Part { part: 1, of: 5 }));
        check("256/256", Some(Subset::Part { part: 256, of: 256 }));
        check("2.5%", Some(Subset::Percent(2.5)));
        check("100%", Some(Subset::Percent(100.0)));
        check("50M", Some(Subset::Bytes(50 << 20)));
        check("1g", Some(Subset::Bytes(1 << 30)));
        check("7", Some(Subset::Bytes(7)));
        for text in
            ["", "0/5", "6/5", "1/257", "1/0", "/", "0%", "101%", "-1%", "nan%", "0", "1X", "M", "99999999999T", "1 G"]
        {
            check(text, None);
        }
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
