//! A right file of each kind, for those who make wrong ones of it.

use crate::compress::compress_file_onto;
use crate::config::Config;
use crate::lock::LockFile;
use crate::pack::{PackedBlob, encode_header};
use crate::vault::to_json;
use crate::{
    BlobKind, ExtendedAttribute, FileTime, Id, ImageDescription, LockMode, MasterKey, Node, NodeKind, Password, Tree,
    index_file,
};

pub(crate) fn tree() -> Tree {
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

fn blobs(kind: BlobKind) -> Vec<PackedBlob> {
    let blob = |number: u32| PackedBlob {
        offset: number * 100,
        length: 100,
        uncompressed_length: number * 7,
        kind,
        id: Id::of(&number.to_le_bytes()),
    };
    (0..4).map(blob).collect()
}

fn snapshot() -> Vec<u8> {
    let json = r#"{"time":"2026-11-20T12:00:00.5+01:00","parent":null,"tree":"ID","paths":["/a"],"hostname":"h",
        "uid":1,"tags":["x"],"summary":{"backup_start":"2026-11-20T12:00:00Z","backup_end":"2026-11-20T12:00:01Z",
        "files_new":1,"files_changed":0,"files_unmodified":0,"dirs_new":0,"dirs_changed":0,"dirs_unmodified":0,
        "data_blobs":1,"tree_blobs":1,"data_added":5,"data_added_packed":5,"total_files_processed":1,
        "total_bytes_processed":5}}"#;
    json.replace("ID", &Id::of(b"tree").to_hex()).into_bytes()
}

/// Index files with what prunes note: marks, records of forgotten snapshots, and both beside a pack.
pub(crate) fn index_notes() -> Vec<Vec<u8>> {
    let marks = r#""levee_prune":{"version":1,"leaving":["ONE"],"unindexed":[{"since":"2026-11-25T01:02:03Z","packs":["TWO"]},
        {"since":"2026-11-26T01:02:03.5Z","packs":["ONE","TWO"]}]}"#;
    let forgotten = r#""levee_forgotten":{"version":1,"snapshots":[{"id":"ONE","forgotten":"2026-11-26T01:02:03Z","file":"eA=="},
        {"id":"TWO","forgotten":"2026-11-26T01:02:03Z","pruned":"2026-11-27T01:02:03Z","file":"eHk="}]}"#;
    let pack = r#"{"id":"ONE","blobs":[{"id":"TWO","type":"data","offset":0,"length":40,"uncompressed_length":99}]}"#;
    let files = [
        format!(r#"{{"packs":[],{marks}}}"#),
        format!(r#"{{"packs":[],{forgotten}}}"#),
        format!(r#"{{"packs":[{pack}],{marks},{forgotten}}}"#),
    ];
    let named = |file: &String| file.replace("ONE", &"01".repeat(32)).replace("TWO", &"02".repeat(32)).into_bytes();
    files.iter().map(named).collect()
}

/// Each file with the name of its parser.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    let right = "made here, and right";
    let packs = vec![(Id::of(b"data"), blobs(BlobKind::Data)), (Id::of(b"trees"), blobs(BlobKind::Tree))];
    let master_key = MasterKey::generate().expect(right);
    let key_file = master_key.seal_key_file(&Password::new("password"), "host", "user").expect(right);
    let json = tree().to_json();
    let mut compressed_file = Vec::new();
    compress_file_onto(&json, &mut compressed_file).expect(right);
    let image = ImageDescription {
        version: 1,
        name: "disk.qcow2".into(),
        size_bytes: (3 << 30) + 5,
        format: levee_image::Format::Qcow2,
        segment_bytes: 1 << 30,
        chunk_bytes: 64 << 10,
    };
    vec![
        ("tree", json.clone()),
        ("index", index_file::encode(&packs).expect(right)),
        ("pack_header", encode_header(&blobs(BlobKind::Data))),
        ("snapshot", snapshot()),
        ("lock", to_json(&LockFile::new(LockMode::Shared)).expect(right)),
        ("config", to_json(&Config::generate(None).expect(right)).expect(right)),
        ("image_description", serde_json::to_vec(&image).expect(right)),
        ("key_file", key_file.content),
        ("master_key", master_key.to_json().as_bytes().to_vec()),
        ("compressed_file", compressed_file),
        ("compressed_blob", zstd::bulk::compress(&json, 3).expect(right)),
    ]
}
