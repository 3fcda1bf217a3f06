//! `backup_manifest`: which files a base backup has, and their checksums.
//!
//! Source: PostgreSQL's manual, "Backup Manifest Format", versions 1 and 2.

use std::collections::BTreeMap;

use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use serde::Deserialize;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// A manifest that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the backup manifest is not what PostgreSQL writes")]
    Json(#[from] serde_json::Error),
    #[error("the backup manifest is damaged: {0}")]
    Damaged(&'static str),
    #[error("the backup manifest has version {0}; 1 and 2 are known")]
    Version(u64),
    #[error("the backup manifest names the checksum algorithm {0:?}, which is not known")]
    Algorithm(String),
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub version: u64,
    /// From version 2 (PostgreSQL 17) on.
    pub system_identifier: Option<SystemIdentifier>,
    /// By path below the data directory; tablespaces are below `pg_tblspc/OID`.
    pub files: BTreeMap<String, ManifestFile>,
    /// The log that the backup needs.
    pub wal_ranges: Vec<WalRange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    pub size: u64,
    pub checksum: Option<Checksum>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    pub timeline: TimelineId,
    pub start: Lsn,
    pub end: Lsn,
}

/// A checksum with its algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub algorithm: Algorithm,
    pub value: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Crc32c,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// Computes one checksum from parts.
#[derive(Clone)]
pub struct Hasher(Running);

#[derive(Clone)]
enum Running {
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Algorithm {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "CRC32C" => Self::Crc32c,
            "SHA224" => Self::Sha224,
            "SHA256" => Self::Sha256,
            "SHA384" => Self::Sha384,
            "SHA512" => Self::Sha512,
            _ => return None,
        })
    }

    pub fn hasher(self) -> Hasher {
        Hasher(match self {
            Self::Crc32c => Running::Crc32c(0),
            Self::Sha224 => Running::Sha224(Sha224::new()),
            Self::Sha256 => Running::Sha256(Sha256::new()),
            Self::Sha384 => Running::Sha384(Sha384::new()),
            Self::Sha512 => Running::Sha512(Sha512::new()),
        })
    }
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Running::Crc32c(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
            Running::Sha224(hash) => hash.update(bytes),
            Running::Sha256(hash) => hash.update(bytes),
            Running::Sha384(hash) => hash.update(bytes),
            Running::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The checksum in the manifest's byte order: CRC-32C with its least significant byte first.
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            Running::Crc32c(sum) => sum.to_le_bytes().to_vec(),
            Running::Sha224(hash) => hash.finalize().to_vec(),
            Running::Sha256(hash) => hash.finalize().to_vec(),
            Running::Sha384(hash) => hash.finalize().to_vec(),
            Running::Sha512(hash) => hash.finalize().to_vec(),
        }
    }
}

#[derive(Deserialize)]
struct RawManifest {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u64,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<RawFile>,
    #[serde(rename = "WAL-Ranges", default)]
    wal_ranges: Vec<RawRange>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct RawRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

impl Manifest {
    /// Reads a manifest and verifies its own checksum.
    pub fn parse(content: &[u8]) -> Result<Self, ManifestError> {
        let raw: RawManifest = serde_json::from_slice(content)?;
        if !(1..=2).contains(&raw.version) {
            return Err(ManifestError::Version(raw.version));
        }
        verify_own_checksum(content, &raw.checksum)?;
        let mut files = BTreeMap::new();
        for file in raw.files {
            let (path, file) = file.parse()?;
            if files.insert(path, file).is_some() {
                return Err(ManifestError::Damaged("a file is listed twice"));
            }
        }
        let range = |raw: RawRange| WalRange { timeline: TimelineId(raw.timeline), start: raw.start, end: raw.end };
        Ok(Self {
            version: raw.version,
            system_identifier: raw.system_identifier.map(SystemIdentifier),
            files,
            wal_ranges: raw.wal_ranges.into_iter().map(range).collect(),
        })
    }
}

impl RawFile {
    fn parse(self) -> Result<(String, ManifestFile), ManifestError> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path,
            // A path that is not UTF-8 is in hexadecimal; such a file can't be one of a data directory's own.
            (None, Some(encoded)) => {
                let bytes = hex_bytes(&encoded).ok_or(ManifestError::Damaged("an encoded path"))?;
                String::from_utf8_lossy(&bytes).into_owned()
            }
            _ => return Err(ManifestError::Damaged("a file without a path")),
        };
        let checksum = match (self.algorithm, self.checksum) {
            (None, None) => None,
            (Some(name), Some(value)) => {
                let algorithm = Algorithm::from_name(&name).ok_or(ManifestError::Algorithm(name))?;
                let value = hex_bytes(&value).ok_or(ManifestError::Damaged("a checksum"))?;
                Some(Checksum { algorithm, value })
            }
            _ => return Err(ManifestError::Damaged("a checksum without its algorithm")),
        };
        Ok((path, ManifestFile { size: self.size, checksum }))
    }
}

