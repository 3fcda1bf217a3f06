//! Writing images, with `qemu-img` as the judge.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use levee_image::{Change, Error, Extent, Format, ReadAt, SparseRead, Target, TargetState};
use levee_testing::image::{LoopDevice, Mounted, assert_same_content, assert_sound_qcow2, empty, ext4_of, qemu_img};

use super::{all, noise};

const SIZE: u64 = 20 << 20;

fn open(path: &Path, format: Option<Format>, size: u64) -> Result<Target, Error> {
    Target::open(path, format, size, Change::Write)
}

#[test]
fn a_new_image_of_either_format_is_sparse_and_sound_and_can_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let raw_path = folder.path().join("disk.img");
    let qcow2_path = folder.path().join("disk.qcow2");
    let mut expected = vec![0; SIZE as usize];
    for (path, format) in [(&raw_path, Format::Raw), (&qcow2_path, Format::Qcow2)] {
        expected.fill(0);
        let mut write = |target: &Target, seed: u64, offset: u64, length: usize| {
            let bytes = noise(seed, length);
            target.write_at(&bytes, offset).unwrap();
            expected[offset as usize..offset as usize + length].copy_from_slice(&bytes);
        };
        let target = open(path, None, SIZE).unwrap();
        assert_eq!((target.format(), target.state(), target.size_bytes()), (format, TargetState::Fresh, SIZE));
        write(&target, 1, 0, 65_536);
        write(&target, 2, 10 << 20, 200_000);
        write(&target, 3, SIZE - 512, 512);
        assert!(target.write_at(&[1; 513], SIZE - 512).is_err());
        target.make_durable().unwrap();
        drop(target);
        assert!(fs::metadata(path).unwrap().blocks() * 512 < 2 << 20, "it is sparse");

        let target = open(path, None, SIZE).unwrap();
        assert_eq!((target.format(), target.state()), (format, TargetState::Old));
        assert_eq!(target.extent_at(5 << 20).unwrap().0, Extent::Zero);
        write(&target, 4, 10 << 20, 65_536);
        write(&target, 5, 15 << 20, 70_000);
        target.write_zeros(0, 65_536).unwrap();
        expected[..65_536].fill(0);
        assert!(all(&target) == expected);
        target.make_durable().unwrap();
        assert!(all(&target.reopen().unwrap()) == expected);
        drop(target);
        fs::write(folder.path().join("expected"), &expected).unwrap();
        assert_same_content(path, &folder.path().join("expected"));
    }
    assert_sound_qcow2(&qcow2_path);
    // An image that qemu made, with snapshots of its own and compressed parts.
    let theirs = folder.path().join("theirs.qcow2");
    qemu_img(&["convert", "-c", "-O", "qcow2", qcow2_path.to_str().unwrap(), theirs.to_str().unwrap()]);
    qemu_img(&["snapshot", "-c", "before", theirs.to_str().unwrap()]);
    let target = open(&theirs, None, SIZE).unwrap();
    for number in 0..40 {
        let bytes = noise(100 + number, 65_536);
        let offset = number * 500_000;
        target.write_at(&bytes, offset).unwrap();
        expected[offset as usize..][..65_536].copy_from_slice(&bytes);
    }
    target.make_durable().unwrap();
    drop(target);
    assert_sound_qcow2(&theirs);
    fs::write(folder.path().join("expected"), &expected).unwrap();
    assert_same_content(&theirs, &folder.path().join("expected"));
}

#[test]
fn sizes_and_formats_that_do_not_fit_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("small"), b"something").unwrap();
    fs::write(path("empty"), b"").unwrap();
    let refused = |path: &Path, format, expected: &str| {
        let error = open(path, format, SIZE).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&path("small"), None, "holds 9 bytes");
    refused(folder.path(), None, "no disk image");
    qemu_img(&["create", "-q", "-f", "qcow2", path("other.qcow2").to_str().unwrap(), "1M"]);
    refused(&path("other.qcow2"), None, "holds 1048576 bytes");
    assert_eq!(fs::read(path("small")).unwrap(), b"something");
    // An empty file is as good as none; and a length that is no multiple of a sector.
    assert_eq!(open(&path("empty"), None, 1_000_001).unwrap().size_bytes(), 1_000_001);
    let odd = open(&path("odd.qcow2"), None, 1_000_001).unwrap();
    assert_eq!(odd.size_bytes(), 1_000_448);
    odd.make_durable().unwrap();
    drop(odd);
    assert_sound_qcow2(&path("odd.qcow2"));
    // Looking makes nothing.
    let looked = Target::open(&path("absent"), None, SIZE, Change::LookOnly).unwrap();
    assert_eq!((looked.state(), looked.extent_at(0).unwrap().0), (TargetState::Fresh, Extent::Zero));
    assert!(looked.write_at(&[1], 0).is_err());
    assert!(!path("absent").exists());
}

#[test]
fn a_device_is_written_to_unless_it_is_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let (file, content) = (folder.path().join("file"), folder.path().join("content"));
    fs::create_dir(&content).unwrap();
    ext4_of(&content, &file, 24, &[]);
    let device = LoopDevice::over(&file);
    let mounted = Mounted::mount(device.path(), &folder.path().join("mounted"));
    let error = open(device.path(), None, SIZE).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    drop(mounted);
    assert!(matches!(open(device.path(), Some(Format::Qcow2), SIZE), Err(Error::NoPlaceForQcow2 { .. })));
    assert!(matches!(open(device.path(), None, 30 << 20), Err(Error::WrongSize { .. })));
    let target = open(device.path(), None, SIZE).unwrap();
    assert_eq!((target.format(), target.state(), target.size_bytes()), (Format::Raw, TargetState::Old, 24 << 20));
    target.write_at(&noise(7, 4096), 8192).unwrap();
    target.write_zeros(0, 8192).unwrap();
    target.make_durable().unwrap();
    drop(target);
    drop(device);
    let content = fs::read(&file).unwrap();
    assert!(content[..8192].iter().all(|byte| *byte == 0) && content[8192..12_288] == noise(7, 4096));
    empty(&folder.path().join("unused"), 1);
    assert!(File::open(folder.path().join("unused")).is_ok());
}
