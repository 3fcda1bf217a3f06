//! What `cargo xtask bench vault` measures within the vault: `measure ceiling FOLDER`, and `measure fill REPOSITORY BLOBS`
//! with the password in LEVEE_PASSWORD. Prints one JSON object.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use levee_store::LocalStore;
use levee_vault::measure::{ComputeAlone, Stored, make_synthetic};
use levee_vault::{Password, Vault};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let measured = match arguments[..] {
        ["ceiling", folder] => ceiling(Path::new(folder))?,
        ["fill", repository, blobs] => fill(Path::new(repository), blobs.parse().context("BLOBS is a number")?)?,
        _ => bail!("measure ceiling FOLDER | measure fill REPOSITORY BLOBS"),
    };
    println!("{measured}");
    Ok(())
}

/// Fills the empty repository of a folder.
fn fill(repository: &Path, blobs: u64) -> Result<Value> {
    let password = std::env::var("LEVEE_PASSWORD").context("LEVEE_PASSWORD")?;
    let vault = Vault::open(Arc::new(LocalStore::new(repository)), &Password::new(password.as_str()))?;
    let made = make_synthetic(&vault, repository, blobs)?;
    Ok(json!({ "to_remove": made.to_remove.to_string(), "packs": made.packs }))
}

/// Files are read into memory, which is not counted, up to so many bytes at a time.
const PIECE_BYTES: u64 = 64 << 20;

fn thread_cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Computes what a first backup of a folder computes: every file cut, hashed, compressed, encrypted and read back. Then what
/// a restore and a check of it compute.
fn ceiling(folder: &Path) -> Result<Value> {
    let alone = ComputeAlone::new()?;
    let (mut bytes, mut stored_bytes) = (0, 0);
    let (mut cpu_s, mut opening_cpu_s, mut hashing_packs_cpu_s) = (0.0, 0.0, 0.0);
    let mut stored = Stored::default();
    let mut piece: Vec<Vec<u8>> = Vec::new();
    let mut piece_bytes = 0;
    let mut compute = |piece: &mut Vec<Vec<u8>>| -> Result<()> {
        let mut streams: Vec<&[u8]> = piece.iter().map(Vec::as_slice).collect();
        let started = thread_cpu_s();
        alone.store(&mut streams.iter_mut().map(|stream| stream as &mut dyn Read), &mut stored)?;
        let is_stored = thread_cpu_s();
        std::hint::black_box(alone.hash_as_packs(&stored));
        let are_hashed = thread_cpu_s();
        alone.open(&mut stored)?;
        cpu_s += is_stored - started;
        hashing_packs_cpu_s += are_hashed - is_stored;
        opening_cpu_s += thread_cpu_s() - are_hashed;
        stored_bytes += stored.size_bytes();
        piece.clear();
        Ok(())
    };
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let mut file = fs::File::open(entry.path())?;
                loop {
                    let mut part = Vec::new();
                    (&mut file).take(PIECE_BYTES).read_to_end(&mut part)?;
                    let length = part.len() as u64;
                    bytes += length;
                    piece_bytes += length;
                    piece.push(part);
                    if piece_bytes >= PIECE_BYTES {
                        compute(&mut piece)?;
                        piece_bytes = 0;
                    }
                    if length < PIECE_BYTES {
                        break;
                    }
                }
            }
        }
    }
    compute(&mut piece)?;
    let mib_per_cpu_second = bytes as f64 / f64::from(1 << 20) / cpu_s;
    Ok(json!({
        "mib_per_cpu_second": mib_per_cpu_second,
        "cpu_s": cpu_s,
        "stored_bytes": stored_bytes,
        "restore_cpu_s": opening_cpu_s,
        "check_cpu_s": opening_cpu_s + hashing_packs_cpu_s,
    }))
}
