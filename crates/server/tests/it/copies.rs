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

/// What a recovery site said before it went away is no copy for ever.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_recovery_site_that_is_away_count_until_they_are_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (east, west) = two_sites(&server).await;
    let of_two_hours = |mut file: ProtectionFile| {
        file.app.values_mut().next().unwrap().objective.recovery_point = "2h".parse().unwrap();
        file
    };
    server.control.apply(&server.caller, of_two_hours(file("6h")), false).await.unwrap();
    let far = "far".parse().unwrap();
    {
        let mut memory = west.memory.lock().unwrap();
        memory.behind = SignedDuration::from_hours(4);
        memory.vaults.insert(far, SignedDuration::from_hours(4));
    }
    let _east = east.run();
    let session = west.run();
    let documents = || async {
        let status = server.control.status().await.unwrap();
        status.apps[0].assets.iter().find(|asset| asset.asset.as_str() == "documents").unwrap().clone()
    };
    let says = |asset: &AssetView, words: &str| asset.problems.iter().any(|problem| problem.contains(words));
    // Nothing newer has come to the site, which says so itself.
    eventually("all are counted", || async { documents().await.copies.regions == 3 }).await;

    session.abort();
    eventually("the copy at west counts no more", || async { documents().await.copies.regions == 2 }).await;
    let asset = documents().await;
    let (copies, hosts, disks) = (asset.copies.copies, asset.copies.hosts, asset.copies.disks);
    assert_eq!((copies, hosts, disks), (2, 2, 2), "the original, and the vault's within 6h");
    assert!(says(&asset, "2 of 3 regions"), "{:?}", asset.problems);

    // Of the vault nobody knows any more either that it is as new as what the site has.
    server.control.apply(&server.caller, of_two_hours(file("3h")), false).await.unwrap();
    eventually("the vault counts no more", || async { documents().await.copies.copies == 1 }).await;
    assert!(says(&documents().await, "older than 3h (within)"));

    // What may be as old as that counts, without a word from there.
    let mut patient = file("6h");
    patient.app.values_mut().next().unwrap().objective.recovery_point = "6h".parse().unwrap();
    server.control.apply(&server.caller, patient, false).await.unwrap();
    eventually("all are counted again", || async { documents().await.copies.regions == 3 }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_on_one_machine_are_one_host_where_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (east, west) = two_sites(&server).await;
    let _sessions = [east.run(), west.run()];
    let on = |hosts: [&str; 3]| {
        let mut file = file("1h");
        for (site, host) in file.site.values_mut().zip(hosts) {
            site.host = Some(host.to_string()).filter(|host| !host.is_empty());
        }
        file.vault.values_mut().next().unwrap().host = Some(hosts[2].to_string());
        file
    };
    west.memory.lock().unwrap().vaults.insert("far".parse().unwrap(), SignedDuration::from_secs(60));
    let counted = || async {
        let status = server.control.status().await.unwrap();
        let copies = status.apps[0].assets[0].copies;
        (copies.copies, copies.hosts, copies.disks)
    };
    for (hosts, expected) in [
        (["", "", "s3.north"], (3, 3, 3)),
        (["tower", "tower", "s3.north"], (3, 2, 2)),
        (["tower", "tower", "tower"], (3, 1, 1)),
        // Without a word of it a site's host is its agent.
        (["tower", "", west.id.as_str()], (3, 2, 2)),
    ] {
        server.control.apply(&server.caller, on(hosts), false).await.unwrap();
        eventually(&format!("{hosts:?}"), || async { counted().await == expected }).await;
    }
    server.stop().await;
}
