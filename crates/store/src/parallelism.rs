//! How many requests serve a store best at once.
//!
//! Over a network, and on a disk without moving parts, several requests at once fill what one would leave idle while
//! it waits. A head that moves is only sent back and forth by them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Requests that are under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallelism {
    pub readers: usize,
    pub writers: usize,
    /// Whether a request waits so long that more threads than cores are worth their memory.
    pub waits_long: bool,
}

impl Parallelism {
    /// A disk that turns.
    pub const SPINNING: Self = Self { readers: 1, writers: 1, waits_long: false };
    /// A disk that does not, as far as is known.
    pub const SOLID: Self = Self { readers: 8, writers: 2, waits_long: false };
    /// Another machine; restic has five connections to one by default. Each writer holds a pack of 16 MiB.
    pub const NETWORK: Self = Self { readers: 8, writers: 5, waits_long: true };

    /// What suits the disk that a local path lies on; the path may not be there yet.
    pub fn of_path(path: &Path) -> Self {
        let Some(there) = path.ancestors().find(|path| path.exists()) else { return Self::SOLID };
        if rustix::fs::statfs(there).is_ok_and(|found| is_network(found.f_type as u64)) {
            return Self::NETWORK;
        }
        let Ok(metadata) = fs::metadata(there) else { return Self::SOLID };
        let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
        match is_spinning(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}")), 0) {
            true => Self::SPINNING,
            false => Self::SOLID,
        }
    }
}

/// The numbers by which file systems say what they are. Source: statfs(2) and the kernel's `magic.h`.
fn is_network(magic: u64) -> bool {
    const NFS: u64 = 0x6969;
    const SMB: u64 = 0x517b;
    const SMB2: u64 = 0xfe53_4d42;
    const CIFS: u64 = 0xff53_4d42;
    const FUSE: u64 = 0x6573_5546;
    const CEPH: u64 = 0x00c3_6400;
    const PLAN9: u64 = 0x0102_1997;
    // Some have the highest bit set, which a signed field carries on.
    [NFS, SMB, SMB2, CIFS, FUSE, CEPH, PLAN9].contains(&(magic & 0xffff_ffff))
}

/// What hypervisors call the disks that they show: they say that they turn, whatever lies below.
const VIRTUAL_VENDORS: [&str; 5] = ["QEMU", "VMware", "Msft", "Google", "VBOX"];
/// Volumes upon volumes; deeper is a loop.
const LAYERS_MAX: u32 = 8;

