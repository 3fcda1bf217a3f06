use serde::{Deserialize, Serialize};

use crate::polynomial::{is_irreducible, random_irreducible};
use crate::{Id, Result, crypto};

/// What a repository says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    pub version: u32,
    pub id: Id,
    /// Hexadecimal. Unused by our chunker, required by restic.
    pub chunker_polynomial: String,
}

impl Config {
    /// Of a new repository. Where restic cuts files as in `like`, copies between the two hold the same pieces.
    pub fn generate(like: Option<&Self>) -> Result<Self> {
        let mut id = [0; Id::LENGTH];
        crypto::random(&mut id)?;
        let chunker_polynomial = match like {
            Some(like) => like.chunker_polynomial.clone(),
            None => format!("{:x}", random_irreducible()?),
        };
        Ok(Self { version: 2, id: Id::from_bytes(id), chunker_polynomial })
    }

    /// Whether version 2's compression may be used.
    pub fn can_compress(&self) -> bool {
        self.version >= 2
    }

    /// What makes restic refuse this configuration, if anything.
    pub fn problem(&self) -> Option<&'static str> {
        let polynomial = u64::from_str_radix(&self.chunker_polynomial, 16).unwrap_or(0);
        (!is_irreducible(polynomial)).then_some("its chunker polynomial is not irreducible")
    }
}
