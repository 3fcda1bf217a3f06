//! An image's files beside what a folder holds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use levee_image::{
    BackingFiles, CompareEvent, Compared, ExtractOptions, FileSystem, Reading, Source, compare, extract,
    open_file_system,
};
use levee_testing::image::ext4_of;

use super::noise;

/// What is compared, and what differs, as `path: how`.
fn compared(file_system: &dyn FileSystem, from: &str, target: &Path, reading: Reading) -> (Compared, Vec<String>) {
    let mut differing = Vec::new();
    let compared = compare(file_system, Path::new(from), target, reading, &mut |event| match event {
        CompareEvent::Differs(path, how) => differing.push(format!("{}: {how}", path.display())),
        CompareEvent::Problem(path, message) => panic!("{}: {message}", path.display()),
        CompareEvent::Bytes(_) => {}
    });
    (compared.unwrap(), differing)
}

#[test]
fn what_a_folder_lacks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let content = path("content");
    fs::create_dir_all(content.join("etc/deep")).unwrap();
    fs::write(content.join("etc/deep/file"), noise(1, 2_500_000)).unwrap();
    fs::write(content.join("etc/small"), b"small").unwrap();
    fs::write(content.join("empty"), b"").unwrap();
    symlink("etc/small", content.join("link")).unwrap();
    let image = path("disk");
    ext4_of(&content, &image, 64, &[]);
    let source = Source::open(&image, None, BackingFiles::Refuse).unwrap();
    let file_system = open_file_system(Arc::new(source)).unwrap();
    let target = path("target");

    // What would come, where nothing is. `lost+found` is the third folder.
    let (foreseen, differing) = compared(&*file_system, "/", &target, Reading::Cached);
    assert_eq!((foreseen.files, foreseen.directories, foreseen.others, foreseen.bytes), (3, 3, 1, 2_500_005));
    assert_eq!((foreseen.same_files, foreseen.same_bytes, differing), (0, 0, vec![]));
    assert!(!target.exists());

    let options = ExtractOptions { target: target.clone(), owners: false };
    let done = extract(&*file_system, Path::new("/"), &options, &mut |_| {}).unwrap();
    assert_eq!((done.files, done.directories, done.others, done.bytes), (3, 3, 1, 2_500_005));
    for reading in [Reading::Cached, Reading::FromDisk] {
        let (found, differing) = compared(&*file_system, "/", &target, reading);
        assert_eq!((found.same_files, found.same_bytes, differing), (3, 2_500_005, vec![]));
    }

    let mut damaged = noise(1, 2_500_000);
    damaged[1_200_000] ^= 1;
    fs::write(target.join("etc/deep/file"), damaged).unwrap();
    fs::write(target.join("etc/small"), b"smaller").unwrap();
    fs::remove_file(target.join("link")).unwrap();
    symlink("etc/deep", target.join("link")).unwrap();
    fs::remove_file(target.join("empty")).unwrap();
    fs::create_dir(target.join("empty")).unwrap();
    let (found, differing) = compared(&*file_system, "/", &target, Reading::FromDisk);
    assert_eq!((found.same_files, found.same_bytes), (0, 0));
    let expected = [
        "/empty: something else has its name there",
        "/etc/deep/file: its content is another one from byte 1200000 on",
        "/etc/small: it has 7 bytes there",
        "/link: it leads elsewhere",
    ];
    assert_eq!(differing, expected);

    // A link is not followed to what it leads to, and of what a missing folder holds nothing more is said.
    fs::rename(target.join("etc"), path("elsewhere")).unwrap();
    symlink(path("elsewhere"), target.join("etc")).unwrap();
    let (_, differing) = compared(&*file_system, "/", &target, Reading::Cached);
    assert_eq!(differing[1..], ["/etc: something else has its name there", "/link: it leads elsewhere"]);
    // One file.
    let (found, differing) = compared(&*file_system, "/etc/small", &target, Reading::Cached);
    assert_eq!((found.files, found.directories), (1, 0));
    assert_eq!(differing, ["/etc/small: it is missing"]);
}
