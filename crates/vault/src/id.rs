use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A SHA-256 that names a stored file or a blob.
///
/// Files are named by the hash of their stored bytes, blobs by the hash of their plaintext.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; Id::LENGTH]);

impl Id {
    pub const LENGTH: usize = 32;

    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    pub fn from_bytes(bytes: [u8; Id::LENGTH]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; Id::LENGTH] {
        &self.0
    }

    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first eight digits, as people read them.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.to_hex())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

/// A text that is not the 64 hexadecimal digits of a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not an id of 64 hexadecimal digits")]
pub struct InvalidId;

/// What no digit is worth: a bit that none has.
const NO_DIGIT: u8 = 0x80;

/// What each byte is worth as a hexadecimal digit. An index is millions of ids, hence the table.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        digits[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

impl FromStr for Id {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != Id::LENGTH || !rest.is_empty() {
            return Err(InvalidId);
        }
        let mut bytes = [0; Id::LENGTH];
        let mut bad = 0;
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let (high, low) = (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]);
            bad |= high | low;
            *byte = high << 4 | low & 0xf;
        }
        if bad & NO_DIGIT == 0 { Ok(Self(bytes)) } else { Err(InvalidId) }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(FromText(PhantomData))
    }
}

/// Reads a value from a string of JSON without a copy of it: indexes and directories consist of such.
pub(crate) struct FromText<T>(pub PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// The name of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(pub Id);

impl SnapshotId {
    /// The first eight digits, as people read them.
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for SnapshotId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse().map(Self)
    }
}

/// What a blob holds. The two are never mixed in one pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A piece of a file.
    Data,
    /// A directory.
    Tree,
}

impl fmt::Display for BlobKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            BlobKind::Data => "data",
            BlobKind::Tree => "tree",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_nothing_else_does() {
        let id = Id::of(b"something");
        assert_eq!(id.to_hex().parse(), Ok(id));
        assert_eq!(id.to_hex().to_uppercase().parse(), Ok(id));
        assert_eq!(serde_json::from_str::<Id>(&format!("\"{id}\"")).unwrap(), id);
        let digits = id.to_hex();
        let not_a_digit = digits.replace(&digits[10..12], "0g");
        for bad in ["", &digits[1..], &format!("{digits}0"), &format!("{digits}00"), &not_a_digit] {
            assert_eq!(bad.parse::<Id>(), Err(InvalidId), "{bad}");
            assert!(serde_json::from_str::<Id>(&format!("\"{bad}\"")).is_err());
        }
        assert!(serde_json::from_str::<Id>("7").is_err());
    }
}
