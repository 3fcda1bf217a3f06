//! Reading raw files and qcow2 images of every kind.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use levee_image::{BackingFiles, Error, Extent, Format, ReadAt, Source, SparseRead, detect_format};
use levee_testing::image::{empty, qemu_img};
use levee_testing::{leave_out, tools};

use super::{all, noise};

/// 8 MiB with data at 1 MiB and at 5 MiB, and holes between.
fn raw_disk(path: &Path) -> Vec<u8> {
    empty(path, 8 << 20);
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&noise(1, 300_000), 1 << 20).unwrap();
    file.write_all_at(&b"words and words ".repeat(20_000), 5 << 20).unwrap();
    fs::read(path).unwrap()
}

/// The bytes that need not be read, by what the source says.
fn zero_bytes(source: &Source, content: &[u8]) -> u64 {
    let (mut offset, mut zeros) = (0, 0);
    while offset < source.size_bytes() {
        let (extent, end) = source.extent_at(offset).unwrap();
        assert!(end > offset && end <= source.size_bytes(), "{offset} to {end}");
        if extent == Extent::Zero {
            assert!(content[offset as usize..end as usize].iter().all(|byte| *byte == 0), "{offset} to {end}");
            zeros += end - offset;
        }
        offset = end;
    }
    zeros
}

fn open(path: &Path) -> Result<Source, Error> {
    Source::open(path, None, BackingFiles::Refuse)
}

#[test]
fn every_format_reads_as_the_raw_disk_and_knows_its_holes() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    let content = raw_disk(&raw);
    let check = |path: &Path, format| {
        let source = open(path).unwrap();
        assert_eq!((source.format(), source.size_bytes()), (format, content.len() as u64), "{path:?}");
        assert!(all(&source) == content, "{path:?}");
        assert!(zero_bytes(&source, &content) > 6 << 20, "{path:?}");
        let mut part = vec![0; 10_000];
        source.read_at(&mut part, (5 << 20) - 5000).unwrap();
        assert!(part == content[(5 << 20) - 5000..][..10_000]);
        assert!(source.read_at(&mut part, (8 << 20) - 9999).is_err());
    };
    check(&raw, Format::Raw);
    for options in [
        &["-o", "compat=0.10"][..],
        &["-o", "compat=1.1"],
        &["-c"],
        &["-c", "-o", "compat=0.10,cluster_size=4096"],
        &["-c", "-o", "compression_type=zstd"],
        &["-o", "cluster_size=2M"],
    ] {
        let path = folder.path().join("disk.qcow2");
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2"];
        arguments.extend(options);
        arguments.extend([raw.to_str().unwrap(), path.to_str().unwrap()]);
        qemu_img(&arguments);
        let source = open(&path).unwrap();
        assert!(all(&source) == content, "{options:?}");
        if !options.contains(&"cluster_size=2M") {
            check(&path, Format::Qcow2);
        }
        // As itself it is something else.
        let itself = Source::open(&path, Some(Format::Raw), BackingFiles::Refuse).unwrap();
        assert!(all(&itself) == fs::read(&path).unwrap());
    }
}

#[test]
fn a_backing_file_is_followed_only_when_that_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, overlay) = (folder.path().join("base.raw"), folder.path().join("over.qcow2"));
    let content = raw_disk(&raw);
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", raw.to_str().unwrap(), "-F", "raw", overlay.to_str().unwrap()]);
    let refused = open(&overlay).unwrap_err().to_string();
    assert!(refused.contains("--follow-backing-files"), "{refused}");
    let source = Source::open(&overlay, None, BackingFiles::Follow).unwrap();
    assert!(!source.times_can_be_trusted());
    assert!(all(&source) == content);
}

