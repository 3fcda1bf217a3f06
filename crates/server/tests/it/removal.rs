use levee_model::control::EntryRecord;
use levee_model::protection::ProtectionFile;
use levee_plan::PlanKind;

use crate::agent::Agent;
use crate::fixture::{SHOP, TestServer, eventually, options, shop};
use crate::protect::two_sites;

fn entries(agent: &Agent) -> Vec<EntryRecord> {
    agent.memory.lock().unwrap().desired.entries.clone()
}

fn name_and_address(record: &EntryRecord) -> (String, u64, u64, Option<String>) {
    (record.name.clone(), record.epoch.0, record.version, record.address.map(|address| address.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_removed_and_can_be_protected_anew() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (control, caller) = (&server.control, &server.caller);
    let (east, west) = two_sites(&server).await;
    let app = "shop".parse().unwrap();
    let zero_loss = SHOP.replace(
        "[app.shop.postgres.orders.at]",
        "[app.shop.postgres.orders]\nzero_loss = true\n[app.shop.postgres.orders.at]",
    );
    control.apply(caller, ProtectionFile::parse(&zero_loss).unwrap(), false).await.unwrap();
    let error = control.app_remove(caller, &app, &app).await.unwrap_err();
    assert_eq!(error.code(), "commits_wait", "{error}");
    control.apply(caller, shop(), false).await.unwrap();
    let error = control.app_remove(caller, &app, &"shopp".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.code(), "not_confirmed", "{error}");
    let error = control.app_remove(&server.reader(), &app, &app).await.unwrap_err();
    assert_eq!(error.code(), "read_only_token", "{error}");

    // Not while a run is under way.
    west.memory.lock().unwrap().hanging.insert("choose");
    let _sessions = [east.run(), west.run()];
    eventually("the app is protected", || async {
        control.status().await.unwrap().apps[0].assets.iter().all(|asset| asset.protected)
    })
    .await;
    let run = control
        .create_run(caller, levee_api::RunOrder::New(server.request(PlanKind::Drill, Some("west"), false)))
        .await
        .unwrap();
    let error = control.app_remove(caller, &app, &app).await.unwrap_err();
    assert_eq!(error.code(), "app_busy", "{error}");
    control.run_abort(caller, &run.id).await.unwrap();
    server.ended(&run).await;

    let removal = control.app_remove(caller, &app, &app).await.unwrap();
    assert!(removal.unconfirmed.is_empty(), "{removal:?}");
    assert_eq!((removal.writer.as_str(), removal.epoch.0, removal.remains.len()), ("east", 2, 4));
    let in_use: Vec<String> =
        removal.remains.iter().filter(|r| r.in_use).map(|r| r.path.display().to_string()).collect();
    assert_eq!(in_use, ["/srv/east/pg", "/srv/east/documents"]);
    assert_eq!(control.app_status(&app).await.unwrap_err().code(), "unknown_app");
    for agent in [&east, &west] {
        assert!(agent.memory.lock().unwrap().desired.assignments.is_empty());
        let records = entries(agent);
        assert_eq!(
            records.iter().map(name_and_address).collect::<Vec<_>>(),
            [("shop.example.test.".into(), 2, 0, None)]
        );
        assert!(!records[0].signature.is_empty());
    }

    // Its name is free for another app, and it may itself come back, above every epoch that agents remember.
    let other = ProtectionFile::parse(&SHOP.replace("app.shop", "app.other")).unwrap();
    control.apply(caller, other, true).await.unwrap();
    control.apply(caller, shop(), false).await.unwrap();
    assert_eq!(control.app(&app).await.unwrap().epoch.0, 3);
    eventually("both are told", || async { entries(&west).len() == 2 && entries(&east).len() == 2 }).await;
    let last = entries(&west).pop().unwrap();
    assert_eq!(name_and_address(&last), ("shop.example.test.".into(), 3, 0, Some("127.0.0.2".into())));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_out_of_the_file_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (control, caller) = (&server.control, &server.caller);
    let (east, west) = two_sites(&server).await;
    control.apply(caller, shop(), false).await.unwrap();
    let _sessions = [east.run(), west.run()];
    let told = |expected: Vec<(&'static str, u64, u64, Option<&'static str>)>| {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(name, epoch, version, address)| (name.to_string(), epoch, version, address.map(str::to_string)))
            .collect();
        let east = east.clone();
        eventually("the records that are wanted", move || {
            let records: Vec<_> = entries(&east).iter().map(name_and_address).collect();
            let is_so = records == expected;
            async move { is_so }
        })
    };
    told(vec![("shop.example.test.", 1, 0, Some("127.0.0.2"))]).await;
    let renamed = SHOP.replace("shop.example.test", "store.example.test");
    control.apply(caller, ProtectionFile::parse(&renamed).unwrap(), false).await.unwrap();
    told(vec![("shop.example.test.", 1, 1, None), ("store.example.test.", 1, 1, Some("127.0.0.2"))]).await;
    let shown = control.app_status(&"shop".parse().unwrap()).await.unwrap().entries;
    assert_eq!(shown.len(), 1, "what was given up is not shown: {shown:?}");
    // And back, with what the nodes hold as given up made to answer again.
    control.apply(caller, shop(), false).await.unwrap();
    told(vec![("store.example.test.", 1, 2, None), ("shop.example.test.", 1, 2, Some("127.0.0.2"))]).await;
    server.stop().await;
}
