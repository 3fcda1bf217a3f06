use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use levee_image::{Contents, TableKind, partitions, probe};
use levee_testing::image::{empty, partition};

use super::noise;

const MIB: u64 = 1 << 20;

/// The number of a partition, where it begins and how long it is, in MiB.
type Place = (u32, u64, u64);

fn found(path: &Path) -> Option<(TableKind, Vec<Place>)> {
    let (kind, partitions) = partitions(&fs::read(path).unwrap()).unwrap()?;
    let place = |partition: &levee_image::Partition| {
        (partition.number, partition.start_bytes / MIB, partition.size_bytes / MIB)
    };
    Some((kind, partitions.iter().map(place).collect()))
}

#[test]
fn tables_are_read_as_sfdisk_writes_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let check = |script: &str, expected: TableKind, places: &[(u32, u64, u64)]| {
        empty(&path, 100 * MIB);
        partition(&path, script);
        assert_eq!(found(&path), Some((expected, places.to_vec())), "{script}");
    };
    check(
        "label: dos\nstart=1MiB, size=9MiB, type=83\nstart=10MiB, size=80MiB, type=5\n\
         start=11MiB, size=10MiB\nstart=30MiB, size=5MiB\nstart=50MiB, size=7MiB\n",
        TableKind::Mbr,
        &[(1, 1, 9), (5, 11, 10), (6, 30, 5), (7, 50, 7)],
    );
    let gpt = "label: gpt\nstart=1MiB, size=9MiB, name=\"root ü\"\nstart=20MiB, size=30MiB\n";
    check(gpt, TableKind::Gpt, &[(1, 1, 9), (2, 20, 30)]);
    assert_eq!(partitions(&fs::read(&path).unwrap()).unwrap().unwrap().1[0].name, "root ü");
    // The copy at the end stands in for a damaged table, and for a lost protective MBR.
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[1], 512 + 80).unwrap();
    assert_eq!(found(&path), Some((TableKind::Gpt, vec![(1, 1, 9), (2, 20, 30)])));
    file.write_all_at(&[0; 4096], 0).unwrap();
    assert_eq!(found(&path), Some((TableKind::Gpt, vec![(1, 1, 9), (2, 20, 30)])));
    file.write_all_at(&[0; 512], 100 * MIB - 512).unwrap();
    assert_eq!(found(&path), None);
}

#[test]
fn nonsense_is_no_table_and_circles_end() {
    assert!(partitions(&Vec::<u8>::new()).unwrap().is_none());
    assert!(partitions(&vec![0; 100 << 10]).unwrap().is_none());
    for seed in 0..200 {
        let mut disk = noise(seed, 64 << 10);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        for entry in 0..4 {
            disk[446 + entry * 16] = 0;
            disk[446 + entry * 16 + 4] = [5, 0x83, 0xee, 0][(seed as usize + entry) % 4];
        }
        let found = partitions(&disk).unwrap().map(|(_, found)| found).unwrap_or_default();
        assert!(found.iter().all(|partition| partition.start_bytes < disk.len() as u64));
    }
    // An extended partition whose table names itself.
    let mut disk = vec![0; 64 << 10];
    for table in [0, 512] {
        disk[table + 510..table + 512].copy_from_slice(&[0x55, 0xaa]);
        disk[table + 446 + 4] = if table == 0 { 5 } else { 0x83 };
        disk[table + 446 + 8] = 1;
        disk[table + 446 + 12] = 1;
    }
    disk[512 + 462 + 4] = 5;
    disk[512 + 462 + 8] = 0;
    disk[512 + 462 + 12] = 1;
    assert_eq!(partitions(&disk).unwrap().unwrap().1.len(), 1);
    disk[512 + 462 + 9] = 0;
    disk[512 + 462 + 8] = 1;
    assert!(partitions(&disk).unwrap().unwrap().1.len() <= 124);
}

#[test]
fn what_is_no_file_system_for_us_is_named() {
    let check = |offset: usize, mark: &[u8], expected| {
        let mut disk = vec![0; 128 << 10];
        disk[offset..offset + mark.len()].copy_from_slice(mark);
        assert_eq!(probe(&disk).unwrap(), expected);
        let message = levee_image::open_file_system(std::sync::Arc::new(disk)).err().unwrap().to_string();
        assert!(message.contains("restore the image"), "{message}");
    };
    check(512, b"LABELONE", Contents::Lvm);
    check(0, b"LUKS\xba\xbe", Contents::Luks);
    check(4096 - 10, b"SWAPSPACE2", Contents::Swap);
    check(0x10040, b"_BHRfS_M", Contents::Btrfs);
    check(3, b"NTFS    ", Contents::Ntfs);
    check(0, b"", Contents::Unknown);
}
