//! Installing what is missing, from the distribution.

use anyhow::{Result, anyhow, bail};
use levee_testing::postgres::Binaries;
use levee_testing::{apt, is_offline, postgres, restic, tools, users};

/// What the programs are wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Demo,
    Tests,
}

/// A package, and how its presence is seen.
struct Wanted {
    package: &'static str,
    for_demo: bool,
    is_there: fn() -> bool,
}

const WANTED: [Wanted; 6] = [
    Wanted { package: "postgresql", for_demo: true, is_there: || Binaries::installed().is_some() },
    Wanted { package: "restic", for_demo: false, is_there: || tools::find("restic").is_some() },
    Wanted { package: "age", for_demo: false, is_there: || tools::find("age").is_some() },
    Wanted { package: "zstd", for_demo: false, is_there: || tools::find("zstd").is_some() },
    Wanted { package: "iproute2", for_demo: false, is_there: || tools::find("ip").is_some() },
    Wanted { package: "nftables", for_demo: false, is_there: || tools::find("nft").is_some() },
];

/// Installs what is missing. Says nothing where everything is there.
pub fn set_up(needs: Needs) -> Result<()> {
    let missing: Vec<&str> = WANTED
        .iter()
        .filter(|wanted| (needs == Needs::Tests || wanted.for_demo) && !(wanted.is_there)())
        .map(|wanted| wanted.package)
        .collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    if needs == Needs::Tests && !is_offline() {
        let hint = |message: String| {
            anyhow!("{message}\nWithout a network, set {}=1 to test without it.", levee_testing::OFFLINE_VARIABLE)
        };
        restic::install_newest().map_err(hint)?;
        postgres::install_private().map_err(hint)?;
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
