//! The ceiling: what a backup must compute of these bytes in any case, with nothing around it.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use levee_vault::measure::ComputeAlone;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Files are read into memory, which is not counted, up to so many bytes at a time.
const PIECE_BYTES: u64 = 64 << 20;

/// What computing alone came to, on one core.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceiling {
    pub mib_per_cpu_second: f64,
    pub cpu_s: f64,
    pub stored_bytes: u64,
}

fn thread_cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Computes what a first backup of a folder computes: every file cut, hashed, compressed, encrypted and read back.
pub fn measure(folder: &Path) -> Result<Ceiling> {
    eprintln!("computing alone");
    let alone = ComputeAlone::new()?;
    let (mut bytes, mut stored_bytes, mut cpu_s) = (0, 0, 0.0);
    let mut piece: Vec<Vec<u8>> = Vec::new();
    let mut piece_bytes = 0;
    let mut compute = |piece: &mut Vec<Vec<u8>>| -> Result<()> {
        let started = thread_cpu_s();
        let mut streams: Vec<&[u8]> = piece.iter().map(Vec::as_slice).collect();
        stored_bytes += alone.run(&mut streams.iter_mut().map(|stream| stream as &mut dyn Read))?;
        cpu_s += thread_cpu_s() - started;
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
    Ok(Ceiling { mib_per_cpu_second: bytes as f64 / f64::from(1 << 20) / cpu_s, cpu_s, stored_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computing_is_measured_and_stores_what_cannot_be_compressed_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("words"), b"the same words again ".repeat(200_000)).unwrap();
        let mut noise = vec![0; 3 << 20];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut noise);
        fs::write(folder.path().join("noise"), &noise).unwrap();
        let ceiling = measure(folder.path()).unwrap();
        assert!(ceiling.stored_bytes > 3 << 20 && ceiling.stored_bytes < 4 << 20, "{ceiling:?}");
        assert!(ceiling.cpu_s > 0.0 && ceiling.mib_per_cpu_second > 0.0, "{ceiling:?}");
    }
}
