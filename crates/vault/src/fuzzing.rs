//! Every parser of repository files, for `fuzz/`. Compiled for it, and for the tests, which notice when a parser is renamed.
//!
//! None may panic, hang, or take memory without bound; what is taken must be what it says it is.

use std::fs::File;
use std::io::Write;

use rustix::fs::MemfdFlags;

use crate::compress::{BlobDecompressor, decompress_file};
use crate::config::Config;
use crate::key_file::KeyFileJson;
use crate::lock::LockFile;
use crate::transport::{Custody, scan_volume};
use crate::{ImageDescription, MasterKey, Snapshot, Tree, index_file, pack};

/// What a blob's index entry may say at most, here.
const BLOB_BYTES_MAX: usize = 1 << 20;

/// Right files to begin with: the target, and the file. Of some targets there are several.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = crate::golden::all();
    for (_, frame) in seeds.iter_mut().filter(|(target, _)| *target == "compressed_blob") {
        let length = crate::golden::tree().to_json().len() as u32;
        frame.splice(0..0, length.to_le_bytes());
    }
    seeds.extend(crate::golden::index_notes().into_iter().map(|file| ("index", file)));
    let custody = r#"{"version":1,"vault":"ID","snapshots":[{"id":"ID","time":"2026-11-20T12:00:00Z","hostname":"h",
        "paths":["/a"]}],"volumes":[{"name":"000001.volume","bytes":59,"sha256":"ID"}],"files":1,"bytes":59,
        "events":[{"what":"exported","at":"2026-11-20T12:00:00Z","by":"a@b"}],"seal":"eA=="}"#;
    seeds.push(("custody", custody.replace("ID", &"01".repeat(32)).into_bytes()));
    seeds.push(("volume", [b"levee transport 1\n\x02", &[3, 0, 0, 0, 0, 0, 0, 0][..], &[7; 32], b"abc"].concat()));
    seeds
}

pub fn tree(content: &[u8]) {
    if let Ok(tree) = Tree::from_json(content) {
        let again = Tree::from_json(&tree.to_json()).expect("what was taken can be written and read");
        assert_eq!(again.to_json(), tree.to_json());
    }
}

pub fn index(content: &[u8]) {
    if let Ok(file) = index_file::decode(content) {
        assert!(file.packs.iter().flat_map(|(_, blobs)| blobs).all(|blob| blob.end() <= u64::from(u32::MAX)));
    }
}

pub fn pack_header(content: &[u8]) {
    if let Ok(blobs) = pack::decode_header(content) {
        assert_eq!(pack::decode_header(&pack::encode_header(&blobs)), Ok(blobs));
    }
}

pub fn snapshot(content: &[u8]) {
    if let Ok(snapshot) = serde_json::from_slice::<Snapshot>(content) {
        let json = serde_json::to_vec(&snapshot).expect("what was taken can be written");
        assert_eq!(serde_json::from_slice::<Snapshot>(&json).expect("and read again"), snapshot);
    }
}

pub fn lock(content: &[u8]) {
    let _ = serde_json::from_slice::<LockFile>(content);
}

pub fn config(content: &[u8]) {
    let _ = serde_json::from_slice::<Config>(content).map(|config| config.problem());
}

pub fn key_file(content: &[u8]) {
    let _ = KeyFileJson::parse(content);
}

pub fn master_key(content: &[u8]) {
    let _ = std::str::from_utf8(content).map(MasterKey::from_json);
}

pub fn compressed_file(content: &[u8]) {
    let _ = decompress_file(content.to_vec());
}

pub fn compressed_blob(content: &[u8]) {
    let Some((length, frame)) = content.split_first_chunk::<4>() else { return };
    let length = u32::from_le_bytes(*length) as usize % BLOB_BYTES_MAX;
    let mut out = Vec::new();
    let mut decompressor = BlobDecompressor::new().expect("zstd starts");
    if decompressor.decompress(frame, length, &mut out).is_ok() {
        assert_eq!(out.len(), length);
    }
}

pub fn custody(content: &[u8]) {
    let _ = serde_json::from_slice::<Custody>(content);
}

pub fn image_description(content: &[u8]) {
    let _ = ImageDescription::parse(content);
}

pub fn volume(content: &[u8]) {
    let file = rustix::fs::memfd_create("volume", MemfdFlags::CLOEXEC).expect("memory");
    let mut file = File::from(file);
    file.write_all(content).expect("memory");
    if let Ok(Some(end)) = scan_volume(&file) {
        assert!(end <= content.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    type Target = (&'static str, fn(&[u8]));

    static TARGETS: [Target; 13] = [
        ("compressed_blob", compressed_blob),
        ("compressed_file", compressed_file),
        ("config", config),
        ("custody", custody),
        ("image_description", image_description),
        ("index", index),
        ("key_file", key_file),
        ("lock", lock),
        ("master_key", master_key),
        ("pack_header", pack_header),
        ("snapshot", snapshot),
        ("tree", tree),
        ("volume", volume),
    ];

    #[test]
    fn each_target_has_right_files_and_stands_cut_ones() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/targets");
        let stem = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string()
        };
        let names = |all: &mut dyn Iterator<Item = &'static str>| all.map(str::to_string).collect::<BTreeSet<_>>();
        let known = names(&mut TARGETS.iter().map(|(name, _)| *name));
        assert_eq!(known, std::fs::read_dir(folder).unwrap().map(stem).collect::<BTreeSet<_>>());
        assert_eq!(known, names(&mut seeds().into_iter().map(|(name, _)| name)));
        for (name, content) in seeds() {
            let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
            for length in [content.len(), content.len() - 1, content.len() / 2, 1, 0] {
                target(&content[..length]);
            }
        }
    }
}
