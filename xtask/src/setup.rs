//! Installing what is missing, from the distribution.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use levee_testing::postgres::{Binaries, Version};
use levee_testing::{apt, azurite, gcs, is_offline, restic, tools, users};

/// What the programs are wanted for. Each needs what the ones before it need too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    Demo,
    Tests,
    /// The peers that Levee is measured beside.
    Benchmarks,
}

/// A package, and how its presence is seen.
struct Wanted {
    package: &'static str,
    needed_by: Needs,
    is_there: fn() -> bool,
}

const WANTED: [Wanted; 23] = [
    // For jemalloc.
    Wanted { package: "make", needed_by: Needs::Demo, is_there: || tools::find("make").is_some() },
    Wanted { package: "postgresql", needed_by: Needs::Demo, is_there: || Binaries::installed().is_some() },
    Wanted { package: "restic", needed_by: Needs::Tests, is_there: || tools::find("restic").is_some() },
    Wanted { package: "age", needed_by: Needs::Tests, is_there: || tools::find("age").is_some() },
    Wanted { package: "zstd", needed_by: Needs::Tests, is_there: || tools::find("zstd").is_some() },
    Wanted { package: "curl", needed_by: Needs::Tests, is_there: || tools::find("curl").is_some() },
    Wanted { package: "openssl", needed_by: Needs::Tests, is_there: || tools::find("openssl").is_some() },
    Wanted { package: "iproute2", needed_by: Needs::Tests, is_there: || tools::find("ip").is_some() },
    Wanted { package: "nftables", needed_by: Needs::Tests, is_there: || tools::find("nft").is_some() },
    Wanted { package: "libfaketime", needed_by: Needs::Tests, is_there: || tools::find_faketime().is_some() },
    Wanted { package: "npm", needed_by: Needs::Tests, is_there: || is_offline() || tools::find("npm").is_some() },
    // Stores of vaults: SFTP, WebDAV, S3, Google Cloud Storage (Azure's comes by npm).
    Wanted { package: "openssh-server", needed_by: Needs::Tests, is_there: || tools::find("sshd").is_some() },
    Wanted { package: "nginx-light", needed_by: Needs::Tests, is_there: || tools::find("nginx").is_some() },
    Wanted {
        package: "libnginx-mod-http-dav-ext",
        needed_by: Needs::Tests,
        is_there: || Path::new(levee_testing::webdav::MODULE).exists(),
    },
    Wanted { package: "ceph-mon", needed_by: Needs::Tests, is_there: || tools::find("ceph-mon").is_some() },
    Wanted { package: "ceph-osd", needed_by: Needs::Tests, is_there: || tools::find("ceph-osd").is_some() },
    Wanted { package: "radosgw", needed_by: Needs::Tests, is_there: || tools::find("radosgw").is_some() },
    Wanted { package: "python3-venv", needed_by: Needs::Tests, is_there: || is_offline() || gcs::has_venv() },
    // Disk images.
    Wanted { package: "qemu-utils", needed_by: Needs::Tests, is_there: || tools::find("qemu-img").is_some() },
    Wanted { package: "xfsprogs", needed_by: Needs::Tests, is_there: || tools::find("mkfs.xfs").is_some() },
    Wanted { package: "e2fsprogs", needed_by: Needs::Tests, is_there: || tools::find("mke2fs").is_some() },
    Wanted { package: "fdisk", needed_by: Needs::Tests, is_there: || tools::find("sfdisk").is_some() },
    Wanted { package: "borgbackup", needed_by: Needs::Benchmarks, is_there: || tools::find("borg").is_some() },
];

/// Installs what is missing. Says nothing where everything is there.
pub fn set_up(needs: Needs) -> Result<()> {
    let missing: Vec<&str> = WANTED
        .iter()
        .filter(|wanted| wanted.needed_by <= needs && !(wanted.is_there)())
        .map(|wanted| wanted.package)
        .collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    if needs >= Needs::Tests && !is_offline() {
        let hint = |message: String| {
            anyhow!("{message}\nWithout a network, set {}=1 to test without it.", levee_testing::OFFLINE_VARIABLE)
        };
        restic::install_newest().map_err(hint)?;
        azurite::install().map_err(hint)?;
        gcs::install().map_err(hint)?;
        for version in Version::ALL {
            version.install().map_err(hint)?;
        }
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !apt::is_available() {
        bail!("missing: {list}. This machine has no apt-get; install them by hand.");
    }
    if !users::is_root() {
        bail!("missing: {list}. Run `apt-get install {list}` as root.");
    }
    eprintln!("installing from the distribution: {list}");
    apt::install(packages).map_err(|message| anyhow!(message))
}
