//! Files in ext4 and xfs, against what the kernel shows of the same.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use levee_image::{
    BackingFiles, Contents, ExtractEvent, ExtractOptions, FileSystem, Source, Window, extract, open_file_system,
};
use levee_testing::image::{Mounted, empty, ext4_of, partition, xfs};
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, Timespec, Timestamps};

use super::noise;
use super::tree::{assert_same, in_image, on_disk, without_nanoseconds};

fn open(image: &Path) -> Box<dyn FileSystem> {
    open_file_system(Arc::new(Source::open(image, None, BackingFiles::Refuse).unwrap())).unwrap()
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What every file system has. Needs root, for owners and devices.
fn fill(root: &Path) {
    fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    fs::write(root.join("etc/passwd"), b"root:x:0:0\n").unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("large"), noise(1, 3_000_000)).unwrap();
    fs::write(root.join("etc/deep/er/file"), noise(2, 10_000)).unwrap();
    fs::set_permissions(root.join("etc/passwd"), Permissions::from_mode(0o4751)).unwrap();
    chown(root.join("large"), Some(70_000), Some(3_000_000_000)).unwrap();
    symlink("etc/passwd", root.join("short link")).unwrap();
    symlink("x/".repeat(400) + "end", root.join("long link")).unwrap();
    symlink("etc/deep", root.join("way")).unwrap();
    symlink("/way/er", root.join("etc/absolute")).unwrap();
    symlink("circle", root.join("circle")).unwrap();
    let odd = OsString::from_vec(b"not \xff\xfe UTF-8".to_vec());
    fs::write(root.join(odd), b"odd").unwrap();
    fs::write(root.join("n".repeat(255)), b"long").unwrap();
    rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    sparse.write_all_at(&noise(3, 5000), 7 << 20).unwrap();
    set_time(&root.join("etc/deep/er/file"), 981_173_106, 123_456_789);
}

#[test]
fn ext4_shows_what_the_folder_held() {
    let folder = tempfile::tempdir().unwrap();
    let (content, image) = (folder.path().join("content"), folder.path().join("disk"));
    fill(&content);
    // More entries than one block holds: the directory gets an index.
    fs::create_dir(content.join("many")).unwrap();
    for number in 0..700 {
        fs::write(content.join(format!("many/a file with a long name {number}")), [number as u8]).unwrap();
    }
    for options in [&["-L", "a label"][..], &["-O", "^extents,^64bit,^has_journal", "-b", "1024"]] {
        if options.contains(&"-b") {
            // A hole that has no block of pointers of its own is an error there (docs/operating/images.md).
            fs::remove_file(content.join("sparse")).unwrap();
        }
        let expected = without_nanoseconds(on_disk(&content));
        ext4_of(&content, &image, 64, options);
        let file_system = open(&image);
        assert_eq!(file_system.contents(), Contents::Ext4);
        assert_same(&in_image(&*file_system).unwrap(), &expected);
        if options.contains(&"-L") {
            assert_eq!(file_system.label(), "a label");
        }
        check_paths(&*file_system);
    }
}

/// Links lead on inside of the image alone.
fn check_paths(file_system: &dyn FileSystem) {
    let content = |path: &str| {
        let mut content = Vec::new();
        file_system.open(Path::new(path)).map_err(|error| error.to_string())?.read_to_end(&mut content).unwrap();
        Ok::<_, String>(content)
    };
    assert_eq!(content("/way/er/file").unwrap(), noise(2, 10_000));
    assert_eq!(content("/etc/absolute/file").unwrap(), noise(2, 10_000));
    for (path, expected) in [("/etc/nothing", "there is no"), ("/etc/passwd/x", ""), ("/circle/x", ""), ("/etc", "")] {
        let error = content(path).unwrap_err();
        assert!(error.contains(expected), "{path}: {error}");
    }
    assert!(file_system.read_dir(Path::new("/etc/passwd")).is_err());
    assert!(file_system.read_dir(Path::new("/../..")).is_ok());
    assert_eq!(file_system.read_link(Path::new("/way")).unwrap(), Path::new("etc/deep"));
}

/// Everything whose form changes with its size: directories of one block, of many and with hashes of their own,
/// files with so many extents that they stand in a tree, preallocated room.
fn fill_for_xfs(root: &Path) {
    fill(root);
    for (folder, count) in [("inline", 5), ("block", 60), ("leaf", 700), ("node", 2500)] {
        fs::create_dir(root.join(folder)).unwrap();
        for number in 0..count {
            let path = root.join(folder).join(format!("{number} has a name of some length"));
            if number % 50 == 0 { fs::write(path, folder).unwrap() } else { drop(File::create(path).unwrap()) }
        }
        for number in (0..count).step_by(7) {
            fs::remove_file(root.join(folder).join(format!("{number} has a name of some length"))).unwrap();
        }
    }
    let torn = File::create(root.join("torn")).unwrap();
    for number in 0..1000 {
        torn.write_all_at(&noise(number, 100), number * 8192).unwrap();
    }
    let reserved = File::create(root.join("reserved")).unwrap();
    rustix::fs::fallocate(&reserved, FallocateFlags::empty(), 0, 1 << 20).unwrap();
    reserved.write_all_at(b"written", 500_000).unwrap();
    let device = rustix::fs::makedev(7, 300);
    rustix::fs::mknodat(CWD, root.join("device"), FileType::CharacterDevice, Mode::RUSR, device).unwrap();
    set_time(&root.join("etc/passwd"), 8_000_000_000, 1);
    set_time(&root.join("empty"), -86_400, 5);
}

