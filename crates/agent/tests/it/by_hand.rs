//! What an operator has restored by hand is taken over by the run, and is the app's from then on.

use std::fs;

use levee_model::Epoch;
use levee_model::control::{Action, Command, Desired, Done, Peer, Phase, Place, Role};
use levee_wire::FromServer;

use crate::fencing::{assignment_of, phase, shop};
use crate::server::{Levee, Running, answer, desired, options, send, status};
use crate::working::{peer, started};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_restored_by_hand_is_started_as_if_it_had_been_rebuilt() {
    let levee = Levee::new();
    let server = levee.serve("127.0.0.1:0").await;
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let documents = data.path().join("documents");
    let file = format!(
        "[app.shop]\nhome = \"east\"\nrecovery = \"west\"\n[app.shop.files.documents]\nevery = \"60s\"\n\
         at.east.path = {documents:?}\nat.west.path = \"/nowhere/at/all\"\n"
    );
    let (east, mut link) = started(&levee, &server, folder.path(), "e1", "east").await;
    let at_east = peer(&east, "e1", "east");
    let nobody = Peer { agent: "w1".parse().unwrap(), site: "west".parse().unwrap(), ..at_east.clone() };
    let writes = assignment_of(&levee, &file, &at_east, &nobody, Role::Writer, 1);
    send(&link, Desired { assignments: vec![writes], ..desired(1) }).await;
    status(&mut link, |status| phase(status) == Some(Phase::Writer)).await;
    east.stop().await;

    // A run has brought the app here, and has rebuilt nothing.
    let state = folder.path().join("apps/shop/state.json");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replace("\"writer\"", "\"sealed\"").replace("\"live\"", "\"absent\"")).unwrap();
    let east = Running::start(&options(folder.path())).await;
    let (_, mut link) = levee.next_link().await;
    status(&mut link, |status| phase(status) == Some(Phase::Sealed)).await;
    let mut attempt = 0;
    let mut start = |by_hand: bool| {
        attempt += 1;
        let action = Action::Start { asset: "documents".parse().unwrap(), place: Place::Live, by_hand };
        let (id, run) = (format!("c{attempt}"), "run-1".parse().unwrap());
        Command { id, run, app: shop(), epoch: Epoch(1), revision: 0, action }
    };
    for (by_hand, words) in [(false, "nothing of this asset has been rebuilt here"), (true, "put its data there")] {
        let command = start(by_hand);
        let id = command.id.clone();
        link.outgoing.send(FromServer::Command(command)).await.unwrap();
        let refused = answer(&mut link, &id).await.result.unwrap_err();
        assert!(refused.message.contains(words), "{refused:?}");
    }
    fs::create_dir(&documents).unwrap();
    let command = start(true);
    let id = command.id.clone();
    link.outgoing.send(FromServer::Command(command)).await.unwrap();
    let started = answer(&mut link, &id).await.result.unwrap();
    assert!(matches!(started, Done::Started { .. }), "{started:?}");
    // From now on it is written, and so protected, here.
    status(&mut link, |status| phase(status) == Some(Phase::Writer)).await;
    east.stop().await;
}