/// Whether a block device, or one below it, has a head that moves. Without a word from the kernel it has none.
fn is_spinning(device: &Path, layer: u32) -> bool {
    let Ok(device) = device.canonicalize() else { return false };
    if device.join("partition").exists() {
        return device.parent().is_some_and(|disk| is_spinning(disk, layer));
    }
    let mut below = fs::read_dir(device.join("slaves")).into_iter().flatten().flatten().peekable();
    if below.peek().is_some() {
        return layer < LAYERS_MAX && below.any(|slave| is_spinning(&slave.path(), layer + 1));
    }
    let says = |file: &str| fs::read_to_string(device.join(file)).unwrap_or_default();
    let is_virtual = device.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        part.starts_with("virtio") || part.starts_with("vbd-") || part == "virtual"
    });
    let vendor = says("device/vendor");
    says("queue/rotational").trim() == "1" && !is_virtual && !VIRTUAL_VENDORS.contains(&vendor.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Bandwidth;
    use crate::local::LimitedFolder;
    use crate::{Entry, FileType, LocalStore, Result, RetryPolicy, RetryStore, Store};

    /// A store on a disk that turns, of which nothing else is asked.
    struct Turning;

    impl Store for Turning {
        fn create(&self) -> Result<()> {
            unreachable!()
        }

        fn write(&self, _: FileType, _: &str, _: &[u8]) -> Result<()> {
            unreachable!()
        }

        fn read(&self, _: FileType, _: &str) -> Result<Vec<u8>> {
            unreachable!()
        }

        fn read_range(&self, _: FileType, _: &str, _: u64, _: usize) -> Result<Vec<u8>> {
            unreachable!()
        }

        fn size_bytes(&self, _: FileType, _: &str) -> Result<u64> {
            unreachable!()
        }

        fn list(&self, _: FileType) -> Result<Vec<Entry>> {
            unreachable!()
        }

        fn remove(&self, _: FileType, _: &str) -> Result<()> {
            unreachable!()
        }

        fn parallelism(&self) -> Parallelism {
            Parallelism::SPINNING
        }

        fn location(&self) -> String {
            "turning".into()
        }
    }

    #[test]
    fn stores_around_others_and_folders_say_what_suits_the_disk() {
        assert_eq!(RetryStore::new(Turning, RetryPolicy::default()).parallelism(), Parallelism::SPINNING);
        // A folder of the kernel's own, so that the answer is known: on no network, and with no head that moves.
        let folder = || LocalStore::new("/proc/none");
        assert_eq!(folder().parallelism(), Parallelism::SOLID);
        let limited = LimitedFolder::new(folder(), Bandwidth::default());
        assert_eq!(limited.parallelism(), Parallelism::SOLID);
        assert_eq!(RetryStore::new(limited, RetryPolicy::default()).parallelism(), Parallelism::SOLID);
    }

    /// A device as the kernel shows it.
    fn device(sys: &Path, name: &str, rotational: &str, vendor: &str) -> PathBuf {
        let device = sys.join(name);
        for folder in ["queue", "device", "slaves"] {
            fs::create_dir_all(device.join(folder)).unwrap();
        }
        fs::write(device.join("queue/rotational"), format!("{rotational}\n")).unwrap();
        fs::write(device.join("device/vendor"), format!("{vendor}   \n")).unwrap();
        device
    }

    #[test]
    fn only_real_disks_that_turn_have_a_head_that_moves() {
        let folder = tempfile::tempdir().unwrap();
        let sys = folder.path();
        let check = |name: &str, rotational: &str, vendor: &str, expected: bool| {
            assert_eq!(is_spinning(&device(sys, name, rotational, vendor), 0), expected, "{name}");
        };
        check("ata1/block/sda", "1", "ATA", true);
        check("ata2/block/sdb", "0", "ATA", false);
        check("nvme0/nvme0n1", "0", "", false);
        check("virtio1/block/vda", "1", "", false);
        check("host2/block/sdc", "1", "QEMU", false);
        assert!(!is_spinning(&sys.join("none"), 0));
        // A partition of the first, and a volume on it.
        let partition = sys.join("ata1/block/sda/sda1");
        fs::create_dir_all(&partition).unwrap();
        fs::write(partition.join("partition"), "1\n").unwrap();
        assert!(is_spinning(&partition, 0));
        let volume = device(sys, "block/dm-0", "1", "");
        std::os::unix::fs::symlink(&partition, volume.join("slaves/sda1")).unwrap();
        assert!(is_spinning(&volume, 0));
        let on_virtual = device(sys, "block/dm-1", "1", "");
        std::os::unix::fs::symlink(sys.join("virtio1/block/vda"), on_virtual.join("slaves/vda")).unwrap();
        assert!(!is_spinning(&on_virtual, 0));
        // A loop of volumes ends.
        let odd = device(sys, "block/dm-2", "1", "");
        std::os::unix::fs::symlink(&odd, odd.join("slaves/dm-2")).unwrap();
        assert!(!is_spinning(&odd, 0));
    }

    #[test]
    fn a_path_that_is_not_there_yet_is_on_the_disk_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let here = Parallelism::of_path(folder.path());
        assert_eq!(Parallelism::of_path(&folder.path().join("not/there")), here);
        assert!(is_network(0x6969) && is_network(0xffff_ffff_fe53_4d42) && !is_network(0xef53));
    }
}
