//! Every parser of repository files is given thousands of slightly wrong files, made from right ones. None
//! may crash, hang or take memory without bound; most must refuse.

use levee_testing::random::Random;

use crate::compress::{BlobDecompressor, decompress_file};
use crate::config::Config;
use crate::key_file::KeyFileJson;
use crate::lock::LockFile;
use crate::transport::Custody;
use crate::{ImageDescription, MasterKey, Snapshot, Tree, fuzzing, golden, index_file};

/// For each parser; a second or two together.
const MUTATIONS: u64 = 3000;

/// Numbers and bytes that parsers get wrong.
const TOKENS: [&[u8]; 14] = [
    b"4294967295",
    b"4294967296",
    b"18446744073709551616",
    b"-1",
    b"1e999",
    b"null",
    b"\"\"",
    b"[]",
    b"{}",
    b"\\x00",
    b"\\ud800",
    b"\xff",
    b"../",
    b"[[[[[[[[",
];

fn mutate(golden: &[u8], random: &mut Random) -> Vec<u8> {
    let mut content = golden.to_vec();
    for _ in 0..=random.index(3) {
        let at = random.index(content.len());
        let length = random.index((content.len() - at).min(40));
        match random.index(7) {
            _ if content.is_empty() => content.push(0),
            0 => content[at] ^= 1 << random.index(8),
            1 => content[at] = random.index(256) as u8,
            2 => content.truncate(at),
            3 => drop(content.drain(at..at + length)),
            4 => {
                let part = content[at..at + length].to_vec();
                content.splice(at..at, part);
            }
            5 => drop(content.splice(at..at, TOKENS[random.index(TOKENS.len())].iter().copied())),
            // In the place of what stands there, as a number in the place of a number.
            _ => {
                let end = content[at..].iter().position(|byte| b",]}:".contains(byte)).map_or(at, |end| at + end);
                drop(content.splice(at..end, TOKENS[random.index(TOKENS.len())].iter().copied()));
            }
        }
    }
    content
}

/// Gives the parser wrong files; says how many it refused. The right one it must take.
fn check(name: &str, golden: &[u8], takes: impl Fn(&[u8]) -> bool) {
    assert!(takes(golden), "{name}: the right file is refused");
    let mut random = Random::new(golden.len() as u64);
    let refused = (0..MUTATIONS).filter(|_| !takes(&mutate(golden, &mut random))).count();
    assert!(refused > MUTATIONS as usize / 10, "{name}: only {refused} of {MUTATIONS} were refused");
}

/// The first parser's name is that of the file, too.
fn check_golden(name: &str, takes: impl Fn(&[u8]) -> bool) {
    let golden = golden::all().into_iter().find(|(known, _)| *known == name);
    check(name, &golden.unwrap_or_else(|| panic!("no right file is called {name}")).1, takes);
}

#[test]
fn directories_and_indexes() {
    check_golden("tree", |json| match Tree::from_json(json) {
        // What is taken is sound enough to be written again.
        Ok(tree) => Tree::from_json(&tree.to_json()).is_ok(),
        Err(_) => false,
    });
    check_golden("index", |json| match index_file::decode(json) {
        Ok(file) => file.packs.iter().flat_map(|(_, blobs)| blobs).all(|blob| blob.end() <= u64::from(u32::MAX)),
        Err(_) => false,
    });
}

#[test]
fn notes_of_prunes_in_indexes() {
    for (number, file) in golden::index_notes().iter().enumerate() {
        let is_noted = |file: index_file::IndexFile| file.marks.is_some() || file.forgotten.is_some();
        assert!(index_file::decode(file).is_ok_and(is_noted), "{number}");
        check(&format!("index with notes {number}"), file, |json| index_file::decode(json).is_ok());
    }
}

#[test]
fn snapshots_locks_and_configurations() {
    check_golden("snapshot", |json| serde_json::from_slice::<Snapshot>(json).is_ok());
    check_golden("lock", |json| serde_json::from_slice::<LockFile>(json).is_ok());
    check_golden("config", |json| {
        serde_json::from_slice::<Config>(json).is_ok_and(|config| config.problem().is_none())
    });
}

#[test]
fn descriptions_of_images() {
    check_golden("image_description", |json| match ImageDescription::parse(json) {
        // Walking its segments by number ends.
        Ok(image) => (0..image.segments()).last().is_none_or(|last| image.segment_length(last) <= image.segment_bytes),
        Err(_) => false,
    });
}

#[test]
fn custody_records() {
    let (name, right) = fuzzing::seeds().into_iter().find(|(name, _)| *name == "custody").unwrap();
    check(name, &right, |json| match serde_json::from_slice::<Custody>(json) {
        Ok(custody) => {
            // The seal is of what is written again: that must be the same.
            let again = serde_json::to_vec(&custody).unwrap();
            assert_eq!(serde_json::from_slice::<Custody>(&again).unwrap(), custody);
            true
        }
        Err(_) => false,
    });
}

#[test]
fn keys() {
    check_golden("key_file", |json| KeyFileJson::parse(json).is_ok());
    check_golden("master_key", |json| std::str::from_utf8(json).is_ok_and(|json| MasterKey::from_json(json).is_ok()));
}

#[test]
fn compressed_files_and_blobs() {
    check_golden("compressed_file", |content| decompress_file(content.to_vec()).is_ok());
    let json = golden::tree().to_json();
    check_golden("compressed_blob", |frame| {
        let mut out = Vec::new();
        BlobDecompressor::new().unwrap().decompress(frame, json.len(), &mut out).is_ok() && out == json
    });
}
