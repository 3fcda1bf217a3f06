//! Every parser of repository files is given thousands of slightly wrong files, made from right ones. None
//! may crash, hang or take memory without bound; most must refuse.

use crate::compress::{BlobDecompressor, compress_file, decompress_file};
use crate::config::Config;
use crate::key_file::KeyFileJson;
use crate::lock::LockFile;
use crate::pack::PackedBlob;
use crate::vault::to_json;
use crate::{
    BlobKind, ExtendedAttribute, FileTime, Id, LockMode, MasterKey, Node, NodeKind, Password, Snapshot, Tree,
    index_file,
};

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

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound.max(1)
    }
}

fn mutate(golden: &[u8], random: &mut Random) -> Vec<u8> {
    let mut content = golden.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(content.len());
        let length = random.below((content.len() - at).min(40));
        match random.below(7) {
            _ if content.is_empty() => content.push(0),
            0 => content[at] ^= 1 << random.below(8),
            1 => content[at] = random.below(256) as u8,
            2 => content.truncate(at),
            3 => drop(content.drain(at..at + length)),
            4 => {
                let part = content[at..at + length].to_vec();
                content.splice(at..at, part);
            }
            5 => drop(content.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
            // In the place of what stands there, as a number in the place of a number.
            _ => {
                let end = content[at..].iter().position(|byte| b",]}:".contains(byte)).map_or(at, |end| at + end);
                drop(content.splice(at..end, TOKENS[random.below(TOKENS.len())].iter().copied()));
            }
        }
    }
    content
}

/// Gives the parser wrong files; says how many it refused. The right one it must take.
fn check(name: &str, golden: &[u8], takes: impl Fn(&[u8]) -> bool) {
    assert!(takes(golden), "{name}: the right file is refused");
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ golden.len() as u64);
    let refused = (0..MUTATIONS).filter(|_| !takes(&mutate(golden, &mut random))).count();
    assert!(refused > MUTATIONS as usize / 10, "{name}: only {refused} of {MUTATIONS} were refused");
}

fn tree() -> Tree {
    let mut file = Node::new("a \"file\" \u{a0}\n".into(), NodeKind::File, 0o4755);
    file.content = Some(vec![Id::of(b"1"), Id::of(b"2")]);
    file.size = 12345;
    file.mtime = FileTime::new(-1, 5);
    file.user = "root".into();
    file.extended_attributes = vec![ExtendedAttribute { name: "user.x".into(), value: vec![0, 255] }];
    let mut folder = Node::new("folder".into(), NodeKind::Dir, 0o755);
    folder.subtree = Some(Id::of(b"3"));
    let mut link = Node::new("link".into(), NodeKind::Symlink, 0o777);
    link.link_target = std::os::unix::ffi::OsStringExt::from_vec(b"to\xff".to_vec());
    Tree::new(vec![file, folder, link])
}

#[test]
fn directories_and_indexes() {
    let tree = tree();
    check("tree", &tree.to_json(), |json| match Tree::from_json(json) {
        // What is taken is sound enough to be written again.
        Ok(tree) => Tree::from_json(&tree.to_json()).is_ok(),
        Err(_) => false,
    });
    let blob = |number: u32, kind| PackedBlob {
        offset: number * 100,
        length: 100,
        uncompressed_length: number * 7,
        kind,
        id: Id::of(&number.to_le_bytes()),
    };
    let pack = |name: &[u8], kind| (Id::of(name), (0..4).map(|number| blob(number, kind)).collect());
    let packs = vec![pack(b"data", BlobKind::Data), pack(b"trees", BlobKind::Tree)];
    check("index", &index_file::encode(&packs).unwrap(), |json| match index_file::decode(json) {
        Ok(file) => file.packs.iter().flat_map(|(_, blobs)| blobs).all(|blob| blob.end() <= u64::from(u32::MAX)),
        Err(_) => false,
    });
}

#[test]
fn snapshots_locks_and_configurations() {
    let json = br#"{"time":"2026-11-20T12:00:00.5+01:00","parent":null,"tree":"ID","paths":["/a"],"hostname":"h",
        "uid":1,"tags":["x"],"summary":{"backup_start":"2026-11-20T12:00:00Z","backup_end":"2026-11-20T12:00:01Z",
        "files_new":1,"files_changed":0,"files_unmodified":0,"dirs_new":0,"dirs_changed":0,"dirs_unmodified":0,
        "data_blobs":1,"tree_blobs":1,"data_added":5,"data_added_packed":5,"total_files_processed":1,
        "total_bytes_processed":5}}"#;
    let json = String::from_utf8_lossy(json).replace("ID", &Id::of(b"tree").to_hex());
    check("snapshot", json.as_bytes(), |json| serde_json::from_slice::<Snapshot>(json).is_ok());
    let lock = to_json(&LockFile::new(LockMode::Shared)).unwrap();
    check("lock", &lock, |json| serde_json::from_slice::<LockFile>(json).is_ok());
    let config = to_json(&Config::generate().unwrap()).unwrap();
    check("config", &config, |json| {
        serde_json::from_slice::<Config>(json).is_ok_and(|config| config.problem().is_none())
    });
}

#[test]
fn keys() {
    let master_key = MasterKey::generate().unwrap();
    let key_file = master_key.seal_key_file(&Password::new("password"), "host", "user").unwrap();
    check("key file", &key_file.content, |json| KeyFileJson::parse(json).is_ok());
    let json = master_key.to_json();
    check("master key", json.as_bytes(), |json| {
        std::str::from_utf8(json).is_ok_and(|json| MasterKey::from_json(json).is_ok())
    });
}

#[test]
fn compressed_files_and_blobs() {
    let json = tree().to_json();
    let compressed = compress_file(&json).unwrap();
    check("compressed file", &compressed, |content| decompress_file(content.to_vec()).is_ok());
    let frame = zstd::bulk::compress(&json, 3).unwrap();
    check("compressed blob", &frame, |frame| {
        let mut out = Vec::new();
        BlobDecompressor::new().unwrap().decompress(frame, json.len(), &mut out).is_ok() && out == json
    });
}