#[test]
fn what_cannot_be_read_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let create = |name: &str, options: &[&str]| {
        let file = path(name);
        let mut arguments = vec!["create", "-q", "-f", "qcow2"];
        arguments.extend(options);
        arguments.extend([file.to_str().unwrap(), "1M"]);
        qemu_img(&arguments);
    };
    let data_file = format!("data_file={}", path("data").display());
    create("encrypted", &[]);
    create("subclusters", &["-o", "extended_l2=on"]);
    create("external", &["-o", &data_file]);
    create("dirty", &[]);
    create("corrupt", &[]);
    create("future", &[]);
    create("version", &[]);
    let set = |name: &str, offset: u64, byte: u8| {
        File::options().write(true).open(path(name)).unwrap().write_all_at(&[byte], offset).unwrap();
    };
    set("encrypted", 35, 1);
    set("dirty", 79, 1);
    set("corrupt", 79, 2);
    set("future", 75, 1);
    set("version", 7, 9);
    fs::write(path("short"), b"QFI\xfb\0\0\0").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    for (name, expected) in [
        ("encrypted", "is encrypted"),
        ("subclusters", "extended_l2"),
        ("external", "data in another file"),
        ("dirty", "was not closed"),
        ("corrupt", "corrupt"),
        ("future", "not known"),
        ("version", "version 9"),
        ("short", "version 0"),
        ("fifo", "no disk image"),
        ("absent", "cannot look at"),
    ] {
        let error = open(&path(name)).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let error = Source::open(&path("data"), Some(Format::Qcow2), BackingFiles::Refuse).unwrap_err().to_string();
    assert!(error.contains("--image-format raw"), "{error}");
    assert_eq!(detect_format(&path("data")).unwrap(), Format::Raw);
}

/// What this thread has read through the kernel so far. `None` where that keeps no account of it.
fn bytes_read() -> Option<u64> {
    let account = fs::read_to_string("/proc/thread-self/io").ok()?;
    account.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse().ok()
}

/// Reads an image as a backup does, all of it but what the source says is zeros. Gives what it has.
fn all_but_zeros(source: &Source) -> Vec<u8> {
    let mut content = vec![0; source.size_bytes() as usize];
    let mut offset = 0;
    while offset < source.size_bytes() {
        let (extent, end) = source.extent_at(offset).unwrap();
        if extent == Extent::Data {
            source.read_at(&mut content[offset as usize..end as usize], offset).unwrap();
        }
        offset = end;
    }
    content
}

#[test]
fn holes_and_clusters_of_zeros_are_never_read() {
    /// The account itself, headers, and tables of clusters.
    const BESIDES_BYTES: u64 = 256 << 10;
    if bytes_read().is_none() {
        return leave_out("the kernel keeps no account of what a thread reads");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let check = |name: &str, content: &[u8], data_bytes: u64, read: fn(&Source) -> Vec<u8>| {
        let before = bytes_read().unwrap();
        let source = open(&path(name)).unwrap();
        let found = read(&source);
        let bytes = bytes_read().unwrap() - before;
        assert!(found == content, "{name}");
        let range = data_bytes..data_bytes + BESIDES_BYTES;
        assert!(range.contains(&bytes), "{name}: {bytes} bytes were read for {data_bytes} of data");
    };
    // 64 MiB, with 2 MiB of data in them that begin and end where clusters and blocks do.
    let raw = path("disk.raw");
    empty(&raw, 64 << 20);
    let file = File::options().write(true).open(&raw).unwrap();
    file.write_all_at(&noise(1, 1 << 20), 8 << 20).unwrap();
    file.write_all_at(&noise(2, 1 << 20), 40 << 20).unwrap();
    let content = fs::read(&raw).unwrap();
    check("disk.raw", &content, 2 << 20, all_but_zeros);

    let convert = |name: &str| {
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), path(name).to_str().unwrap()]);
    };
    convert("disk.qcow2");
    check("disk.qcow2", &content, 2 << 20, all_but_zeros);
    // Who asks for an unallocated range gets zeros that nobody has read.
    check("disk.qcow2", &content, 2 << 20, |source| all(source));

    // Clusters that are marked as zeros and keep what lies in the file for them.
    let Some(qemu_io) = tools::find("qemu-io") else { return leave_out("qemu-io is not installed") };
    convert("marked.qcow2");
    let marked = path("marked.qcow2");
    let length = fs::metadata(&marked).unwrap().len();
    let output = Command::new(qemu_io).args(["-f", "qcow2", "-c", "write -z 40M 1M"]).arg(&marked).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(fs::metadata(&marked).unwrap().len() >= length);
    let mut content = content;
    content[40 << 20..41 << 20].fill(0);
    check("marked.qcow2", &content, 1 << 20, all_but_zeros);
    check("marked.qcow2", &content, 1 << 20, |source| all(source));
}
