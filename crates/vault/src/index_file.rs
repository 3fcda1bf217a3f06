//! Index files: the JSON in which a repository says which pack holds which blob.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::crypto::OVERHEAD;
use crate::forgotten::Forgotten;
use crate::index_marks::Marks;
use crate::pack::PackedBlob;
use crate::vault::to_json;
use crate::{BlobKind, Error, Id, Result};

/// An index file is written when it has this many blobs: some 6 MiB of JSON, below restic's 8 MiB.
pub(crate) const BLOBS_PER_FILE: usize = 40_000;

#[derive(Default, Serialize, Deserialize)]
struct File {
    packs: Option<Vec<Pack>>,
    /// Ours: restic passes over what it doesn't know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    levee_prune: Option<Marks>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    levee_forgotten: Option<Forgotten>,
}

/// What an index file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexFile {
    pub packs: Packs,
    pub marks: Option<Marks>,
    pub forgotten: Option<Forgotten>,
}

#[derive(Serialize, Deserialize)]
struct Pack {
    id: Id,
    blobs: Vec<Blob>,
}

#[derive(Serialize, Deserialize)]
struct Blob {
    id: Id,
    #[serde(rename = "type")]
    kind: BlobKind,
    offset: u32,
    length: u32,
    /// rustic writes `null` for what is not compressed.
    #[serde(default, deserialize_with = "number_or_null", skip_serializing_if = "is_zero")]
    uncompressed_length: u32,
}

fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

pub(crate) type Packs = Vec<(Id, Vec<PackedBlob>)>;

/// What an entry takes at most, as a rule.
const BLOB_JSON_BYTES: usize = 160;
const PACK_JSON_BYTES: usize = 100;

/// An index file of packs alone, as it is written: without a copy of what it says.
#[derive(Serialize)]
struct FileOfPacks<'a> {
    #[serde(serialize_with = "each_pack")]
    packs: &'a [(Id, Vec<PackedBlob>)],
}

#[derive(Serialize)]
struct PackWithBlobs<'a> {
    id: &'a Id,
    #[serde(serialize_with = "each_blob")]
    blobs: &'a [PackedBlob],
}

fn each_pack<S: Serializer>(packs: &&[(Id, Vec<PackedBlob>)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(packs.iter().map(|(id, blobs)| PackWithBlobs { id, blobs }))
}

fn each_blob<S: Serializer>(blobs: &&[PackedBlob], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(blobs.iter().map(|blob| Blob {
        id: blob.id,
        kind: blob.kind,
        offset: blob.offset,
        length: blob.length,
        uncompressed_length: blob.uncompressed_length,
    }))
}

pub(crate) fn encode(packs: &Packs) -> Result<Vec<u8>> {
    let blobs: usize = packs.iter().map(|(_, blobs)| blobs.len()).sum();
    // At once: what grows step by step takes half as much again.
    let mut json = Vec::with_capacity(blobs * BLOB_JSON_BYTES + packs.len() * PACK_JSON_BYTES);
    serde_json::to_writer(&mut json, &FileOfPacks { packs })
        .map_err(|error| Error::System { action: "write JSON", source: error.into() })?;
    Ok(json)
}

/// An index file that names no pack and holds nothing but marks.
pub(crate) fn encode_marks(marks: &Marks) -> Result<Vec<u8>> {
    to_json(&File { packs: Some(Vec::new()), levee_prune: Some(marks.clone()), ..File::default() })
}

/// An index file that names no pack and holds nothing but records of forgotten snapshots.
pub(crate) fn encode_forgotten(forgotten: &Forgotten) -> Result<Vec<u8>> {
    to_json(&File { packs: Some(Vec::new()), levee_forgotten: Some(forgotten.clone()), ..File::default() })
}

pub(crate) fn decode(json: &[u8]) -> Result<IndexFile, String> {
    // Version 1 began with a bare list of packs in its first days.
    let file = if json.first() == Some(&b'[') {
        serde_json::from_slice::<Vec<Pack>>(json).map(|packs| File { packs: Some(packs), ..File::default() })
    } else {
        serde_json::from_slice::<File>(json)
    };
    let File { packs, levee_prune, levee_forgotten } =
        file.map_err(|error| format!("it is not the JSON of an index: {error}"))?;
    let packs = packs.unwrap_or_default();
    let mut result = Vec::with_capacity(packs.len());
    for pack in packs {
        let mut blobs = Vec::with_capacity(pack.blobs.len());
        for blob in pack.blobs {
            if (blob.length as usize) < OVERHEAD || blob.offset.checked_add(blob.length).is_none() {
                return Err(format!("blob {} in pack {} has an impossible place", blob.id, pack.id));
            }
            let Blob { id, kind, offset, length, uncompressed_length } = blob;
            blobs.push(PackedBlob { offset, length, uncompressed_length, kind, id });
        }
        blobs.sort_unstable();
        result.push((pack.id, blobs));
    }
    Ok(IndexFile { packs: result, marks: levee_prune, forgotten: levee_forgotten })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_file_has_these_bytes() {
        let id = Id::from_bytes([1; 32]);
        let plain = PackedBlob { offset: 0, length: 40, uncompressed_length: 0, kind: BlobKind::Data, id };
        let packed = PackedBlob { offset: 40, length: 50, uncompressed_length: 99, kind: BlobKind::Data, id };
        let packs = vec![(id, vec![plain, packed])];
        let hex = "01".repeat(32);
        let expected = format!(
            "{{\"packs\":[{{\"id\":\"{hex}\",\"blobs\":[{{\"id\":\"{hex}\",\"type\":\"data\",\"offset\":0,\"length\":40}},\
             {{\"id\":\"{hex}\",\"type\":\"data\",\"offset\":40,\"length\":50,\"uncompressed_length\":99}}]}}]}}"
        );
        assert_eq!(String::from_utf8(encode(&packs).unwrap()).unwrap(), expected);
        assert_eq!(decode(expected.as_bytes()).unwrap(), IndexFile { packs, ..IndexFile::default() });
        let by_rustic = expected.replace("\"length\":40", "\"length\":40,\"uncompressed_length\":null");
        assert_eq!(decode(by_rustic.as_bytes()).unwrap(), decode(expected.as_bytes()).unwrap());
        assert_eq!(decode(b"{\"packs\":null}").unwrap(), IndexFile::default());
        assert!(decode(expected.replace("\"length\":40", "\"length\":31").as_bytes()).is_err());
        assert!(decode(expected.replace("\"offset\":40", "\"offset\":4294967290").as_bytes()).is_err());
        assert!(decode(b"{").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_json_makes_the_parser_panic(position in 0_usize..400, byte: u8) {
            let id = Id::from_bytes([1; 32]);
            let blob = PackedBlob { offset: 0, length: 40, uncompressed_length: 9, kind: BlobKind::Tree, id };
            let mut json = encode(&vec![(id, vec![blob])]).unwrap();
            let length = json.len();
            json[position % length] = byte;
            let _ = decode(&json);
        }
    }
}