/// The SHA-256 of everything before the line that holds it.
fn verify_own_checksum(content: &[u8], stated: &str) -> Result<(), ManifestError> {
    let marker = b"\"Manifest-Checksum\"";
    let at = content.windows(marker.len()).rposition(|window| window == marker);
    let at = at.ok_or(ManifestError::Damaged("it has no checksum of its own"))?;
    let line_start = content[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    if hex_bytes(stated).as_deref() == Some(&Sha256::digest(&content[..line_start])[..]) {
        Ok(())
    } else {
        Err(ManifestError::Damaged("its own checksum is wrong"))
    }
}

fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? * 16 + digit(*low)?) as u8),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest(files: &str) -> Vec<u8> {
        let body = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{files}\n],\n\"WAL-Ranges\": [\n\
             {{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }}\n],\n"
        );
        let sum: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
    }

    #[test]
    fn a_manifest_is_read_and_its_own_checksum_verified() {
        let files = r#"{ "Path": "backup_label", "Size": 9, "Checksum-Algorithm": "CRC32C", "Checksum": "839206e3" },
                       { "Encoded-Path": "6261ff", "Size": 0 }"#;
        let content = manifest(files);
        let read = Manifest::parse(&content).unwrap();
        let label = &read.files["backup_label"];
        let mut hasher = Algorithm::Crc32c.hasher();
        hasher.update(b"1234");
        hasher.update(b"56789");
        assert_eq!(label.checksum.as_ref().unwrap().value, hasher.finish());
        assert_eq!(read.files["ba\u{fffd}"].checksum, None);
        assert_eq!(read.wal_ranges[0].end, Lsn(0x2000100));
        let mut changed = content.clone();
        let at = changed.iter().position(|byte| *byte == b'9').unwrap();
        changed[at] = b'8';
        assert!(matches!(Manifest::parse(&changed), Err(ManifestError::Damaged("its own checksum is wrong"))));
    }

    #[test]
    fn each_algorithm_is_computed() {
        let check = |name: &str, length: usize, start: [u8; 2]| {
            let mut hasher = Algorithm::from_name(name).unwrap().hasher();
            hasher.update(b"abc");
            let value = hasher.finish();
            assert_eq!((value.len(), &value[..2]), (length, &start[..]), "{name}");
        };
        check("SHA224", 28, [0x23, 0x09]);
        check("SHA256", 32, [0xba, 0x78]);
        check("SHA384", 48, [0xcb, 0x00]);
        check("SHA512", 64, [0xdd, 0xaf]);
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
            let mut content = manifest(r#"{ "Path": "x", "Size": 9, "Checksum-Algorithm": "CRC32C", "Checksum": "83" }"#);
            let length = content.len();
            content[at % length] = byte;
            let _ = Manifest::parse(&content);
            content.truncate(cut % length);
            let _ = Manifest::parse(&content);
        }
    }
}
