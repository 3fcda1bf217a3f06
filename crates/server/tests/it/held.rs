//! A run's mark on its app that has stayed behind with no run to it.

use std::path::Path;
use std::time::{Duration, Instant};

use levee_api::RunOrder;
use levee_model::control::{KnownApp, Phase};
use levee_model::{AppName, Epoch};
use levee_plan::PlanKind;
use levee_server::ServerError;

use crate::fixture::{PATIENCE, TestServer, eventually, options, shop};
use crate::protect::two_sites;

const RUN: &str = "drill-20261128-101500-0a1b2c";

/// Changes the server's state behind its back.
fn change_state(folder: &Path, statement: &str) {
    let connection = rusqlite::Connection::open(folder.join("server/state.db")).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.execute_batch(statement).unwrap();
}

fn hold(folder: &Path) {
    let columns = "key, value, create_revision, mod_revision";
    let values = format!("'open-run/shop', cast('\"{RUN}\"' as blob), 1, 1");
    change_state(folder, &format!("insert into kv ({columns}) values ({values})"));
}

fn let_go(folder: &Path) {
    change_state(folder, "delete from kv where key = 'open-run/shop'");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_a_lost_run_holds_is_refused_by_name_in_time_and_let_go_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let again = options(folder.path());
    let server = TestServer::start(again.clone()).await;
    let (control, caller) = (&server.control, &server.caller);
    let (east, west) = two_sites(&server).await;
    control.apply(caller, shop(), false).await.unwrap();
    let _sessions = [east.run(), west.run()];
    let app: AppName = "shop".parse().unwrap();
    eventually("the app is protected", || async {
        control.app_status(&app).await.unwrap().assets.iter().all(|asset| asset.protected)
    })
    .await;
    let plan = control.plan_only(caller, server.request(PlanKind::Drill, None, false)).await.unwrap();
    let known = KnownApp { epoch: Epoch(3), phase: Phase::Writer, heard: None, set_aside: Vec::new() };
    west.memory.lock().unwrap().known.insert(app.clone(), known);
    eventually("there is something to adopt", || async {
        let adoptions = control.adopt_epochs(caller, true).await.unwrap().apps;
        adoptions.first().is_some_and(|adoption| adoption.writer.is_some())
    })
    .await;

    hold(folder.path());
    let mut changed = shop();
    changed.app.values_mut().next().unwrap().objective.recovery_point = "1s".parse().unwrap();
    let begun = Instant::now();
    let all = async {
        tokio::join!(
            control.apply(caller, changed.clone(), false),
            control.adopt_epochs(caller, false),
            control.app_remove(caller, &app, &app),
            control.create_run(caller, RunOrder::Plan(plan.id.clone())),
        )
    };
    let refused = tokio::time::timeout(PATIENCE, all).await;
    let lasted = begun.elapsed();
    if refused.is_err() {
        // Whoever still waits for it would hold up the end of this test for ever.
        let_go(folder.path());
    }
    let (applied, adopted, removed, started) = refused.expect("somebody waits without an end");
    let refusals: [ServerError; 4] =
        [applied.unwrap_err(), adopted.unwrap_err(), removed.unwrap_err(), started.unwrap_err()];
    for error in refusals {
        let said = error.to_string();
        assert_eq!(error.code(), "app_held", "{said}");
        assert!(said.contains(RUN) && said.contains("holds shop") && said.contains("restart the server"), "{said}");
    }
    assert!(lasted > Duration::from_secs(1), "a run that is just beginning was not waited for: {lasted:?}");

    server.stop().await;
    let server = TestServer::start(again).await;
    server.control.apply(&server.caller, changed, false).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_waits_for_a_mark_that_goes_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    two_sites(&server).await;
    server.control.apply(&server.caller, shop(), false).await.unwrap();
    hold(folder.path());
    let mut changed = shop();
    changed.app.values_mut().next().unwrap().objective.recovery_point = "1s".parse().unwrap();
    let goes = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let_go(folder.path());
    };
    let (applied, ()) = tokio::join!(server.control.apply(&server.caller, changed, false), goes);
    applied.unwrap();
    server.stop().await;
}
