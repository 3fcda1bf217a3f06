//! Damaged images: an error with a name, never a crash, and with checksums never something wrong.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;

use levee_image::{BackingFiles, Change, ReadAt, Source, Target, open_file_system};
use levee_testing::image::{Mounted, ext4_of, qemu_img, xfs};

use super::noise;
use super::tree::{Seen, in_image_within};

/// Images that are damaged in each test; more with `LEVEE_MUTATIONS`.
fn rounds() -> u64 {
    std::env::var("LEVEE_MUTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(100)
}

/// An image with some bytes changed, without a copy of the rest.
struct Damaged {
    sound: Arc<Vec<u8>>,
    bytes: Vec<(usize, u8)>,
}

impl ReadAt for Damaged {
    fn size_bytes(&self) -> u64 {
        self.sound.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.sound.read_at(buffer, offset)?;
        for (at, byte) in &self.bytes {
            if let Some(place) = (*at as u64).checked_sub(offset).and_then(|at| buffer.get_mut(at as usize)) {
                *place = *byte;
            }
        }
        Ok(())
    }
}

/// Where an image is not zero: elsewhere damage is not seen.
fn used_bytes(image: &[u8]) -> Vec<usize> {
    image.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect()
}

fn fill(root: &Path) {
    for number in 0..80 {
        fs::write(root.join(format!("file number {number}")), b"").unwrap();
    }
    fs::create_dir(root.join("folder")).unwrap();
    fs::write(root.join("folder/zeros"), vec![0; 50_000]).unwrap();
    symlink("y".repeat(300), root.join("folder/link")).unwrap();
    let torn = File::create(root.join("torn")).unwrap();
    for number in 0..60 {
        torn.write_all_at(&[0], number * 8192).unwrap();
    }
}

fn look(image: Damaged) -> Result<std::collections::BTreeMap<std::path::PathBuf, Seen>, String> {
    let file_system = open_file_system(Arc::new(image)).map_err(|error| error.to_string())?;
    in_image_within(&*file_system, 300, 1 << 20)
}

#[test]
fn damage_of_xfs_is_found_wherever_it_matters() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk");
    xfs(&image, 300, &[]);
    let mounted = Mounted::mount(&image, &folder.path().join("mounted"));
    fill(mounted.folder());
    drop(mounted);
    let sound = Arc::new(fs::read(&image).unwrap());
    // All content is zeros: what is not is the file system's own, which has checksums.
    let used = used_bytes(&sound);
    let expected = look(Damaged { sound: sound.clone(), bytes: Vec::new() }).unwrap();
    let mut found = 0;
    for seed in 0..rounds() {
        let choice = noise(seed, 64);
        let at = used[u64::from_le_bytes(choice[..8].try_into().unwrap()) as usize % used.len()];
        let bytes = (0..1 + usize::from(choice[8] % 4)).map(|n| (at + n, choice[9 + n])).collect();
        match look(Damaged { sound: sound.clone(), bytes }) {
            Ok(seen) => assert!(seen == expected, "damage at {at} was read as something else"),
            Err(_) => found += 1,
        }
    }
    assert!(found > 0, "no damage was found at all");
}

#[test]
fn no_damage_makes_a_reader_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("content")).unwrap();
    fill(&path("content"));
    ext4_of(&path("content"), &path("ext4"), 16, &["-b", "1024"]);
    let proto = (0..60).map(|number| format!("name-{number} ---640 0 0 /dev/null\n")).collect::<String>();
    fs::write(path("proto"), format!("/boot\n0 0\nd--755 0 0\n{proto}sub d--700 3 4\nl l--777 0 0 ../x\n$\n$\n"))
        .unwrap();
    let proto = path("proto");
    let options = ["-m", "crc=0,finobt=0,rmapbt=0,reflink=0,inobtcount=0,bigtime=0", "-p"].map(std::ffi::OsStr::new);
    xfs(&path("xfs4"), 301, &[&options[..], &[proto.as_os_str()]].concat());
    for name in ["ext4", "xfs4"] {
        let sound = Arc::new(fs::read(path(name)).unwrap());
        let used = used_bytes(&sound);
        for seed in 0..rounds() {
            let choice = noise(seed + 1000, 256);
            let bytes = (0..1 + usize::from(choice[0] % 12)).map(|n| {
                let at = u32::from_le_bytes(choice[4 + n * 8..8 + n * 8].try_into().unwrap()) as usize;
                (used[at % used.len()], choice[8 + n * 8])
            });
            let _ = look(Damaged { sound: sound.clone(), bytes: bytes.collect() });
        }
    }
}

#[test]
fn damaged_qcow2_images_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("raw"), [noise(1, 300_000), vec![0; 500_000], b"text ".repeat(50_000)].concat()).unwrap();
    let raw = path("raw");
    for options in [&["-c"][..], &[]] {
        let image = path("disk.qcow2");
        let arguments =
            [&["convert", "-f", "raw", "-O", "qcow2"], options, &[raw.to_str().unwrap(), image.to_str().unwrap()]];
        qemu_img(&arguments.concat());
        let sound = fs::read(&image).unwrap();
        let tables: Vec<usize> = used_bytes(&sound[..(5 << 16).min(sound.len())]);
        for seed in 0..rounds() {
            let choice = noise(seed + 2000, 128);
            let mut damaged = sound.clone();
            for n in 0..1 + usize::from(choice[0] % 6) {
                let at = u32::from_le_bytes(choice[4 + n * 8..8 + n * 8].try_into().unwrap()) as usize;
                damaged[tables[at % tables.len()]] = choice[8 + n * 8];
            }
            fs::write(&image, &damaged).unwrap();
            let Ok(source) = Source::open(&image, None, BackingFiles::Refuse) else { continue };
            let mut buffer = vec![0; 65_536];
            for offset in (0..source.size_bytes().min(2 << 20)).step_by(65_536) {
                let length = (source.size_bytes() - offset).min(65_536) as usize;
                let _ = source.read_at(&mut buffer[..length], offset);
                let _ = levee_image::SparseRead::extent_at(&source, offset);
            }
            drop(source);
            if let Ok(target) = Target::open(&image, None, 1_050_112, Change::Write) {
                let _ = target.write_at(&buffer[..10_000], 100_000);
                let _ = target.make_durable();
            }
        }
    }
}
