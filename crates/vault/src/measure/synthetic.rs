//! A repository that is as large as one of many terabytes to everything that reads its index, its directories and
//! the names and sizes of its packs. The packs of data are holes of the right size: nothing can be read of them.

use std::fs::File;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::Offset;
use levee_store::FileType;

use crate::index_file::{self, BLOBS_PER_FILE, Packs};
use crate::pack::{PackedBlob, pack_bytes};
use crate::parallel::{compute_threads, parallel_map};
use crate::session::{Session, SessionOptions};
use crate::{BlobKind, Error, Id, Node, NodeKind, Result, Snapshot, SnapshotId, Tree, Vault};

/// Packs of some 16 MiB of half-compressible chunks.
const BLOBS_PER_PACK: u64 = 50;
const PACKS_PER_FILE: u64 = BLOBS_PER_FILE as u64 / BLOBS_PER_PACK;
const PLAINTEXT_BYTES: u32 = 640 << 10;
const STORED_BYTES: u32 = 320 << 10;
const BLOBS_PER_FOLDER: u64 = 50_000;
const BLOBS_PER_SOURCE: u64 = 1000;
/// Of so many folders one is in the snapshot that is to be removed.
const REMOVED_SHARE: u64 = 50;

/// What was made.
#[derive(Clone, Copy, Debug)]
pub struct SyntheticRepository {
    /// Refers to all blobs but those of the other one.
    pub kept: SnapshotId,
    /// Without it, a fiftieth of the packs can be pruned.
    pub to_remove: SnapshotId,
    pub packs: u64,
}

fn id_of(what: u8, number: u64) -> Id {
    let mut bytes = [what; 9];
    bytes[1..].copy_from_slice(&number.to_le_bytes());
    Id::of(&bytes)
}

/// Fills a new repository that lies in a local folder with so many blobs, or up to a folder's worth more.
pub fn make_synthetic(vault: &Vault, folder: &Path, blobs: u64) -> Result<SyntheticRepository> {
    let folders: Vec<u64> = (0..blobs.div_ceil(BLOBS_PER_FOLDER)).collect();
    let (removed, kept) = folders.split_at((folders.len() as u64).div_ceil(REMOVED_SHARE) as usize);
    // Before there is an index, so that none has to be loaded.
    let (kept, to_remove) = (snapshot(vault, kept)?, snapshot(vault, removed)?);
    let packs = folders.len() as u64 * BLOBS_PER_FOLDER / BLOBS_PER_PACK;
    let files: Vec<u64> = (0..packs).step_by(PACKS_PER_FILE as usize).collect();
    let write = |first: &u64| write_packs(vault, folder, *first..(*first + PACKS_PER_FILE).min(packs));
    parallel_map(compute_threads(), &files, write).into_iter().collect::<Result<Vec<_>>>()?;
    Ok(SyntheticRepository { kept, to_remove, packs })
}

fn write_packs(vault: &Vault, folder: &Path, numbers: std::ops::Range<u64>) -> Result<()> {
    let mut packs = Packs::new();
    for number in numbers {
        let blob = |place: u64| PackedBlob {
            offset: place as u32 * STORED_BYTES,
            length: STORED_BYTES,
            uncompressed_length: PLAINTEXT_BYTES,
            kind: BlobKind::Data,
            id: id_of(1, number * BLOBS_PER_PACK + place),
        };
        let (pack, blobs) = (id_of(2, number), (0..BLOBS_PER_PACK).map(blob).collect::<Vec<_>>());
        let name = pack.to_hex();
        let path = folder.join(FileType::Data.folder()).join(&name[..2]).join(name);
        let made = File::create_new(&path).and_then(|file| file.set_len(pack_bytes(&blobs)));
        made.map_err(|source| Error::Target { action: "make", path, source })?;
        packs.push((pack, blobs));
    }
    vault.write_file_json(FileType::Index, &index_file::encode(&packs)?)?;
    Ok(())
}

/// A snapshot of these folders, each of files of a thousand blobs.
fn snapshot(vault: &Vault, folders: &[u64]) -> Result<SnapshotId> {
    let session = Session::begin(vault, SessionOptions::default(), &[])?;
    let directory = |name: String, tree: Tree| -> Result<Node> {
        Ok(Node { subtree: Some(session.add_tree(tree)?), ..Node::new(name.into(), NodeKind::Dir, 0o755) })
    };
    let mut nodes = Vec::new();
    for folder in folders {
        let first = folder * BLOBS_PER_FOLDER;
        let file = |from: u64| Node {
            size: BLOBS_PER_SOURCE * u64::from(PLAINTEXT_BYTES),
            content: Some((from..from + BLOBS_PER_SOURCE).map(|number| id_of(1, number)).collect()),
            ..Node::new(format!("file-{from:012}").into(), NodeKind::File, 0o644)
        };
        let files = (first..first + BLOBS_PER_FOLDER).step_by(BLOBS_PER_SOURCE as usize).map(file).collect();
        nodes.push(directory(format!("folder-{folder:08}"), Tree::new(files))?);
    }
    let tree = session.add_tree(Tree::new(nodes))?;
    session.finish()?;
    vault.write_snapshot(Snapshot {
        time: Timestamp::now(),
        offset: Offset::UTC,
        parent: None,
        tree: Some(tree),
        paths: vec!["/synthetic".into()],
        hostname: "synthetic".into(),
        username: String::new(),
        uid: 0,
        gid: 0,
        excludes: Vec::new(),
        tags: Vec::new(),
        original: None,
        program_version: crate::PROGRAM_VERSION.into(),
        summary: None,
    })
}
