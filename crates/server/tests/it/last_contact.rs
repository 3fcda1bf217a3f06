//! What is still said of copies whose agent is away, also by a server that was started meanwhile.

use std::time::Duration;

use jiff::SignedDuration;
use levee_api::{AssetView, Health};
use levee_model::VaultName;
use levee_model::protection::ProtectionFile;
use levee_plan::PlanKind;

use crate::fixture::{SHOP, TestServer, eventually, options};
use crate::protect::two_sites;

const DOCUMENTS: &str = "[app.shop.files.documents]\nevery = \"5s\"\nat.east.path = \"/srv/east/documents\"\n\
                         at.west.path = \"/srv/west/documents\"\n";

/// The shop with a further vault.
fn text() -> String {
    let text = SHOP.replace("recovery = \"west\"\n", "recovery = \"west\"\ncopy_to = [\"far\"]\n")
        + "[vault.far]\naddress = \"s3:https://s3.north.example/x\"\nwithin = \"1h\"\n";
    assert!(text.contains(DOCUMENTS) && text.contains("copy_to"), "{text}");
    text
}

async fn apply(server: &TestServer, text: &str) {
    server.control.apply(&server.caller, ProtectionFile::parse(text).unwrap(), false).await.unwrap();
}

async fn asset(server: &TestServer, name: &str) -> AssetView {
    let status = server.control.status().await.unwrap();
    status.apps[0].assets.iter().find(|asset| asset.asset.as_str() == name).unwrap().clone()
}

/// Why nothing can be moved to west.
async fn refusal(server: &TestServer) -> &'static str {
    server.control.plan_only(&server.caller, server.request(PlanKind::Drill, None, false)).await.unwrap_err().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_named_as_of_the_last_contact_after_a_restart_and_count_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (east, west) = two_sites(&server).await;
    apply(&server, &text()).await;
    let far: VaultName = "far".parse().unwrap();
    west.memory.lock().unwrap().verified = true;
    west.memory.lock().unwrap().vaults.insert(far.clone(), SignedDuration::from_secs(600));
    let (_east, session) = (east.run(), west.run());
    for name in ["orders", "documents"] {
        eventually("it is protected", || async {
            let asset = asset(&server, name).await;
            asset.protected && asset.last_verified.is_some() && asset.vaults[&far].counts
        })
        .await;
    }
    assert_eq!(asset(&server, "orders").await.last_contact, None);

    // A server that has heard west itself goes on by that.
    session.abort();
    eventually("west is away", || async { asset(&server, "orders").await.last_contact.is_some() }).await;
    let before = asset(&server, "orders").await;
    assert!(before.protected && before.last_good.is_some() && before.last_verified.is_some(), "{before:#?}");
    let refused = refusal(&server).await;

    let mut again = options(folder.path());
    again.wire_listen = server.listening.wire;
    server.stop().await;
    let server = TestServer::start(again).await;
    for name in ["orders", "documents"] {
        let kept = asset(&server, name).await;
        let (good, verified) = (kept.last_good.clone().unwrap(), kept.last_verified.clone().unwrap());
        assert!(good.as_of > verified.as_of && verified.at.is_some(), "{kept:#?}");
        assert_eq!((kept.as_of, kept.position.as_ref()), (Some(good.as_of), Some(&good.position)));
        assert!(kept.last_contact.as_ref().is_some_and(|contact| contact.age_s < 600.0), "{kept:#?}");
        let copy = &kept.vaults[&far];
        assert!(copy.age_s.is_some_and(|age_s| age_s >= 600.0), "{copy:?}");
        assert_eq!((kept.protected, kept.copies.copies, copy.counts), (false, 1, false), "{kept:#?}");
        let age_s = kept.age_s.unwrap();
        eventually("its age grows", || async { asset(&server, name).await.age_s.unwrap() > age_s }).await;
    }
    let status = server.control.status().await.unwrap();
    assert_eq!((status.health, status.apps[0].meets_objective), (Health::Unprotected, None));
    assert!(status.apps[0].recovery_point_age_s.is_some());
    let agent = status.agents.iter().find(|agent| agent.agent == west.id).unwrap();
    assert!(!agent.connected && agent.last_seen.is_some(), "{agent:?}");
    assert_eq!(refusal(&server).await, refused);

    // It goes with the asset, which the server looks for once a second.
    apply(&server, &text().replace(DOCUMENTS, "")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    apply(&server, &text()).await;
    let (orders, documents) = (asset(&server, "orders").await, asset(&server, "documents").await);
    assert!(documents.last_contact.is_none() && documents.last_good.is_none(), "{documents:#?}");
    assert!(orders.last_contact.is_some() && orders.last_good.is_some(), "{orders:#?}");

    // The first word of west takes its place, also when it says less.
    west.memory.lock().unwrap().waiting = true;
    west.memory.lock().unwrap().verified = false;
    let _west = west.run();
    eventually("west has spoken", || async {
        let orders = asset(&server, "orders").await;
        orders.last_contact.is_none() && orders.last_good.is_none() && orders.last_verified.is_none()
    })
    .await;
    west.memory.lock().unwrap().waiting = false;
    eventually("it is protected again", || async { asset(&server, "orders").await.protected }).await;
    server.stop().await;
}
