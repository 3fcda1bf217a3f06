use levee_api::{Change, Health};
use levee_model::control::Role;
use levee_model::protection::ProtectionFile;
use levee_server::{Server, ServerError};

use crate::agent::Agent;
use crate::fixture::{SHOP, TestServer, eventually, options, shop};

pub async fn two_sites(server: &TestServer) -> (Agent, Agent) {
    let east = Agent::join(&server.join_token("east").await, "east-1", "east").await.unwrap();
    let west = Agent::join(&server.join_token("west").await, "west-1", "west").await.unwrap();
    (east, west)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_protected_from_joining_to_its_status() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (control, caller) = (&server.control, &server.caller);
    let error = control.apply(caller, shop(), false).await.unwrap_err();
    assert!(matches!(error, ServerError::UnknownSiteInFile { .. }), "{error}");

    let (east, west) = two_sites(&server).await;
    let dry = control.apply(caller, shop(), true).await.unwrap();
    assert_eq!(dry.apps[0].change, Change::Created);
    assert!(control.apps().await.unwrap().is_empty(), "a dry run changes nothing");
    control.apply(caller, shop(), false).await.unwrap();
    assert_eq!(control.apply(caller, shop(), false).await.unwrap().apps[0].change, Change::Unchanged);
    let status = control.status().await.unwrap();
    assert_eq!((status.health, status.apps[0].assets[0].protected), (Health::Unprotected, false));

    let _sessions = [east.run(), west.run()];
    eventually("both know their role", || async {
        east.has_grants("shop", Role::Writer, 1) && west.has_grants("shop", Role::Recovery, 1)
    })
    .await;
    eventually("the app is protected", || async { control.status().await.unwrap().health == Health::Protected }).await;
    let status = control.app_status(&"shop".parse().unwrap()).await.unwrap();
    let orders = &status.assets[0];
    assert_eq!((orders.log_behind_bytes, orders.age_s.unwrap() < 5.0), (Some(200), true));
    // They tell each other's addresses as soon as they are known.
    eventually("each knows the other's address", || async {
        [&east, &west].iter().all(|agent| agent.memory.lock().unwrap().desired.assignments[0].peer.is_some())
    })
    .await;
    let entries = east.memory.lock().unwrap().desired.entries.clone();
    assert_eq!((entries[0].site.as_str(), entries[0].address.unwrap().to_string()), ("east", "127.0.0.2".into()));

    west.memory.lock().unwrap().clock_ahead_s = 3600;
    eventually("the wrong clock is named", || async {
        let agents = control.agents().await.unwrap();
        agents.iter().any(|agent| agent.problems.iter().any(|problem| problem.contains("s ahead of the server's")))
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_changed_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    two_sites(&server).await;
    server.control.apply(&server.caller, shop(), false).await.unwrap();
    let swapped = SHOP.replace("home = \"east\"", "home = \"x\"").replace("recovery = \"west\"", "recovery = \"east\"");
    let swapped = ProtectionFile::parse(&swapped.replace("home = \"x\"", "home = \"west\"")).unwrap();
    let error = server.control.apply(&server.caller, swapped, false).await.unwrap_err();
    assert_eq!(error.code(), "sites_changed", "{error}");
    let unknown = ProtectionFile::parse(&SHOP.replace("shop", "other").replace("west", "north")).unwrap();
    let error = server.control.apply(&server.caller, unknown, false).await.unwrap_err();
    assert_eq!(error.code(), "unknown_site", "{error}");
    let other_kind = SHOP.replace("files.documents", "files.orders2").replace("postgres.orders", "postgres.documents");
    let other_kind = ProtectionFile::parse(&other_kind).unwrap();
    let error = server.control.apply(&server.caller, other_kind, false).await.unwrap_err();
    assert_eq!(error.code(), "kind_changed", "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_belongs_to_one_app_and_a_folder_to_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    two_sites(&server).await;
    server.control.apply(&server.caller, shop(), false).await.unwrap();
    let other = ProtectionFile::parse(&SHOP.replace("app.shop", "app.other")).unwrap();
    let error = server.control.apply(&server.caller, other, false).await.unwrap_err();
    assert_eq!(error.code(), "entry_taken", "{error}");
    let Err(error) = Server::start(options(folder.path())).await else { panic!("two servers in one folder") };
    assert_eq!(error.code(), "folder_in_use", "{error}");
    server.stop().await;
}
