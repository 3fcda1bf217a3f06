//! What an operator has accepted is shown, and the app is well all the same.

use levee_api::Health;

use crate::fixture::{TestServer, eventually, options, shop};
use crate::protect::two_sites;

#[tokio::test(flavor = "multi_thread")]
async fn a_note_is_shown_and_degrades_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(options(folder.path())).await;
    let (east, west) = two_sites(&server).await;
    west.memory.lock().unwrap().notes = vec!["accepted: another C library".into()];
    server.control.apply(&server.caller, shop(), false).await.unwrap();
    let _sessions = [east.run(), west.run()];
    let is_well = || async { server.control.status().await.unwrap().health == Health::Protected };
    eventually("it is well", is_well).await;
    let status = server.control.status().await.unwrap();
    for asset in &status.apps[0].assets {
        assert_eq!(asset.notes, ["west: accepted: another C library"]);
        assert_eq!(asset.problems, [""; 0]);
    }
    server.stop().await;
}
