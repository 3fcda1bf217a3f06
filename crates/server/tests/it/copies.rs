//! In how many different places the data are, further vaults among them.

use jiff::SignedDuration;
use levee_api::{AssetView, Change, Health};
use levee_model::protection::ProtectionFile;

use crate::fixture::{SHOP, TestServer, eventually, options};
use crate::protect::two_sites;

/// The shop in three regions, the third of them a vault's. All are in one zone, and the vault is another provider's.
fn file(within: &str) -> ProtectionFile {
    let shop = "recovery = \"west\"\ncopy_to = [\"far\"]\ncopies = { regions = 3, hosts = 3, disks = 3 }\n";
    let places = format!(
        "[site.east]\nregion = \"a\"\nfault_domain = \"room 1\"\nzone = \"z\"\nprovider = \"own\"\n\
         [site.west]\nregion = \"b\"\nfault_domain = \"room 2\"\nzone = \"z\"\nprovider = \"own\"\n\
         [vault.far]\naddress = \"s3:https://s3.north.example/x\"\nregion = \"c\"\nhost = \"s3.north\"\n\
         fault_domain = \"rack 3\"\nzone = \"z\"\nprovider = \"north\"\nwithin = \"{within}\"\n"
    );
    ProtectionFile::parse(&(SHOP.replace("recovery = \"west\"\n", shop) + &places)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_vault_counts_as_long_as_its_copy_is_not_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (east, west) = two_sites(&server).await;
    let report = server.control.apply(&server.caller, file("1h"), false).await.unwrap();
    assert_eq!(report.vaults, ["far".parse().unwrap()]);
    assert_eq!(server.control.apply(&server.caller, file("1h"), false).await.unwrap().vaults, []);
    let _sessions = [east.run(), west.run()];
    let documents = || async {
        let status = server.control.status().await.unwrap();
        (status.health, status.apps[0].assets.iter().find(|asset| asset.asset.as_str() == "documents").unwrap().clone())
    };
    let copies_of =
        |asset: &AssetView| (asset.copies.copies, asset.copies.regions, asset.copies.hosts, asset.copies.disks);
    let others_of = |asset: &AssetView| (asset.copies.fault_domains, asset.copies.zones, asset.copies.providers);
    eventually("it is protected", || async { documents().await.1.protected }).await;
    // The agents are told where the vault is.
    let told = west.memory.lock().unwrap().desired.assignments[0].vaults.clone();
    assert_eq!(told, file("1h").vault);

    let (health, asset) = documents().await;
    assert_eq!((copies_of(&asset), health), ((2, 2, 2, 2), Health::Degraded));
    assert_eq!(others_of(&asset), (2, 1, 1));
    assert!(asset.problems.iter().any(|problem| problem.contains("2 of 3 regions")), "{:?}", asset.problems);
    let far = "far".parse().unwrap();
    assert_eq!((asset.vaults[&far].as_of, asset.vaults[&far].counts), (None, false));

    let copied = |seconds: i64| {
        west.memory.lock().unwrap().vaults.insert("far".parse().unwrap(), SignedDuration::from_secs(seconds));
    };
    copied(600);
    eventually("the vault counts", || async { copies_of(&documents().await.1) == (3, 3, 3, 3) }).await;
    let (health, asset) = documents().await;
    assert_eq!((asset.problems.as_slice(), health), (&[] as &[String], Health::Protected));
    assert_eq!(others_of(&asset), (3, 1, 2));
    assert!((599.0..660.0).contains(&asset.vaults[&far].age_s.unwrap()), "{:?}", asset.vaults);

    copied(2 * 3600);
    eventually("it counts no more", || async { copies_of(&documents().await.1) == (2, 2, 2, 2) }).await;
    let (health, asset) = documents().await;
    assert_eq!((others_of(&asset), health), ((2, 1, 1), Health::Degraded));
    let said = asset.problems.join("; ");
    assert!(said.contains("the copy in vault far is of") && said.contains("older than 1h (within)"), "{said}");

    // Where nothing newer has come to the recovery site either, nothing is behind.
    west.memory.lock().unwrap().behind = SignedDuration::from_secs(3 * 3600);
    eventually("it counts again", || async { copies_of(&documents().await.1) == (3, 3, 3, 3) }).await;
    west.memory.lock().unwrap().behind = SignedDuration::ZERO;

    // A vault that allows for more, and one that is another place.
    let changed = server.control.apply(&server.caller, file("3h"), false).await.unwrap();
    assert_eq!((changed.apps[0].change, changed.vaults.len()), (Change::Unchanged, 1));
    eventually("it counts again", || async { copies_of(&documents().await.1) == (3, 3, 3, 3) }).await;
    eventually("the agent knows it", || async {
        west.memory.lock().unwrap().desired.assignments[0].vaults == file("3h").vault
    })
    .await;
    server.stop().await;
}