#[test]
fn xfs_shows_what_the_kernel_shows() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk");
    fn named(options: &[&'static str]) -> Vec<&'static OsStr> {
        options.iter().copied().map(OsStr::new).collect()
    }
    for options in [
        named(&["-L", "a label"]),
        named(&["-b", "size=1024", "-n", "size=4096", "-m", "bigtime=1,reflink=0"]),
        named(&["-d", "agcount=3", "-i", "size=1024", "-n", "size=16384"]),
    ] {
        xfs(&image, 330, &options);
        let mounted = Mounted::mount(&image, &folder.path().join("mounted"));
        fill_for_xfs(mounted.folder());
        let expected = on_disk(mounted.folder());
        drop(mounted);
        let file_system = open(&image);
        assert_eq!(file_system.contents(), Contents::Xfs);
        assert_same(&in_image(&*file_system).unwrap(), &expected);
        let device = file_system.attributes(Path::new("/device")).unwrap();
        assert_eq!(device.device, Some((7, 300)));
        check_paths(&*file_system);
        if options.contains(&OsStr::new("-L")) {
            assert_eq!(file_system.label(), "a label");
        }
    }
}

#[test]
fn xfs_of_version_4_is_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("file"), noise(5, 200_000)).unwrap();
    let mut proto = File::create(path("proto")).unwrap();
    let file = path("file");
    write!(proto, "/boot\n0 0\nd--755 0 0\n").unwrap();
    for number in 0..900 {
        writeln!(
            proto,
            "name-{number} ---640 {number} 7 {}",
            if number % 100 == 0 { file.to_str().unwrap() } else { "/dev/null" }
        )
        .unwrap();
    }
    writeln!(proto, "sub d--700 3 4\ninner -u-755 0 0 {}\nlink l--777 0 0 ../name-0\n$\n$", file.display()).unwrap();
    let options = ["-m", "crc=0,finobt=0,rmapbt=0,reflink=0,inobtcount=0,bigtime=0", "-p"].map(OsStr::new);
    let proto = path("proto");
    xfs(&path("disk"), 301, &[&options[..], &[proto.as_os_str()]].concat());
    let file_system = open(&path("disk"));
    let seen = in_image(&*file_system).unwrap();
    assert_eq!(seen.len(), 903);
    assert_eq!(seen[Path::new("sub/link")].target, Some("../name-0".into()));
    assert_eq!((seen[Path::new("sub/inner")].mode, seen[Path::new("name-55")].owners), (0o4755, (55, 7)));
    let mut content = Vec::new();
    file_system.open(Path::new("/name-300")).unwrap().read_to_end(&mut content).unwrap();
    assert!(content == noise(5, 200_000));
}

#[test]
fn files_come_out_with_owners_times_links_and_holes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fill(&path("content"));
    ext4_of(&path("content"), &path("part"), 64, &[]);
    // In a partition of a larger disk.
    empty(&path("disk"), 70 << 20);
    partition(&path("disk"), "label: gpt\nstart=2MiB, size=64MiB\n");
    let disk = File::options().write(true).open(path("disk")).unwrap();
    disk.write_all_at(&fs::read(path("part")).unwrap(), 2 << 20).unwrap();
    let disk = Arc::new(Source::open(&path("disk"), None, BackingFiles::Refuse).unwrap());
    let (_, partitions) = levee_image::partitions(&*disk).unwrap().unwrap();
    let window = Window::new(disk, partitions[0].start_bytes, partitions[0].size_bytes);
    let file_system = open_file_system(Arc::new(window)).unwrap();

    let target = path("target");
    // What is in the way goes, and where a link leads is not touched.
    fs::create_dir_all(target.join("etc")).unwrap();
    fs::write(path("outside"), b"untouched").unwrap();
    symlink(path("outside"), target.join("large")).unwrap();
    symlink(folder.path(), target.join("etc/deep")).unwrap();
    let extract_to = |from: &str, target: PathBuf| {
        let mut problems = Vec::new();
        let options = ExtractOptions { target, owners: true };
        let done = extract(&*file_system, Path::new(from), &options, &mut |event| {
            if let ExtractEvent::Problem(path, message) = event {
                problems.push(format!("{}: {message}", path.display()));
            }
        });
        (done.unwrap(), problems)
    };
    let (done, problems) = extract_to("/", target.clone());
    assert_eq!((done.problems, done.others), (0, 6));
    assert_eq!(problems, Vec::<String>::new());
    let mut found = on_disk(&target);
    assert_same(&found, &without_nanoseconds(on_disk(&path("content"))));
    assert_eq!(fs::read(path("outside")).unwrap(), b"untouched");
    assert!(!path("er").exists());
    assert!(fs::metadata(target.join("sparse")).unwrap().blocks() * 512 < 1 << 20);
    // One file, and one folder.
    let (done, problems) = extract_to("/etc/deep/er/file", path("one"));
    assert_eq!((done.files, done.directories, problems.len()), (1, 0, 0));
    assert_eq!(fs::read(path("one/file")).unwrap(), noise(2, 10_000));
    extract_to("/etc", path("etc"));
    found.retain(|path, _| path.starts_with("etc") && path != Path::new("etc"));
    let inside = on_disk(&path("etc")).into_iter().map(|(path, seen)| (Path::new("etc").join(path), seen)).collect();
    assert_same(&inside, &found);
}
